//! A handler whose effects and whose completion are one transaction: each event credits 1 to its recipient's balance and
//! changes the mail state, and whatever fails in between, it does so once. An `open` changes the mail state alone.
//!
//! Kill it wherever you like and start it again: `--pause-at` stops at a step of the next event for you. The event comes
//! again with Sendarix's next attempt, or with `sendarix trigger --event-id`, and finds either all of it done or nothing.

#![allow(clippy::print_stdout)]

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use clap::{Parser, ValueEnum};
use sendarix_webhooks::mail::Mail;
use sendarix_webhooks::{Delivery, EventKind, HandlerError, Receiver, SendarixLayer};
use sendarix_webhooks::{PostgresStore, SqliteStore};
use sendarix_webhooks_system_tests::{application, lease, serve, store::Store};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{PgPool, SqlitePool};
use tokio::net::TcpListener;

#[derive(Clone, Parser)]
#[command(args_override_self = true, about = "Credits 1 for each Sendarix event to the balance of its recipient")]
struct Options {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:3000", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// The database of both the events and the balances: sqlite:PATH or postgres://…
    #[arg(long, value_name = "URL")]
    store: String,

    /// How long a crashed process keeps an event from being handled elsewhere, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    lease: u64,

    /// Stop at this step of the next event, for ever
    #[arg(long, value_name = "STEP")]
    pause_at: Option<Step>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Step {
    /// Before anything is written
    Started,
    /// After the balance was changed, within the transaction
    Credited,
    /// After the commit, before the event is acknowledged
    Committed,
}

/// The application's own database, and the store whose tables are in it.
#[derive(Clone)]
enum Database {
    Sqlite(SqlitePool, Mail<SqliteStore>),
    Postgres(PgPool, Mail<PostgresStore>),
}

const CREATE: &str = "CREATE TABLE IF NOT EXISTS balances (address VARCHAR(255) PRIMARY KEY, balance BIGINT NOT NULL)";
const CREDIT: &str = "INSERT INTO balances AS b (address, balance) VALUES ($1, 1)
    ON CONFLICT (address) DO UPDATE SET balance = b.balance + 1";

async fn on_event(
    State((database, options)): State<(Database, Options)>,
    delivery: Delivery,
) -> Result<(), HandlerError> {
    let (recipient, claim) = (delivery.event().recipient.to_string(), delivery.claim());
    options.pause(Step::Started).await;
    if matches!(delivery.event().kind, EventKind::Open(_)) {
        match database {
            Database::Sqlite(_, mail) => mail.record(&delivery).await?,
            Database::Postgres(_, mail) => mail.record(&delivery).await?,
        }
        return application::print(delivery.event()).await;
    }
    match database {
        Database::Sqlite(pool, mail) => {
            let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
            sqlx::query(CREDIT).bind(recipient).execute(&mut *tx).await?;
            mail.record_in(&mut tx, delivery.event()).await?;
            options.pause(Step::Credited).await;
            mail.store().commit(tx, claim).await?;
        }
        Database::Postgres(pool, mail) => {
            let mut tx = pool.begin().await?;
            sqlx::query(CREDIT).bind(recipient).execute(&mut *tx).await?;
            mail.record_in(&mut tx, delivery.event()).await?;
            options.pause(Step::Credited).await;
            mail.store().commit(tx, claim).await?;
        }
    }
    options.pause(Step::Committed).await;
    application::print(delivery.event()).await
}

impl Options {
    async fn pause(&self, step: Step) {
        if self.pause_at == Some(step) {
            println!("paused");
            std::future::pending::<()>().await;
        }
    }
}

impl Database {
    async fn open(options: &Options) -> anyhow::Result<Self> {
        Ok(match options.store.parse()? {
            Store::Sqlite(store) => {
                let file = options.store.strip_prefix("sqlite:").unwrap_or_default();
                let file = SqliteConnectOptions::new().filename(file).create_if_missing(true);
                let pool = SqlitePool::connect_with(file).await?;
                sqlx::query(CREATE).execute(&pool).await?;
                let mail = Mail::new(store);
                mail.migrate().await?;
                Self::Sqlite(pool, mail)
            }
            Store::Postgres(store) => {
                let pool = PgPool::connect(&options.store).await?;
                sqlx::query(CREATE).execute(&pool).await?;
                let mail = Mail::new(store);
                mail.migrate().await?;
                Self::Postgres(pool, mail)
            }
            Store::Memory | Store::Redis(_) => anyhow::bail!("a transaction takes SQLite or PostgreSQL"),
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options: Options = application::options();
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("listening on {}", options.listen))?;
    let store: Store = options.store.parse()?;
    let database = Database::open(&options).await?;
    let terminated = application::terminated()?;
    let secrets = application::secrets(listener.local_addr()?)?;
    let mut builder = lease::set(Receiver::builder(secrets), options.lease).store(store.events());
    if let Some(letters) = store.letters_apart(None, Path::new("transactional.dead-letters.jsonl"))? {
        builder = builder.dead_letters(letters);
    }
    let receiver = builder.build()?;
    let layer = SendarixLayer::new(receiver.clone());
    let app = Router::new().route(application::PATH, post(on_event).layer(layer)).with_state((database, options));
    serve::until(terminated, listener, app, receiver).await
}
