//! Dead letters in an SQLite file.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteRow;

use super::connection::{Database, Query};
use super::statements::IS_COMPLETED;
use crate::dead_letter::{DeadLetter, DeadLetterReason, DeadLetters, ListedLetter};
use crate::event::EventKey;
use crate::sql::letters::{Dialect, LetterStatements, bind_row, counts, listed, row};
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
pub struct SqliteDeadLetters(pub(super) Arc<Database>);

static STATEMENTS: LazyLock<LetterStatements> = LazyLock::new(|| {
    let dialect = Dialect { with: "", completed: IS_COMPLETED, time: str::to_owned, time_text: str::to_owned };
    LetterStatements::new("sendarix_dead_letters", &dialect)
});

impl SqliteDeadLetters {
    async fn run<'q>(
        &self,
        sql: &Arc<str>,
        bind: impl FnOnce(Query<'q>) -> Query<'q>,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        self.0.letters.run(AssertSqlSafe(Arc::clone(sql)), bind).await
    }
}

impl DeadLetters for SqliteDeadLetters {
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, ()> {
        StoreFuture::new(async move {
            let row = row(letter);
            self.run(&STATEMENTS.record, |query| bind_row!(query, &row)).await.map(drop)
        })
    }

    fn resolve<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        StoreFuture::new(async move {
            let bind = |query: Query<'a>| query.bind(key.endpoint()).bind(key.event_id());
            self.run(&STATEMENTS.resolve, bind).await.map(drop)
        })
    }

    fn get<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, Option<DeadLetter>> {
        StoreFuture::new(async move {
            let bind = |query: Query<'a>| query.bind(key.endpoint()).bind(key.event_id());
            let rows = self.run(&STATEMENTS.get, bind).await?;
            let letter = rows.first().map(|row| listed(key.endpoint(), row));
            letter.transpose().map_err(|unreadable| unreadable.source)
        })
    }

    fn list<'a>(
        &'a self,
        endpoint: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<ListedLetter>> {
        StoreFuture::new(async move {
            // No id is empty, so what comes behind the empty one is all.
            let (after, limit) = (after.unwrap_or_default(), i64::try_from(limit).unwrap_or(i64::MAX));
            let bind = |query: Query<'a>| query.bind(endpoint).bind(after).bind(limit);
            let rows = self.run(&STATEMENTS.list, bind).await?;
            Ok(rows.iter().map(|row| listed(endpoint, row)).collect())
        })
    }

    fn discard<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            let key = &letter.key;
            let bind = |query: Query<'a>| {
                let query = query.bind(key.endpoint()).bind(key.event_id());
                query.bind(i64::from(letter.attempts)).bind(letter.last_at.to_sortable())
            };
            Ok(!self.run(&STATEMENTS.discard, bind).await?.is_empty())
        })
    }

    fn count<'a>(&'a self, endpoint: &'a str) -> Option<StoreFuture<'a, HashMap<DeadLetterReason, u64>>> {
        Some(StoreFuture::new(async move {
            counts(&self.run(&STATEMENTS.count, |query: Query<'a>| query.bind(endpoint)).await?)
        }))
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
