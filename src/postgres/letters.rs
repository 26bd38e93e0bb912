//! Dead letters in PostgreSQL.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::database::{Database, Query};
use crate::dead_letter::{DeadLetter, DeadLetterReason, DeadLetters, ListedLetter};
use crate::event::EventKey;
use crate::sql::letters::{bind_row, counts, listed, row};
use crate::storage::StoreFuture;

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
pub struct PostgresDeadLetters(pub(super) Arc<Database>);

impl DeadLetters for PostgresDeadLetters {
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, ()> {
        StoreFuture::new(async move {
            let row = row(letter);
            self.0.run(|sql| &sql.letters.record, |query| bind_row!(query, &row)).await.map(drop)
        })
    }

    fn resolve<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        StoreFuture::new(async move {
            let bind = |query: Query<'a>| query.bind(key.endpoint()).bind(key.event_id());
            self.0.run(|sql| &sql.letters.resolve, bind).await.map(drop)
        })
    }

    fn get<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, Option<DeadLetter>> {
        StoreFuture::new(async move {
            let bind = |query: Query<'a>| query.bind(key.endpoint()).bind(key.event_id());
            let rows = self.0.run(|sql| &sql.letters.get, bind).await?;
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
            let rows = self.0.run(|sql| &sql.letters.list, bind).await?;
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
            Ok(!self.0.run(|sql| &sql.letters.discard, bind).await?.is_empty())
        })
    }

    fn count<'a>(&'a self, endpoint: &'a str) -> Option<StoreFuture<'a, HashMap<DeadLetterReason, u64>>> {
        Some(StoreFuture::new(async move {
            counts(&self.0.run(|sql| &sql.letters.count, |query: Query<'a>| query.bind(endpoint)).await?)
        }))
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
