//! A job queue of apalis, for work that takes longer than Sendarix waits: an event is in the queue before it is acknowledged,
//! and a worker takes it out.
//!
//! ```sh
//! SENDARIX_WEBHOOK_SECRET=try-it-out cargo run --package job-queue-example
//! ```
//!
//! It prints a `curl` command that sends a first event. Run that command: it is answered 200 at once, and 3 s later the worker
//! has done its work. Kill the application meanwhile and start it again: the job is still there.

use std::time::Duration;

use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteStorage};
use axum::{Router, routing::post};
use sendarix_webhooks::destination::Enqueue;
use sendarix_webhooks::testing::{Sample, curl};
use sendarix_webhooks::{
    Delivery, EventType, HandlerError, Inbox, Receiver, SendarixEvent, SendarixLayer, SigningSecrets, SqliteStore,
};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// The work itself.
async fn work(delivery: Delivery) -> Result<(), HandlerError> {
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("worked on {} for {}", delivery.event().type_name(), delivery.event().recipient);
    Ok(())
}

/// One attempt at a job. An error makes the queue try again.
async fn on_job(event: SendarixEvent, inbox: Data<Inbox>) -> Result<(), BoxDynError> {
    Ok(inbox.process(event, work).await.map(drop)?)
}

async fn queue(file: &str) -> anyhow::Result<SqliteStorage<SendarixEvent>> {
    let options =
        SqliteConnectOptions::new().filename(file).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
    // apalis turns `synchronous` off for the connection that makes the tables, which must not be used for jobs.
    let setup = SqlitePool::connect_with(options.clone()).await?;
    SqliteStorage::setup(&setup).await?;
    setup.close().await;
    let pool = SqlitePool::connect_lazy_with(options.synchronous(SqliteSynchronous::Full));
    Ok(SqliteStorage::new(&pool).with_config(Config::default().queue("sendarix")))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let secrets = SigningSecrets::from_env()?; // SENDARIX_WEBHOOK_SECRET
    let (store, queue) =
        (SqliteStore::open("job-queue-example.sqlite")?, queue("job-queue-example.jobs.sqlite").await?);
    let receiver = Receiver::builder(secrets.clone()).store(store.clone()).build()?;
    // Its endpoint must be another than the receiver's, or each job is a duplicate of its event.
    let jobs = Inbox::builder("default.jobs").store(store).build()?;
    let enqueue = Enqueue::new(queue.clone()).handler();
    let app = Router::new().route("/webhooks/sendarix", post(enqueue).layer(SendarixLayer::new(receiver.clone())));
    let worker = WorkerBuilder::new("worker-1").backend(queue).data(jobs.clone()).build(on_job);

    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&address).await?;
    let url = format!("http://{}/webhooks/sendarix", listener.local_addr()?);
    println!("listening on {url}\n\n    {}\n", curl(&secrets, &url, &Sample::new(EventType::Delivered)));

    let mut server = tokio::spawn(async move { axum::serve(listener, app).await });
    tokio::select! {
        ended = &mut server => ended??,
        ended = worker.run() => ended?,
        () = terminated() => {
            // New deliveries are answered 503, and every handler and every job runs to its end. Then the last answers go out.
            tokio::join!(receiver.drain(), jobs.drain());
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
