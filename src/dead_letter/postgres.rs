//! Dead letters in PostgreSQL.

use std::fmt;
use std::sync::Arc;

use sqlx::FromRow;

use super::sql::{COLUMNS, Row, SUPERSEDE, letter, row};
use super::{DeadLetter, DeadLetterError, DeadLetterFuture, DeadLetters};
use crate::store::postgres::{Bytes, Database, Key, Text};
use crate::store::{DatabaseId, EventKey};

/// Keeps dead letters in PostgreSQL, beside the events of a [`PostgresStore`](crate::store::PostgresStore), which makes
/// them: [`dead_letters`](crate::store::PostgresStore::dead_letters).
///
/// The table holds recipients and whatever else the events and the handler's errors say. Its ids and errors are UTF-8 in
/// `bytea`, which keeps every character in a database of any encoding: read them with `convert_from(error, 'UTF8')`.
#[derive(Clone)]
pub struct PostgresDeadLetters(Arc<Database>);

impl PostgresDeadLetters {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self(database)
    }

    fn insert(&self, letter: &DeadLetter) -> String {
        let number = |number: Option<i64>| number.map_or("NULL".to_owned(), |number| number.to_string());
        let letters = &self.0.letters;
        let row = row(letter);
        let [endpoint, reason, first_at, last_at, signature] =
            [&row.0, &row.2, &row.5, &row.6, &row.7].map(|text| Text(text));
        let (event_id, error, attempts, body) = (Bytes(&row.1), Bytes(&row.3), row.4, Bytes(&row.11));
        let [timestamp_header, line, column] = [row.8, row.9, row.10].map(number);
        format!(
            "INSERT INTO {letters} AS l ({COLUMNS})
             VALUES ({endpoint}, {event_id}, {reason}, {error}, {attempts}, {first_at}, {last_at}, {signature},
                {timestamp_header}, {line}, {column}, {body}) {SUPERSEDE}"
        )
    }

    async fn change(&self, sql: String) -> Result<(), DeadLetterError> {
        self.0.fetch(&sql).await.map(drop).map_err(DeadLetterError::new)
    }

    async fn select(&self, condition: String, limit: usize) -> Result<Vec<DeadLetter>, DeadLetterError> {
        let (letters, limit) = (&self.0.letters, i64::try_from(limit).unwrap_or(i64::MAX));
        // Whatever the role's setting: sqlx reads nothing but this.
        let select = format!(
            "SET LOCAL bytea_output = hex;
             SELECT {COLUMNS} FROM {letters} WHERE {condition} ORDER BY event_id LIMIT {limit}"
        );
        let rows = self.0.fetch(&select).await.map_err(DeadLetterError::new)?;
        rows.iter().map(|row| letter(Row::from_row(row).map_err(DeadLetterError::new)?)).collect()
    }
}

impl DeadLetters for PostgresDeadLetters {
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> DeadLetterFuture<'a, ()> {
        Box::pin(self.change(self.insert(letter)))
    }

    fn resolve<'a>(&'a self, key: &'a EventKey) -> DeadLetterFuture<'a, ()> {
        Box::pin(self.change(format!("DELETE FROM {} WHERE {}", self.0.letters, Key(key))))
    }

    fn get<'a>(&'a self, key: &'a EventKey) -> DeadLetterFuture<'a, Option<DeadLetter>> {
        Box::pin(async move { Ok(self.select(Key(key).to_string(), 1).await?.pop()) })
    }

    fn list<'a>(
        &'a self,
        endpoint: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> DeadLetterFuture<'a, Vec<DeadLetter>> {
        // No id is empty, so what comes behind the empty one is all.
        let (endpoint, after) = (Text(endpoint), Bytes(after.unwrap_or_default().as_bytes()));
        Box::pin(self.select(format!("endpoint = {endpoint} AND event_id > {after}"), limit))
    }

    fn database(&self) -> Option<DatabaseId> {
        Some(DatabaseId::of(&self.0))
    }
}

impl fmt::Debug for PostgresDeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresDeadLetters").field("letters", &self.0.letters).finish_non_exhaustive()
    }
}
