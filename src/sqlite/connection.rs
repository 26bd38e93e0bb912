//! Connections to the file, one for each purpose.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use tokio::time::{Instant, sleep};

use super::schema;
use crate::sql::{BEYOND_RECEIVER, Connections, PooledConnection, StepLimit};
use crate::storage::StoreError;

#[derive(Debug)]
pub(super) struct Database {
    claims: Connections<SqliteConnection>,
    letters: Connections<SqliteConnection>,
    limit: Arc<StepLimit>,
}

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
        let limit = Arc::new(StepLimit::new());
        // One is enough: the file has one writer at a time, and its callers wait in order.
        let connection = |synchronous| {
            let fit = |options: SqliteConnectOptions, limit| options.busy_timeout(busy_timeout(limit));
            Connections::new(options.clone().synchronous(synchronous), fit, Arc::clone(&limit), 1)
        };
        Self {
            claims: connection(SqliteSynchronous::Normal),
            letters: connection(SqliteSynchronous::Full),
            limit: Arc::clone(&limit),
        }
    }

    pub(super) async fn claims(&self) -> Result<PooledConnection<'_, SqliteConnection>, StoreError> {
        self.lend(&self.claims).await.map_err(StoreError::new)
    }

    pub(super) async fn letters(&self) -> Result<PooledConnection<'_, SqliteConnection>, sqlx::Error> {
        self.lend(&self.letters).await
    }

    pub(super) fn allow(&self, limit: Duration) {
        self.limit.allow(limit);
    }

    async fn lend<'a>(
        &self,
        connections: &'a Connections<SqliteConnection>,
    ) -> Result<PooledConnection<'a, SqliteConnection>, sqlx::Error> {
        let give_up = Instant::now() + busy_timeout(connections.limit());
        loop {
            match open(connections).await {
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
