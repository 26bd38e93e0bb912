//! Events that are put into a queue before they are acknowledged, and workers that take them out.
//!
//! The queue is apalis's, with SQLite, Redis or PostgreSQL behind it; dedup and dead letters are in the same place. A job that
//! fails is tried again by the queue; until it succeeds its event is a dead letter of the endpoint `default.jobs`, which
//! `sendarix letters --endpoint default.jobs` lists and redrives. Send an event to `never@example.com` to see one that never
//! succeeds. Kill it wherever you like: what was acknowledged is in the queue.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use apalis::prelude::*;
use apalis_postgres::PostgresStorage;
use apalis_redis::RedisStorage;
use apalis_sqlite::SqliteStorage;
use axum::Router;
use axum::routing::post;
use clap::{Parser, ValueEnum};
use sendarix_webhooks::destination::DestinationFuture;
use sendarix_webhooks::destination::Enqueue;
use sendarix_webhooks::{Delivery, HandlerError, Inbox, RETRY_SCHEDULE, Receiver, SendarixEvent, SendarixLayer};
use sendarix_webhooks_system_tests::{application, serve, store::Store};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{PgPool, SqlitePool};
use tokio::net::TcpListener;

#[derive(Parser)]
#[command(about = "Puts Sendarix events into a job queue, and works on them")]
struct Options {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:3000", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// Where jobs and events are: sqlite:PATH, redis://… or postgres://…
    #[arg(long, value_name = "PLACE")]
    queue: String,

    /// What this process does
    #[arg(long, value_enum, default_value_t = Role::Both)]
    role: Role,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Role {
    Server,
    Worker,
    Both,
}

/// The queue's name. By default it would be that of a Rust type, which may change.
const QUEUE: &str = "sendarix";

#[derive(Clone)]
enum Queue {
    Sqlite(SqliteStorage<SendarixEvent>),
    Redis(RedisStorage<SendarixEvent>),
    Postgres(PostgresStorage<SendarixEvent>),
}

impl Queue {
    async fn open(place: &str, store: &Store) -> anyhow::Result<Self> {
        Ok(match store {
            Store::Sqlite(_) => {
                let path = place.strip_prefix("sqlite:").unwrap_or_default();
                let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
                // apalis turns `synchronous` off for the connection that makes the tables, which must not be used for jobs.
                let setup = SqlitePool::connect_with(options.clone()).await?;
                SqliteStorage::setup(&setup).await?;
                setup.close().await;
                let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
                let pool = SqlitePool::connect_lazy_with(options.busy_timeout(Duration::from_secs(3)));
                let config = apalis_sqlite::Config::default().queue(QUEUE);
                Self::Sqlite(SqliteStorage::new(&pool).with_config(config))
            }
            Store::Redis(_) => {
                let mut config = apalis_redis::Config::default().queue(QUEUE);
                // By default, apalis-redis 1.0.0 forgets at once which events it has.
                config.idempotency_ttl = Some(2 * RETRY_SCHEDULE);
                Self::Redis(RedisStorage::new(apalis_redis::connect(place).await?).with_config(config))
            }
            Store::Postgres(_) => {
                let pool = PgPool::connect(place).await?;
                PostgresStorage::setup(&pool).await?;
                let config = apalis_postgres::Config::default().queue(QUEUE);
                Self::Postgres(PostgresStorage::new(&pool).with_config(config))
            }
            Store::Memory => anyhow::bail!("a queue must outlive the process"),
        })
    }

    fn enqueue(&self) -> Box<dyn Fn(Delivery) -> DestinationFuture + Send + Sync> {
        match self.clone() {
            Self::Sqlite(queue) => Box::new(Enqueue::new(queue).handler()),
            Self::Redis(queue) => Box::new(Enqueue::new(queue).handler()),
            Self::Postgres(queue) => Box::new(Enqueue::new(queue).handler()),
        }
    }

    /// Works until it is told to stop.
    async fn work(self, inbox: Inbox) -> anyhow::Result<()> {
        macro_rules! work {
            ($queue:expr) => {{
                let name = format!("worker-{}", std::process::id());
                WorkerBuilder::new(name).backend($queue).data(inbox).build(on_job).run().await?
            }};
        }
        match self {
            Self::Sqlite(queue) => work!(queue),
            Self::Redis(queue) => work!(queue),
            Self::Postgres(queue) => work!(queue),
        }
        Ok(())
    }
}

/// One attempt at a job. An error makes the queue try again, 25 times at most.
async fn on_job(event: SendarixEvent, inbox: Data<Inbox>) -> Result<(), BoxDynError> {
    inbox.process(event, on_event).await?;
    Ok(())
}

/// The work itself.
async fn on_event(delivery: Delivery) -> Result<(), HandlerError> {
    if &*delivery.event().recipient == "never@example.com" {
        return Err(HandlerError::retry("the domain cannot be reached"));
    }
    application::print(delivery.event()).await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options: Options = application::options();
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("listening on {}", options.listen))?;
    let terminated = application::terminated()?;
    let store: Store = options.queue.parse()?;
    let queue = Queue::open(&options.queue, &store).await.context("the queue")?;
    let events = store.events();
    let secrets = application::secrets(listener.local_addr()?)?;
    // Under the receiver's name each job would be a duplicate of its event.
    let workers = Inbox::builder("default.jobs").store(events.clone()).build()?;
    let worker = queue.clone().work(workers.clone());
    let terminated = async move {
        // Without its worker the process is of no use.
        tokio::select! {
            () = terminated => {}
            ended = worker, if options.role != Role::Server => tracing::error!("the worker has ended: {ended:?}"),
        }
        workers.drain().await;
    };
    if options.role == Role::Worker {
        terminated.await;
        return Ok(());
    }
    let receiver = Receiver::builder(secrets).store(events).build()?;
    let enqueue = std::sync::Arc::new(queue.enqueue());
    let layer = SendarixLayer::new(receiver.clone());
    let app = Router::new().route(application::PATH, post(move |delivery: Delivery| enqueue(delivery)).layer(layer));
    serve::until(terminated, listener, app, receiver).await
}
