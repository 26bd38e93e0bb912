//! Dead letters in PostgreSQL.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row as _};

use super::database::Database;
use super::sql::{Key, Text};
use crate::dead_letter::{DeadLetter, DeadLetters, ListedLetter};
use crate::event::EventKey;
use crate::sql::letters::{COLUMNS, COLUMNS_AS_TEXT, Row, SUPERSEDE, listed, row};
use crate::storage::{StoreError, StoreFuture};

/// Keeps dead letters in PostgreSQL, beside the events of a [`PostgresStore`](crate::PostgresStore), which makes
/// them: [`dead_letters`](crate::PostgresStore::dead_letters).
///
/// The table holds recipients and whatever else the events and the handler's errors say:
///
/// ```sql
/// SELECT event_id, reason, error, attempts, first_at, last_at, convert_from(body, 'UTF8')
/// FROM sendarix_dead_letters WHERE endpoint = 'default' ORDER BY last_at DESC;
/// ```
#[derive(Clone)]
pub struct PostgresDeadLetters(Arc<Database>);

impl PostgresDeadLetters {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self(database)
    }

    /// The body and the error are bound: the server logs the text of a statement that fails.
    async fn try_record(&self, letter: &DeadLetter) -> Result<(), StoreError> {
        let Database { claims, letters, .. } = &*self.0;
        // An event that has been handled needs no letter: a delivery that has lost its claim would leave one behind. The lock
        // makes this wait for a completion that is under way.
        let record = format!(
            "WITH claim AS (SELECT state, until FROM {claims} WHERE endpoint = $1 AND event_id = $2 FOR SHARE)
             INSERT INTO {letters} AS l ({COLUMNS})
             SELECT $1::text, $2::text, $3::text, $4::text, $5::bigint, $6::text::timestamptz, $7::text::timestamptz, $8::text, $9::bigint,
                $10::bigint, $11::bigint, $12::bytea
             WHERE NOT EXISTS (SELECT FROM claim WHERE state = 'completed' AND until > clock_timestamp()) {SUPERSEDE}"
        );
        self.0.run_bound(&record, &row(letter)).await.map(drop).map_err(StoreError::new)
    }

    async fn change(&self, sql: String) -> Result<(), StoreError> {
        self.0.fetch(&sql).await.map(drop).map_err(StoreError::new)
    }

    async fn select(&self, endpoint: &str, condition: String, limit: usize) -> Result<Vec<ListedLetter>, StoreError> {
        let (letters, limit) = (&self.0.letters, i64::try_from(limit).unwrap_or(i64::MAX));
        // Whatever the role's setting: sqlx reads nothing but this.
        let select = format!(
            "SET LOCAL bytea_output = hex;
             SELECT {COLUMNS_AS_TEXT} FROM {letters} WHERE {condition} ORDER BY event_id LIMIT {limit}"
        );
        let rows = self.0.fetch(&select).await.map_err(StoreError::new)?;
        let read = |row: &PgRow| {
            let event_id = row.try_get_unchecked("event_id").unwrap_or_default();
            listed(endpoint, event_id, Row::from_row(row))
        };
        Ok(rows.iter().map(read).collect())
    }
}

impl DeadLetters for PostgresDeadLetters {
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, ()> {
        Box::pin(self.try_record(letter))
    }

    fn resolve<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        Box::pin(self.change(format!("DELETE FROM {} WHERE {}", self.0.letters, Key(key))))
    }

    fn get<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, Option<DeadLetter>> {
        Box::pin(async move {
            let letter = self.select(key.endpoint(), Key(key).to_string(), 1).await?.pop();
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
        let after = Text(after.unwrap_or_default());
        let condition = format!("endpoint = {} AND event_id > {after}", Text(endpoint));
        Box::pin(self.select(endpoint, condition, limit))
    }

    fn set_time_limit(&self, limit: Duration) {
        self.0.allow(limit);
    }
}

impl fmt::Debug for PostgresDeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresDeadLetters").field("letters", &self.0.letters).finish_non_exhaustive()
    }
}
