//! An axum application that receives Sendarix events and prints them.
//!
//! ```sh
//! SENDARIX_WEBHOOK_SECRET=try-it-out cargo run --package axum-example
//! ```
//!
//! It prints a `curl` command that sends a first event. Run that command in another terminal: it is answered 200, and the
//! application prints `delivered: msg_… to user@example.com`. Run it again: the copy is answered 200, and not handled.

use std::time::Duration;

use axum::{Router, routing::post};
use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::testing::{Sample, curl};
use sendarix_webhooks::{EventKind, EventType, HandlerError, Receiver, SendarixEvent, SendarixLayer, SigningSecrets};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

async fn on_event(event: SendarixEvent) -> Result<(), HandlerError> {
    match &event.kind {
        EventKind::Delivered(_) => println!("delivered: {} to {}", event.message_id, event.recipient),
        EventKind::Bounce(bounce) if bounce.is_permanent() => println!("never mail {} again", event.recipient),
        _ => println!("{}: {} to {}", event.type_name(), event.message_id, event.recipient),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The crate logs through `tracing`: see `examples/production` for a subscriber.
    let secrets = SigningSecrets::from_env()?; // SENDARIX_WEBHOOK_SECRET
    let receiver = Receiver::builder(secrets.clone())
        .dead_letters(FileDeadLetters::open("axum-example.dead-letters.jsonl")?)
        .build()?;
    let layer = SendarixLayer::new(receiver.clone());
    let app = Router::new().route("/webhooks/sendarix", post(on_event).layer(layer));

    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&address).await?;
    let url = format!("http://{}/webhooks/sendarix", listener.local_addr()?);
    println!("listening on {url}\n\n    {}\n", curl(&secrets, &url, &Sample::new(EventType::Delivered)));

    let mut server = tokio::spawn(async move { axum::serve(listener, app).await });
    tokio::select! {
        ended = &mut server => ended??,
        () = terminated() => {
            // New deliveries are answered 503, and every handler runs to its end. Then the last answers go out.
            receiver.drain().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    Ok(())
}

/// Waits for Ctrl-C or for SIGTERM, by which systemd, Docker and Kubernetes stop a process.
async fn terminated() {
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be caught");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
