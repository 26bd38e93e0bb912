//! Connections to the file, and how a statement runs.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteArguments, SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, SqlSafeStr, Sqlite};
use tokio::time::{Instant, sleep};

use super::schema;
use crate::sql::{BEYOND_RECEIVER, Connections, PooledConnection};
use crate::storage::StoreError;

/// The connections to the file: one for each durability.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) claims: FileConnection,
    pub(super) letters: FileConnection,
}

/// One connection to the file. That is enough: the file has one writer at a time, and its callers wait in order.
#[derive(Debug)]
pub(super) struct FileConnection(Connections<SqliteConnection>);

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
        let connection = |synchronous| {
            let fit = |options: SqliteConnectOptions, limit| options.busy_timeout(busy_timeout(limit));
            FileConnection(Connections::new(options.clone().synchronous(synchronous), fit, 1))
        };
        Self { claims: connection(SqliteSynchronous::Normal), letters: connection(SqliteSynchronous::Full) }
    }

    pub(super) fn allow(&self, limit: Duration) {
        self.claims.0.allow(limit);
        self.letters.0.allow(limit);
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
        let mut pooled = self.lend().await.map_err(StoreError::new)?;
        let rows = pooled.ask(|connection| query.fetch_all(connection)).await.map_err(StoreError::new)?;
        pooled.put_back();
        Ok(rows)
    }

    async fn lend(&self) -> Result<PooledConnection<'_, SqliteConnection>, sqlx::Error> {
        let give_up = Instant::now() + busy_timeout(self.0.limit());
        loop {
            match open(&self.0).await {
                // Unlike everything else, a file's change to WAL does not wait for its turn.
                Err(error) if is_busy(&error) && Instant::now() < give_up => sleep(BUSY_PAUSE).await,
                pooled => return pooled,
            }
        }
    }
}

const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A connection to a file that has the tables. Each new connection looks: the file may be another than before.
async fn open(
    connections: &Connections<SqliteConnection>,
) -> Result<PooledConnection<'_, SqliteConnection>, sqlx::Error> {
    let mut pooled = connections.lend().await?;
    if pooled.is_fresh() {
        pooled.ask(schema::prepare).await?;
    }
    Ok(pooled)
}

/// `SQLITE_BUSY` with any extension of the code.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|code| code & 0xff == 5)
}
