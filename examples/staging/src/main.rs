//! A production and a staging endpoint in one process. They share nothing: each has a secret, claims, dead letters and mail
//! state, so no sandbox event can touch real data.
//!
//! ```sh
//! export SENDARIX_WEBHOOK_SECRET=real SENDARIX_STAGING_SECRET=sandbox
//! cargo run --package staging-example
//! ```
//!
//! In another terminal, with `cargo install --path cli`:
//!
//! ```sh
//! export SENDARIX_WEBHOOK_SECRET=real SENDARIX_STAGING_SECRET=sandbox
//! sendarix simulate --also http://127.0.0.1:3000/webhooks/sendarix-staging=SENDARIX_STAGING_SECRET
//! ```
//!
//! The application prints each event with its endpoint. Sent to the other path, either's events are answered 401.

use std::time::Duration;

use axum::{Router, extract::State, routing::post};
use sendarix_webhooks::mail::Mail;
use sendarix_webhooks::{Delivery, HandlerError, Receiver, SendarixLayer, SigningSecrets, SqliteStore};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// What one endpoint has.
#[derive(Clone)]
struct Endpoint {
    name: &'static str,
    mail: Mail<SqliteStore>,
    receiver: Receiver,
}

impl Endpoint {
    fn new(name: &'static str, secrets: SigningSecrets) -> anyhow::Result<Self> {
        let store = SqliteStore::open(format!("{name}.sqlite"))?;
        let mail = Mail::new(store.clone());
        let receiver = Receiver::builder(secrets).endpoint(name).store(store).build()?;
        Ok(Self { name, mail, receiver })
    }

    fn at(self, path: &str) -> Router {
        let layer = SendarixLayer::new(self.receiver.clone());
        Router::new().route(path, post(on_event).layer(layer)).with_state(self)
    }
}

async fn on_event(State(endpoint): State<Endpoint>, delivery: Delivery) -> Result<(), HandlerError> {
    endpoint.mail.record(&delivery).await?; // into the tables of this endpoint
    let event = delivery.event();
    println!("{}: {} {} to {}", endpoint.name, event.type_name(), event.message_id, event.recipient);
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let production = Endpoint::new("production", SigningSecrets::from_env()?)?; // SENDARIX_WEBHOOK_SECRET
    let secrets = SigningSecrets::from_variables("SENDARIX_STAGING_SECRET", "SENDARIX_STAGING_SECRET_PREVIOUS")?;
    let staging = Endpoint::new("staging", secrets)?;
    let receivers = [production.receiver.clone(), staging.receiver.clone()];
    let app = production.at("/webhooks/sendarix").merge(staging.at("/webhooks/sendarix-staging"));

    let listener = TcpListener::bind(std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned())).await?;
    println!("listening on http://{}/webhooks/sendarix", listener.local_addr()?);
    let mut server = tokio::spawn(async move { axum::serve(listener, app).await });
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = &mut server => return Ok(ended??),
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tokio::join!(receivers[0].drain(), receivers[1].drain());
    tokio::time::sleep(Duration::from_secs(1)).await; // for the last answers
    Ok(())
}
