//! The axum application with a store that survives restarts and that several instances share.
//!
//! Start as many as you like, with `--listen 127.0.0.1:0` for the others. Standard output has one line an event,
//! `handled TYPE EVENT_ID MESSAGE_ID RECIPIENT`; everything else goes to standard error.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use axum::Router;
use axum::routing::post;
use clap::Parser;
use sendarix_webhooks::{HandlerError, Receiver, SendarixEvent, SendarixLayer};
use sendarix_webhooks_system_tests::{application, lease, serve, store::Store};
use tokio::net::TcpListener;

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
    application::print(&event).await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options: Options = application::options();
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("listening on {}", options.listen))?;
    let otherwise = Path::new("shared_store.dead-letters.jsonl");
    let store: Store = options.store.parse()?;
    let letters = store.letters_apart(options.dead_letters.as_deref(), otherwise)?;
    let terminated = application::terminated()?;
    // From here on it is ready, and says so. The store need not be: until it is, deliveries are answered 503.
    let secrets = application::secrets(listener.local_addr()?)?;
    let mut builder = Receiver::builder(secrets).store(store.events());
    if let Some(letters) = letters {
        builder = builder.dead_letters(letters);
    }
    if let Some(seconds) = options.lease {
        builder = lease::set(builder, seconds);
    }
    let receiver = builder.build()?;
    let layer = SendarixLayer::new(receiver.clone());
    let app = Router::new().route(application::PATH, post(on_event).layer(layer));

    serve::until(terminated, listener, app, receiver).await
}
