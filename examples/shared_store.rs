//! The axum application with a store that survives restarts and that several instances share.
//!
//! ```sh
//! cargo run --example shared_store --features sqlite,redis,postgres -- --store sqlite:events.sqlite
//! ```
//!
//! Start as many as you like, with `--listen 127.0.0.1:0` for the others. Standard output has one line an event,
//! `handled TYPE EVENT_ID MESSAGE_ID RECIPIENT`; everything else goes to standard error.

#[path = "shared/lease.rs"]
mod lease;
#[path = "shared/serve.rs"]
mod serve;
mod shared;
#[path = "shared/store.rs"]
mod store;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use axum::Router;
use axum::routing::post;
use clap::Parser;
use sendarix_webhooks::{HandlerError, Receiver, SendarixEvent, SendarixLayer};
use tokio::net::TcpListener;

use self::store::Store;

#[derive(Parser)]
#[command(args_override_self = true, about = "Receives Sendarix events and prints a line for each")]
struct Options {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:3000", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// Where events are remembered: memory, sqlite:PATH, redis://… or postgres://…
    #[arg(long, default_value = "memory")]
    store: String,

    /// The file that keeps events that could not be handled, for this instance alone [default: the store itself]
    #[arg(long, value_name = "PATH")]
    dead_letters: Option<PathBuf>,

    /// How long a crashed process keeps an event from being handled elsewhere, in seconds [default: 60]
    #[arg(long, value_name = "SECONDS")]
    lease: Option<u64>,
}

async fn on_event(event: SendarixEvent) -> Result<(), HandlerError> {
    shared::print(&event).await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options: Options = shared::options();
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("listening on {}", options.listen))?;
    let otherwise = Path::new("shared_store.dead-letters.jsonl");
    let store: Store = options.store.parse()?;
    let letters = store.letters_apart(options.dead_letters.as_deref(), otherwise)?;
    let terminated = shared::terminated()?;
    // From here on it is ready, and says so. The store need not be: until it is, deliveries are answered 503.
    let secrets = shared::secrets(listener.local_addr()?)?;
    let mut builder = Receiver::builder(secrets).store(store.events());
    if let Some(letters) = letters {
        builder = builder.dead_letters(letters);
    }
    if let Some(seconds) = options.lease {
        builder = lease::set(builder, seconds);
    }
    let receiver = builder.build()?;
    let layer = SendarixLayer::new(receiver.clone());
    let app = Router::new().route(shared::PATH, post(on_event).layer(layer));

    serve::until(terminated, listener, app, receiver).await
}
