//! An axum application that receives Sendarix events and prints them.
//!
//! ```sh
//! cargo run --example axum_server
//! ```
//!
//! Standard output has one line an event, `handled TYPE EVENT_ID MESSAGE_ID RECIPIENT`; everything else goes to
//! standard error.

#[path = "shared/serve.rs"]
mod serve;
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
    // From here on it is ready, and says so.
    let secrets = shared::secrets(listener.local_addr()?)?;
    let receiver = Receiver::builder(secrets).dead_letters(dead_letters).build()?;
    let layer = SendarixLayer::new(receiver.clone());
    let app = Router::new().route(shared::PATH, post(on_event).layer(layer));

    serve::until(terminated, listener, app, receiver).await
}
