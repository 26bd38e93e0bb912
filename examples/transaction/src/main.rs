//! A handler whose effect and whose record are one transaction: each event credits 1 to its recipient's balance, once,
//! whatever fails in between.
//!
//! ```sh
//! SENDARIX_WEBHOOK_SECRET=try-it-out cargo run --package transaction-example
//! ```
//!
//! It prints a `curl` command that sends a first event. Run that command as often as you like, and kill the application
//! wherever you like: the balance is 1. On PostgreSQL it is the same with `PostgresStore`, a `PgPool` and `pool.begin()`.

use std::time::Duration;

use axum::{Router, extract::State, routing::post};
use sendarix_webhooks::testing::{Sample, curl};
use sendarix_webhooks::{Delivery, EventType, HandlerError, Receiver, SendarixLayer, SigningSecrets, SqliteStore};
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const FILE: &str = "transaction-example.sqlite";
const CREATE: &str = "CREATE TABLE IF NOT EXISTS balances (address TEXT PRIMARY KEY, balance INTEGER NOT NULL)";
const CREDIT: &str = "INSERT INTO balances (address, balance) VALUES (?1, 1)
    ON CONFLICT (address) DO UPDATE SET balance = balance + 1 RETURNING balance";

async fn on_event(
    State((pool, store)): State<(SqlitePool, SqliteStore)>,
    delivery: Delivery,
) -> Result<(), HandlerError> {
    let recipient = &delivery.event().recipient;
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let balance: i64 = sqlx::query_scalar(CREDIT).bind(recipient).fetch_one(&mut *tx).await?;
    // Last: the credit and the record that the event has been handled, or neither.
    store.commit(tx, delivery.claim()).await?;
    println!("{recipient} has {balance}");
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let secrets = SigningSecrets::from_env()?; // SENDARIX_WEBHOOK_SECRET
    let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(FILE).create_if_missing(true)).await?;
    sqlx::query(CREATE).execute(&pool).await?;
    let store = SqliteStore::open(FILE)?;
    let receiver = Receiver::builder(secrets.clone()).store(store.clone()).build()?;
    let layer = SendarixLayer::new(receiver.clone());
    let app = Router::new().route("/webhooks/sendarix", post(on_event).layer(layer)).with_state((pool, store));

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
