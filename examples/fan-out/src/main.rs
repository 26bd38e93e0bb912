//! One endpoint that feeds three destinations: alerts, a bus, and a file for a warehouse.
//!
//! ```sh
//! nats-server --jetstream --store_dir fan-out-example &
//! SENDARIX_WEBHOOK_SECRET=try-it-out cargo run --package fan-out-example
//! ```
//!
//! It prints a `curl` command that sends a first event. Stop the bus, and an event is answered 503 until the bus is back; the
//! other two have it once all the same. To start, the application needs the bus.

use std::time::Duration;

use async_nats::jetstream;
use axum::{Router, routing::post};
use sendarix_webhooks::destination::{FanOut, JetStream, JsonLines};
use sendarix_webhooks::testing::{Sample, curl};
use sendarix_webhooks::{Delivery, EventType, HandlerError, Receiver, SendarixLayer, SigningSecrets, SqliteStore};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Somebody's pager.
async fn alert(delivery: Delivery) -> Result<(), HandlerError> {
    println!("ALERT {} for {}", delivery.event().type_name(), delivery.event().recipient);
    Ok(())
}

async fn bus(url: &str) -> anyhow::Result<JetStream> {
    let mut context = jetstream::new(async_nats::ConnectOptions::new().retry_on_initial_connect().connect(url).await?);
    // An event that the bus does not take now is delivered again, so there is no use in waiting long.
    context.set_timeout(Duration::from_secs(2));
    let stream = jetstream::stream::Config {
        name: "SENDARIX".to_owned(),
        subjects: vec!["sendarix.>".to_owned()],
        // Longer than Sendarix goes on delivering an event.
        duplicate_window: Duration::from_secs(8 * 60 * 60),
        ..Default::default()
    };
    context.get_or_create_stream(stream).await?;
    Ok(JetStream::new(context, "sendarix"))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let secrets = SigningSecrets::from_env()?; // SENDARIX_WEBHOOK_SECRET
    let nats = std::env::var("NATS").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
    // The store remembers which destination has taken what.
    let receiver = Receiver::builder(secrets.clone()).store(SqliteStore::open("fan-out-example.sqlite")?).build()?;
    let fan_out = FanOut::builder(receiver.inbox())
        .to_types("alerts", [EventType::Bounce, EventType::Complaint], alert)
        .to("bus", bus(&nats).await?)
        .to("warehouse", JsonLines::open("fan-out-example.events.jsonl")?)
        .build()?;
    let layer = SendarixLayer::new(receiver.clone());
    let app = Router::new().route("/webhooks/sendarix", post(fan_out.handler()).layer(layer));

    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&address).await?;
    let url = format!("http://{}/webhooks/sendarix", listener.local_addr()?);
    println!("listening on {url}\n\n    {}\n", curl(&secrets, &url, &Sample::new(EventType::Bounce)));

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
