//! An axum application that receives Sendarix events and prints them.
//!
//! ```sh
//! cargo run --example axum_server
//! ```
//!
//! Standard output has one line an event, `handled TYPE EVENT_ID MESSAGE_ID RECIPIENT`; everything else goes to
//! standard error.

mod shared;

use std::future::IntoFuture;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::routing::post;
use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::{HandlerError, Receiver, SendarixEvent, SendarixLayer};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

async fn on_event(event: SendarixEvent) -> Result<(), HandlerError> {
    shared::print(&event).await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = shared::options();
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("listening on {}", options.listen))?;
    let dead_letters = FileDeadLetters::open(&options.dead_letters)?;
    let terminated = shared::terminated()?;
    // From here on it is ready, and says so.
    let secrets = shared::secrets(listener.local_addr()?)?;
    let receiver = Receiver::builder(secrets).dead_letters(dead_letters).build()?;
    let layer = SendarixLayer::new(receiver.clone());
    let app = Router::new().route(shared::PATH, post(on_event).layer(layer));

    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        ended = &mut server => ended??,
        () = terminated => {
            // No new connections; then every handler to its end; then a moment for the answers to go out, which a
            // connection that never sends its request must not make longer.
            drop(stop);
            receiver.drain().await;
            drop(tokio::time::timeout(Duration::from_secs(1), server).await);
        }
    }
    // Rather than wait for a line that nobody reads.
    std::process::exit(0)
}
