//! Dead letters in an SQLite file.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, FromRow, Row as _};

use super::connection::Database;
use crate::dead_letter::{DeadLetter, DeadLetters, ListedLetter};
use crate::event::EventKey;
use crate::sql::letters::{COLUMNS, Row, SUPERSEDE, listed, row};
use crate::storage::{StoreError, StoreFuture};

/// Keeps dead letters in an SQLite file, beside the events of a [`SqliteStore`](crate::SqliteStore), which makes
/// them: [`dead_letters`](crate::SqliteStore::dead_letters).
///
/// A letter is on the disk before it counts as kept. The table holds recipients and whatever else the events and the
/// handler's errors say:
///
/// ```sql
/// SELECT event_id, reason, error, attempts, first_at, last_at, CAST(body AS TEXT)
/// FROM sendarix_dead_letters WHERE endpoint = 'default' ORDER BY last_at DESC;
/// ```
#[derive(Clone)]
pub struct SqliteDeadLetters(Arc<Database>);

const RESOLVE: &str = "DELETE FROM sendarix_dead_letters WHERE endpoint = ?1 AND event_id = ?2";

/// An event that has been handled needs no letter: a delivery that has lost its claim would leave one behind.
const COMPLETED: &str = "SELECT 1 FROM sendarix_claims WHERE endpoint = ?1 AND event_id = ?2 AND state = 'completed'
    AND until > CAST(unixepoch('subsec') * 1000 AS INTEGER)";

impl SqliteDeadLetters {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self(database)
    }

    async fn try_record(&self, letter: &DeadLetter) -> Result<(), sqlx::Error> {
        let record = format!(
            "INSERT INTO sendarix_dead_letters AS l ({COLUMNS})
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12 WHERE NOT EXISTS ({COMPLETED}) {SUPERSEDE}"
        );
        let row = row(letter);
        let record = sqlx::query(AssertSqlSafe(record)).bind(row.0).bind(row.1).bind(row.2).bind(row.3).bind(row.4);
        let record = record.bind(row.5).bind(row.6).bind(row.7).bind(row.8).bind(row.9).bind(row.10).bind(row.11);
        let mut pooled = self.0.letters().await?;
        pooled.ask(|connection| record.execute(connection)).await?;
        pooled.put_back();
        Ok(())
    }

    async fn try_resolve(&self, key: &EventKey) -> Result<(), sqlx::Error> {
        let mut pooled = self.0.letters().await?;
        let resolve = sqlx::query(RESOLVE).bind(key.endpoint()).bind(key.event_id());
        pooled.ask(|connection| resolve.execute(connection)).await?;
        pooled.put_back();
        Ok(())
    }

    /// The letters of an endpoint whose ids compare so with this one.
    async fn select(
        &self,
        endpoint: &str,
        comparison: &str,
        event_id: &str,
        limit: usize,
    ) -> Result<Vec<ListedLetter>, StoreError> {
        let select = format!(
            "SELECT {COLUMNS} FROM sendarix_dead_letters
             WHERE endpoint = ?1 AND event_id {comparison} ?2 ORDER BY event_id LIMIT ?3"
        );
        let select = sqlx::query(AssertSqlSafe(select)).bind(endpoint).bind(event_id);
        let select = select.bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let mut pooled = self.0.letters().await.map_err(StoreError::new)?;
        let rows = pooled.ask(|connection| select.fetch_all(connection)).await;
        let rows: Vec<SqliteRow> = rows.map_err(StoreError::new)?;
        pooled.put_back();
        let read = |row: &SqliteRow| {
            let event_id = row.try_get_unchecked("event_id").unwrap_or_default();
            listed(endpoint, event_id, Row::from_row(row))
        };
        Ok(rows.iter().map(read).collect())
    }
}

impl DeadLetters for SqliteDeadLetters {
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, ()> {
        Box::pin(async move { self.try_record(letter).await.map_err(StoreError::new) })
    }

    fn resolve<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        Box::pin(async move { self.try_resolve(key).await.map_err(StoreError::new) })
    }

    fn get<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, Option<DeadLetter>> {
        Box::pin(async move {
            let letter = self.select(key.endpoint(), "=", key.event_id(), 1).await?.pop();
            letter.transpose().map_err(|unreadable| unreadable.source)
        })
    }

    fn list<'a>(
        &'a self,
        endpoint: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<ListedLetter>> {
        // No id is empty, so what comes behind the empty one is all.
        Box::pin(self.select(endpoint, ">", after.unwrap_or_default(), limit))
    }

    fn set_time_limit(&self, limit: Duration) {
        self.0.allow(limit);
    }
}

impl fmt::Debug for SqliteDeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteDeadLetters").field(&self.0).finish()
    }
}
