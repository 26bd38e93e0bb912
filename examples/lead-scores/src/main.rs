//! A score for each recipient, by the messages that they opened and the links that they clicked.
//!
//! ```sh
//! SENDARIX_WEBHOOK_SECRET=try-it-out cargo run --package lead-scores-example
//! ```
//!
//! In another terminal, with `cargo install --path cli`:
//!
//! ```sh
//! export SENDARIX_WEBHOOK_SECRET=try-it-out
//! sendarix trigger delivered open click --message-id msg_1 --recipient ann@example.com
//! curl http://127.0.0.1:3000/leads/ann@example.com
//! ```
//!
//! `curl` prints `4`. Events are kept in `lead-scores.sqlite`; a copy of one counts once, also after a restart.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::{Router, http::StatusCode, routing::get, routing::post};
use sendarix_webhooks::dead_letter::StoreError;
use sendarix_webhooks::mail::Mail;
use sendarix_webhooks::{Delivery, HandlerError, Receiver, SendarixLayer, SigningSecrets, SqliteStore};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const OPEN_POINTS: u64 = 1;
/// A click is a decision; many mail clients open messages by themselves.
const CLICK_POINTS: u64 = 3;

/// The latest messages count, the others are the past.
const MESSAGES: usize = 20;

async fn on_event(State(mail): State<Mail<SqliteStore>>, delivery: Delivery) -> Result<(), HandlerError> {
    mail.record(&delivery).await?; // the event's effects and its completion, in one transaction
    Ok(())
}

/// One open and one click of a message count, however often it was opened. An address that must not be mailed is no lead.
async fn score(mail: &Mail<SqliteStore>, address: &str) -> Result<u64, StoreError> {
    if mail.is_suppressed(address).await? {
        return Ok(0);
    }
    let messages = mail.messages_to(address, None, MESSAGES).await?;
    let of_message = |opens: u64, clicks: u64| OPEN_POINTS * opens.min(1) + CLICK_POINTS * clicks.min(1);
    Ok(messages.iter().map(|message| of_message(message.opens, message.clicks)).sum())
}

async fn lead(State(mail): State<Mail<SqliteStore>>, Path(address): Path<String>) -> Result<String, StatusCode> {
    let score = score(&mail, &address).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(format!("{score}\n"))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let store = SqliteStore::open("lead-scores.sqlite")?;
    let mail = Mail::new(store.clone());
    let secrets = SigningSecrets::from_env()?; // SENDARIX_WEBHOOK_SECRET
    let receiver = Receiver::builder(secrets).store(store).build()?; // it keeps the dead letters as well
    let webhook = post(on_event).layer(SendarixLayer::new(receiver.clone()));
    let app = Router::new().route("/webhooks/sendarix", webhook).route("/leads/{address}", get(lead)).with_state(mail);

    let listener = TcpListener::bind(std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned())).await?;
    println!("listening on http://{}/webhooks/sendarix", listener.local_addr()?);
    let mut server = tokio::spawn(async move { axum::serve(listener, app).await });
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = &mut server => ended??,
        _ = terminate.recv() => receiver.drain().await,
        _ = tokio::signal::ctrl_c() => receiver.drain().await,
    }
    tokio::time::sleep(Duration::from_secs(1)).await; // for the last answers
    Ok(())
}
