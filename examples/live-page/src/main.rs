//! One page that shows events as they arrive: what has become of each message, the suppression list, the bounce and complaint
//! rates, and the dead letters.
//!
//! ```sh
//! SENDARIX_WEBHOOK_SECRET=try-it-out cargo run --package live-page-example
//! ```
//!
//! In another terminal, with `cargo install --path cli`:
//!
//! ```sh
//! SENDARIX_WEBHOOK_SECRET=try-it-out sendarix simulate --rate 5
//! ```
//!
//! Open <http://127.0.0.1:3000>, and see them come. Events for addresses at `broken.example` fail for good until the box on the
//! page is ticked, and can then be redriven. The page shows recipients and changes what is handled: as it is, it is for
//! this machine, and elsewhere it belongs behind your own login.

mod board;
mod routes;

use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn_with_state;
use axum::routing::post;
use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::{Delivery, HandlerError, Receiver, SendarixLayer, SigningSecrets, operator};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::board::Board;

async fn on_event(board: Arc<Board>, delivery: Delivery) -> Result<(), HandlerError> {
    if delivery.event().recipient.ends_with("@broken.example") && !board.is_mended() {
        return Err(HandlerError::permanent("broken.example cannot be handled yet"));
    }
    // Suppression list, message state, timeline and rates, in one step.
    board.mail().record(&delivery).await?;
    board.show(delivery.event()).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let secrets = SigningSecrets::from_env()?; // SENDARIX_WEBHOOK_SECRET
    let letters = FileDeadLetters::open("live-page-example.dead-letters.jsonl")?;
    let receiver = Receiver::builder(secrets).dead_letters(letters).build()?;
    let board = Arc::new(Board::new(receiver.inbox().clone()));
    tokio::spawn(Arc::clone(&board).refresh_regularly());

    let handler = {
        let board = Arc::clone(&board);
        move |delivery: Delivery| on_event(Arc::clone(&board), delivery)
    };
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&address).await?;
    let address = listener.local_addr()?;
    let app = routes::page(board)
        .nest("/letters", operator::letters(receiver.inbox().clone(), handler.clone()))
        .layer(from_fn_with_state(address.port(), routes::of_this_machine))
        .route("/webhooks/sendarix", post(handler).layer(SendarixLayer::new(receiver.clone())));
    println!("listening on http://{address}/webhooks/sendarix\nopen http://{address}");
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
