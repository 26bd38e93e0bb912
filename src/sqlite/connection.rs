//! Connections to the file, and how a statement runs.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteArguments, SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, SqlSafeStr, Sqlite};
use tokio::time::{Instant, sleep};

use super::schema::{self, Schema};
use crate::sql::{BEYOND_RECEIVER, Connections, PooledConnection};
use crate::storage::StoreError;

/// The connections to the file: one for each durability, and one for each group of tables.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) claims: FileConnection,
    pub(super) letters: FileConnection,
    /// As durable as the letters: what is acknowledged must survive a power failure.
    #[cfg(feature = "mail")]
    pub(super) mail: FileConnection,
}

/// One connection to the file. That is enough: the file has one writer at a time, and its callers wait in order.
#[derive(Debug)]
pub(super) struct FileConnection {
    connections: Connections<SqliteConnection>,
    schemas: &'static [Schema],
}

pub(super) type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// How long to wait for another process's transaction: less than the receiver waits for the store, so that it hears why.
fn busy_timeout(limit: Duration) -> Duration {
    limit.saturating_sub(BEYOND_RECEIVER) * 3 / 4
}

impl Database {
    pub(super) fn new(path: &Path) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .auto_vacuum(SqliteAutoVacuum::None)
            // A slow statement's text has ids in it, and the inbox logs what fails.
            .disable_statement_logging();
        let connection = |options, schemas| {
            let fit = |options: SqliteConnectOptions, limit| options.busy_timeout(busy_timeout(limit));
            FileConnection { connections: Connections::new(options, fit, 1), schemas }
        };
        let with = |synchronous| options.clone().synchronous(synchronous);
        Self {
            // A completion deletes the event's letter, and overwrites it where that takes no further page.
            claims: connection(with(SqliteSynchronous::Normal).pragma("secure_delete", "FAST"), &[schema::EVENTS]),
            // Letters and mail state hold personal data: what is discarded, purged or erased is overwritten.
            letters: connection(with(SqliteSynchronous::Full).pragma("secure_delete", "ON"), &[schema::EVENTS]),
            #[cfg(feature = "mail")]
            mail: connection(
                with(SqliteSynchronous::Full).pragma("secure_delete", "ON"),
                &[schema::EVENTS, schema::MAIL],
            ),
        }
    }

    pub(super) fn allow(&self, limit: Duration) {
        self.claims.connections.allow(limit);
        self.letters.connections.allow(limit);
        #[cfg(feature = "mail")]
        self.mail.connections.allow(limit);
    }
}

impl FileConnection {
    /// Runs a statement to its end, which is where SQLite commits it.
    pub(super) async fn run<'q>(
        &self,
        sql: impl SqlSafeStr,
        bind: impl FnOnce(Query<'q>) -> Query<'q>,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let query = bind(sqlx::query(sql));
        let mut pooled = self.acquire().await.map_err(StoreError::new)?;
        let rows = pooled.ask(|connection| query.fetch_all(connection)).await.map_err(StoreError::new)?;
        pooled.put_back();
        Ok(rows)
    }

    /// Runs statements in a transaction that may write. They are the same in each database, so a reply that says otherwise
    /// ends them.
    #[cfg(feature = "mail")]
    pub(super) async fn run_all<T>(
        &self,
        statements: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let mut pooled = self.acquire().await.map_err(StoreError::new)?;
        let run = async |connection: &mut SqliteConnection| {
            sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *connection).await?;
            // An error leaves the transaction open; the connection is then closed, which rolls it back.
            let done = statements(&mut *connection).await?;
            sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;
            Ok(done)
        };
        let done = pooled.ask(run).await.map_err(StoreError::new)?;
        pooled.put_back();
        Ok(done)
    }

    async fn acquire(&self) -> Result<PooledConnection<'_, SqliteConnection>, sqlx::Error> {
        let give_up = Instant::now() + busy_timeout(self.connections.limit());
        loop {
            match self.open().await {
                // Unlike everything else, a file's change to WAL does not wait for its turn.
                Err(error) if is_busy(&error) && Instant::now() < give_up => sleep(BUSY_PAUSE).await,
                pooled => return pooled,
            }
        }
    }

    /// A connection to a file that has the tables. Each new connection looks: the file may be another than before.
    async fn open(&self) -> Result<PooledConnection<'_, SqliteConnection>, sqlx::Error> {
        let mut pooled = self.connections.acquire().await?;
        if pooled.is_fresh() {
            for schema in self.schemas {
                pooled.ask(|connection| schema.prepare(connection)).await?;
            }
        }
        Ok(pooled)
    }
}

const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// `SQLITE_BUSY` with any extension of the code.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|code| code & 0xff == 5)
}
