//! An axum application whose events and dead letters survive restarts, and are shared by several instances.
//!
//! ```sh
//! SENDARIX_WEBHOOK_SECRET=try-it-out STORE=sqlite:events.sqlite cargo run --package shared-store-example
//! ```
//!
//! `STORE` may also be `redis://localhost` or `postgres://app@localhost/app`. It prints a `curl` command that sends a first
//! event. Run that command, stop the application, start it again, and send the same event again: it is answered 200, and
//! not handled a second time. Start another instance with `LISTEN=127.0.0.1:3001`: the same.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::{Router, http::StatusCode, routing::get, routing::post};
use sendarix_webhooks::store::DedupStore;
use sendarix_webhooks::testing::{Sample, curl};
use sendarix_webhooks::{EventType, HandlerError, Receiver, SendarixEvent, SendarixLayer, SigningSecrets};
use sendarix_webhooks::{PostgresStore, RedisStore, SqliteStore};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

async fn on_event(event: SendarixEvent) -> Result<(), HandlerError> {
    println!("{}: {} to {}", event.type_name(), event.message_id, event.recipient);
    Ok(())
}

/// For a load balancer, which sends deliveries to another instance meanwhile. A process that is not ready need not be restarted.
async fn ready(State(receiver): State<Receiver>) -> Result<&'static str, (StatusCode, String)> {
    receiver.ready().await.map(|()| "ready").map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
}

/// Your application needs one of them, and the feature of that one.
fn store(place: &str) -> anyhow::Result<Arc<dyn DedupStore>> {
    Ok(match place.split_once(':') {
        Some(("sqlite", path)) => Arc::new(SqliteStore::open(path)?),
        Some(("redis", _)) => Arc::new(RedisStore::open(place)?),
        Some(("postgres", _)) => Arc::new(PostgresStore::open(place)?),
        _ => anyhow::bail!("STORE must be sqlite:PATH, redis://… or postgres://…"),
    })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let secrets = SigningSecrets::from_env()?; // SENDARIX_WEBHOOK_SECRET
    let place = std::env::var("STORE").unwrap_or_else(|_| "sqlite:events.sqlite".to_owned());
    // The store keeps the dead letters too. It connects with the first event; until it can, deliveries are answered 503.
    let receiver = Receiver::builder(secrets.clone()).store(store(&place)?).build()?;
    let layer = SendarixLayer::new(receiver.clone());
    let app = Router::new()
        .route("/webhooks/sendarix", post(on_event).layer(layer))
        .route("/healthz", get(|| async { "alive" }))
        .route("/readyz", get(ready).with_state(receiver.clone()));

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
