//! One endpoint that feeds four destinations: alerts, a job queue, a bus, and files for a warehouse.
//!
//! Stop the bus, and each event is answered 503 until it is back; the other three have it once all the same.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use apalis_sqlite::{Config, SqliteStorage};
use async_nats::jetstream;
use axum::Router;
use axum::routing::post;
use clap::Parser;
use sendarix_webhooks::destination::Enqueue;
use sendarix_webhooks::destination::{FanOut, JetStream, JsonLines};
use sendarix_webhooks::{Delivery, EventType, HandlerError, Receiver, SendarixEvent, SendarixLayer};
use sendarix_webhooks_system_tests::{application, serve, store::Store};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use tokio::net::TcpListener;

#[derive(Parser)]
#[command(about = "Feeds Sendarix events to alerts, a job queue, a bus and a warehouse")]
struct Options {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:3000", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// Where it is remembered which destination has taken what: memory, sqlite:PATH, redis://… or postgres://…
    #[arg(long, default_value = "sqlite:fan_out.sqlite", value_name = "PLACE")]
    store: String,

    /// The bus
    #[arg(long, default_value = "nats://127.0.0.1:4222", value_name = "URL")]
    nats: String,

    /// The file of the job queue
    #[arg(long, default_value = "fan_out.jobs.sqlite", value_name = "PATH")]
    jobs: PathBuf,

    /// The file that the warehouse loads
    #[arg(long, default_value = "fan_out.events.jsonl", value_name = "PATH")]
    warehouse: PathBuf,
}

/// How long the bus knows an event: longer than Sendarix goes on delivering.
const BUS_REMEMBERS: Duration = Duration::from_secs(8 * 60 * 60);

/// Somebody's pager. Here it is a line.
async fn alert(delivery: Delivery) -> Result<(), HandlerError> {
    application::print(delivery.event()).await
}

async fn jobs(path: &Path) -> anyhow::Result<Enqueue<SqliteStorage<SendarixEvent>>> {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    // apalis turns `synchronous` off for the connection that makes the tables, which must not be used for jobs.
    let setup = SqlitePool::connect_with(options.clone()).await?;
    SqliteStorage::setup(&setup).await?;
    setup.close().await;
    let pool = SqlitePool::connect_lazy_with(options.synchronous(SqliteSynchronous::Full));
    Ok(Enqueue::new(SqliteStorage::new(&pool).with_config(Config::default().queue("sendarix"))))
}

async fn bus(url: &str) -> anyhow::Result<JetStream> {
    // An event that the bus does not take now is delivered again, so there is no use in waiting long.
    let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
    let mut context = jetstream::new(options.connect(url).await?);
    context.set_timeout(Duration::from_secs(2));
    let stream = jetstream::stream::Config {
        name: "SENDARIX".to_owned(),
        subjects: vec!["sendarix.>".to_owned()],
        duplicate_window: BUS_REMEMBERS,
        ..Default::default()
    };
    context.get_or_create_stream(stream).await.context("the stream")?;
    // The last one would be a second header.
    let trace = [
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "a=b\r\nforged: c"),
    ];
    let trace = HashMap::from(trace.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let bus = JetStream::new(context, "sendarix").cloud_events("/webhooks/sendarix");
    Ok(bus.trace_context(move || trace.clone()))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options: Options = application::options();
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("listening on {}", options.listen))?;
    let terminated = application::terminated()?;
    let store: Store = options.store.parse()?;
    let (jobs, warehouse) = (jobs(&options.jobs).await?, JsonLines::open(&options.warehouse)?);
    let bus = bus(&options.nats).await?;
    let mut builder = Receiver::builder(application::secrets(listener.local_addr()?)?).store(store.events());
    if let Some(letters) = store.letters_apart(None, Path::new("fan_out.dead-letters.jsonl"))? {
        builder = builder.dead_letters(letters);
    }
    let receiver = builder.build()?;
    let fan_out = FanOut::builder(receiver.inbox())
        .to_types("alerts", [EventType::Bounce, EventType::Complaint], alert)
        .to("crm", jobs)
        .to("bus", bus)
        .to("warehouse", warehouse)
        .build()?;
    let layer = SendarixLayer::new(receiver.clone());
    let app = Router::new().route(application::PATH, post(fan_out.handler()).layer(layer));
    serve::until(terminated, listener, app, receiver).await
}
