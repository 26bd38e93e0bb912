//! The axum application as it should stand behind a public address, or behind a proxy that is not trusted to set limits.
//!
//! ```sh
//! cargo run --release --example production_server
//! ```
//!
//! `shared/production.rs` has the limits and their reasons.

#[path = "shared/production.rs"]
mod production;
mod shared;

use anyhow::Context;
use axum::Router;
use axum::routing::post;
use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::{HandlerError, Receiver, SendarixEvent, SendarixLayer};
use tokio::net::TcpListener;

async fn on_event(event: SendarixEvent) -> Result<(), HandlerError> {
    shared::print(&event).await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options: shared::Options = shared::options();
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("listening on {}", options.listen))?;
    let dead_letters = FileDeadLetters::open(&options.dead_letters)?;
    let terminated = shared::terminated()?;
    let secrets = shared::secrets(listener.local_addr()?)?;
    let receiver = Receiver::builder(secrets).dead_letters(dead_letters).build()?;
    let app = Router::new().route(shared::PATH, post(on_event).layer(SendarixLayer::new(receiver.clone())));

    production::serve(terminated, listener, app, receiver).await
}
