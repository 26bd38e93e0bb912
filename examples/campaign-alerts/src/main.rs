//! A campaign is paused, and a chat is told, when too many of its messages bounce or are called spam.
//!
//! ```sh
//! export SENDARIX_WEBHOOK_SECRET=try-it-out
//! CHAT_WEBHOOK_URL=https://chat.example.com/hooks/… cargo run --package campaign-alerts-example
//! ```
//!
//! In another terminal, with `cargo install --path cli`:
//!
//! ```sh
//! export SENDARIX_WEBHOOK_SECRET=try-it-out
//! sendarix trigger bounce --count 20 --message-id spring.1
//! curl http://127.0.0.1:3000/campaigns/spring
//! ```
//!
//! The chat gets a message, and `curl` prints `paused`: the sender asks before each batch. Resuming is left to a person. The
//! counts and what is paused are in memory: keep them in your database, with `Mail::rates`, where there are several instances.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::{Router, routing::get, routing::post};
use sendarix_webhooks::dead_letter::FileDeadLetters;
use sendarix_webhooks::mail::Reputation;
use sendarix_webhooks::{HandlerError, Receiver, SendarixEvent, SendarixLayer, SigningSecrets};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

type Paused = Arc<Mutex<HashSet<String>>>;

/// The campaign of a message: in an application, the one that it noted when Sendarix took the message. Here `spring.1` is of
/// `spring`.
fn campaign(event: &SendarixEvent) -> Option<String> {
    event.message_id.split_once('.').map(|(campaign, _)| campaign.to_owned())
}

async fn on_event(State(reputation): State<Reputation>, event: SendarixEvent) -> Result<(), HandlerError> {
    reputation.record(&event); // last, so that a handler that fails and runs again counts once
    Ok(())
}

async fn status(State(paused): State<Paused>, Path(campaign): Path<String>) -> &'static str {
    let paused = paused.lock().unwrap_or_else(PoisonError::into_inner);
    if paused.contains(&campaign) { "paused" } else { "running" }
}

/// Posts each text to the chat: Slack, Mattermost, Google Chat and others take `{"text": …}`.
async fn tell(url: String, mut texts: mpsc::Receiver<String>) {
    let client = reqwest::Client::new();
    while let Some(text) = texts.recv().await {
        let body = serde_json::json!({ "text": text });
        let sent = client.post(&url).json(&body).timeout(Duration::from_secs(10)).send().await;
        if let Err(error) = sent.and_then(reqwest::Response::error_for_status) {
            // The URL is a secret.
            let error = error.without_url();
            tracing::error!(%error, text, "the chat was not told");
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    rustls_graviola::default_provider().install_default().ok();
    let (paused, (texts, received)) = (Paused::default(), mpsc::channel(100));
    tokio::spawn(tell(std::env::var("CHAT_WEBHOOK_URL")?, received));
    let pausing = Arc::clone(&paused);
    let reputation = Reputation::builder()
        .window(Duration::from_secs(60 * 60))
        .minimum(20) // one bounce of the first three says nothing
        .count_by(campaign)
        .on_exceeded(move |exceeded| {
            pausing.lock().unwrap_or_else(PoisonError::into_inner).insert(exceeded.key.clone());
            // A chat that cannot keep up is not waited for.
            if let Err(lost) = texts.try_send(format!("{exceeded}. The campaign is paused.")) {
                tracing::error!(%lost, "the chat was not told");
            }
        })
        .build();

    let secrets = SigningSecrets::from_env()?; // SENDARIX_WEBHOOK_SECRET
    let letters = FileDeadLetters::open("campaign-alerts-example.dead-letters.jsonl")?;
    let receiver = Receiver::builder(secrets).dead_letters(letters).build()?;
    let webhook = post(on_event).layer(SendarixLayer::new(receiver.clone())).with_state(reputation);
    let app =
        Router::new().route("/webhooks/sendarix", webhook).route("/campaigns/{name}", get(status).with_state(paused));
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
