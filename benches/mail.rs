//! What mail state costs: recording an event in a transaction, against the same statement by the bare driver, and on SQLite
//! against three by hand; on PostgreSQL, asking for many addresses against one `= ANY` by the bare driver, and recording with
//! many rows against few.
//!
//! ```sh
//! cargo bench --package sendarix-webhooks-benches --bench mail
//! ```
//!
//! It starts its server. `MAIL_ROWS` sets how many rows are many: 1,000,000 without it. The candidates take turns; each figure
//! is the median of its rounds.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use sendarix_webhooks::mail::Mail;
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, PostgresStore, SendarixEvent, SqliteStore};
use sendarix_webhooks_benches::Target::{AtLeast, AtMost};
use sendarix_webhooks_benches::{Rounds, row};
use sendarix_webhooks_system_tests::{Backend, Kind};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, SqliteConnection};

const ROUNDS: usize = 40;
const EVENTS: usize = 200;
const ASKED: usize = 10_000;

fn main() {
    let rows = std::env::var("MAIL_ROWS").map_or(1_000_000, |rows| rows.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        on_sqlite().await;
        on_postgres(rows).await;
    });
}

/// A server with mail state of this many rows in each table.
struct Server {
    /// Ends with this.
    _backend: Backend,
    mail: Mail<PostgresStore>,
    connection: PgConnection,
}

impl Server {
    async fn with_rows(rows: usize) -> Self {
        let backend = Backend::start(Kind::Postgres);
        let mail = Mail::new(PostgresStore::open(&backend.url()).unwrap());
        mail.migrate().await.unwrap();
        backend.sql(&format!(
            "INSERT INTO sendarix_events (event_id, event_type, fact, at, message_id, address, recipient, body)
                SELECT 'old_' || md5(n::text), 'delivered', 'delivered', now(), 'msg_' || n, 'user' || n || '@example.com',
                    'user' || n || '@example.com', repeat('x', 300)::bytea FROM generate_series(1, {rows}) AS n;
             INSERT INTO sendarix_messages (message_id, address, recipient, delivered_at, opens, clicks, last_event_at)
                SELECT 'msg_' || md5(n::text), 'user' || n || '@example.com', 'user' || n || '@example.com', now(), 0, 0, now()
                FROM generate_series(1, {rows}) AS n;
             INSERT INTO sendarix_suppressions (address, recipient, reason, since)
                SELECT 'user' || n || '@example.com', 'user' || n || '@example.com', 'manual', now()
                FROM generate_series(1, {rows}) AS n;
             ANALYZE"
        ));
        let connection = PgConnection::connect(&backend.url()).await.unwrap();
        Self { _backend: backend, mail, connection }
    }

    async fn record(&mut self, events: &[SendarixEvent]) -> Duration {
        let begun = Instant::now();
        for event in events {
            let mut tx = self.connection.begin().await.unwrap();
            self.mail.record_in(&mut tx, event).await.unwrap();
            tx.commit().await.unwrap();
        }
        begun.elapsed()
    }

    /// The statement that `record_in` has sent.
    async fn statement(&mut self) -> String {
        let sent = "SELECT statement FROM pg_prepared_statements WHERE statement LIKE 'WITH v AS%'";
        sqlx::query_scalar(sent).fetch_one(&mut self.connection).await.unwrap()
    }

    async fn record_bare(&mut self, statement: &str, events: &[SendarixEvent]) -> Duration {
        let begun = Instant::now();
        for event in events {
            let mut tx = self.connection.begin().await.unwrap();
            sqlx::query(AssertSqlSafe(statement.to_owned()))
                .bind(event.event_id.as_str())
                .bind("delivered")
                .bind("delivered")
                .bind(event.timestamp.unix_seconds() * 1_000_000)
                .bind(event.message_id.as_str())
                .bind(event.recipient.as_str())
                .bind(event.recipient.as_str())
                .bind(event.body().as_ref())
                .bind(None::<String>)
                .bind(None::<i64>)
                .bind(None::<String>)
                .bind(None::<String>)
                .bind(None::<String>)
                .bind(None::<i64>)
                .bind(None::<String>)
                .bind(false)
                .execute(&mut *tx)
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
        begun.elapsed()
    }
}

/// Events of new messages.
fn events() -> Vec<SendarixEvent> {
    (0..EVENTS).map(|_| SendarixEvent::decode(Sample::new(EventType::Delivered).body()).unwrap()).collect()
}

/// What an application would write by hand: the event, the status before it, and the message.
const BY_HAND: [&str; 3] = [
    "INSERT INTO sendarix_events (event_id, event_type, fact, at, message_id, address, recipient, body)
     VALUES ($1, 'delivered', 'delivered', $2, $3, $4, $4, $5) ON CONFLICT (event_id) DO NOTHING RETURNING 1",
    "SELECT status FROM sendarix_messages WHERE message_id = $1 AND address = $2",
    "INSERT INTO sendarix_messages (message_id, address, recipient, delivered_at, opens, clicks, last_event_at)
     VALUES ($1, $2, $2, $3, 0, 0, $3)
     ON CONFLICT (message_id, address) DO UPDATE SET delivered_at = min(coalesce(delivered_at, $3), $3),
        last_event_at = max(last_event_at, $3) RETURNING status",
];

async fn record_by_hand(connection: &mut SqliteConnection, events: &[SendarixEvent]) -> Duration {
    let [event, before, message] = BY_HAND;
    let begun = Instant::now();
    for sent in events {
        let at = sent.timestamp.unix_seconds() * 1_000_000;
        let (message_id, recipient) = (sent.message_id.as_str(), sent.recipient.as_str());
        let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let query = sqlx::query(event).bind(sent.event_id.as_str()).bind(at).bind(message_id).bind(recipient);
        query.bind(sent.body().as_ref()).fetch_all(&mut *tx).await.unwrap();
        sqlx::query(before).bind(message_id).bind(recipient).fetch_all(&mut *tx).await.unwrap();
        sqlx::query(message).bind(message_id).bind(recipient).bind(at).fetch_all(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }
    begun.elapsed()
}

async fn on_sqlite() {
    let backend = Backend::start(Kind::Sqlite);
    let mail = Mail::new(SqliteStore::open(backend.file()).unwrap());
    mail.migrate().await.unwrap();
    let options = SqliteConnectOptions::new().filename(backend.file()).journal_mode(SqliteJournalMode::Wal);
    let mut connection = options.synchronous(SqliteSynchronous::Full).connect().await.unwrap();
    let mut rounds = Rounds::<2>::default();
    for _ in 0..ROUNDS {
        let mut took = [Duration::ZERO; 2];
        for candidate in rounds.order() {
            let events = events();
            took[candidate] = if candidate == 0 {
                record_by_hand(&mut connection, &events).await
            } else {
                let begun = Instant::now();
                for event in &events {
                    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
                    mail.record_in(&mut tx, event).await.unwrap();
                    tx.commit().await.unwrap();
                }
                begun.elapsed()
            };
        }
        rounds.add(took);
    }
    let what = "recording an event in a transaction, SQLite, events/s";
    row(what, "three statements by hand by the bare driver", AtLeast(0.9), rounds.ratio(0, 1));
}

async fn on_postgres(rows: usize) {
    println!("mail state on PostgreSQL, {rows} rows in each table");
    let (mut few, mut many) = (Server::with_rows(10_000).await, Server::with_rows(rows).await);
    for server in [&mut few, &mut many] {
        server.record(&events()).await;
    }
    let statement = few.statement().await;
    few.record_bare(&statement, &events()).await;

    let (mut against_the_driver, mut by_rows) = (Rounds::<2>::default(), Rounds::<2>::default());
    for _ in 0..ROUNDS {
        let mut took = [Duration::ZERO; 2];
        for candidate in against_the_driver.order() {
            took[candidate] = match candidate {
                0 => few.record_bare(&statement, &events()).await,
                _ => few.record(&events()).await,
            };
        }
        against_the_driver.add(took);
        by_rows.add([few.record(&events()).await, many.record(&events()).await]);
    }
    let against = "the same statement by the bare driver";
    row(
        "recording an event in a transaction, PostgreSQL, events/s",
        against,
        AtLeast(0.9),
        against_the_driver.ratio(0, 1),
    );
    row(&format!("recording with {rows} rows"), "with 10,000", AtMost(1.3), by_rows.ratio(1, 0));

    // One in two is suppressed, and they are spread over the table.
    let asked: Vec<String> = (0..ASKED).map(|n| format!("user{}@example.com", n * rows / ASKED * 2)).collect();
    let mut asking = Rounds::<2>::default();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let any = "SELECT address FROM sendarix_suppressions WHERE reason IS NOT NULL AND address = ANY ($1)";
        let found: Vec<String> = sqlx::query_scalar(any).bind(&asked).fetch_all(&mut many.connection).await.unwrap();
        let bare = begun.elapsed();
        let begun = Instant::now();
        let suppressed = many.mail.are_suppressed(&asked).await.unwrap();
        asking.add([bare, begun.elapsed()]);
        assert_eq!(suppressed.iter().filter(|suppressed| **suppressed).count(), found.len());
    }
    println!(
        "  {ASKED} addresses: bare driver {:.1} ms, are_suppressed {:.1} ms",
        asking.seconds(0) * 1e3,
        asking.seconds(1) * 1e3
    );
    let what = format!("`are_suppressed` of 10,000 addresses, {rows} on the list");
    row(&what, "one `= ANY` by the bare driver", AtLeast(0.9), asking.ratio(0, 1));
}
