//! Mail state as rows: the statements and the shapes that SQLite and PostgreSQL share.

mod recording;
mod rows;
mod statements;

use std::fmt::Display;

use crate::event::Timestamp;

#[cfg(feature = "postgres")]
pub(crate) use self::recording::RECORD_PARAMETERS;
pub(crate) use self::recording::{Recording, bind_record};
pub(crate) use self::rows::{entry, message, rates};
pub(crate) use self::statements::{MailStatements, copy_suppression, message_status, soft_bounce_parameters};

/// The names of the tables, as SQL has them.
#[derive(Debug)]
pub(crate) struct MailTables<T> {
    pub(crate) events: T,
    pub(crate) messages: T,
    pub(crate) suppressions: T,
    pub(crate) rates: T,
}

/// Where the databases differ.
pub(crate) struct MailDialect {
    /// From Unix microseconds to a time as the columns have it.
    pub(crate) time: fn(&str) -> String,
    /// From a time as the columns have it to Unix microseconds.
    pub(crate) micros: fn(&str) -> String,
    /// A length of time in microseconds, as the difference of two times.
    pub(crate) span: fn(&str) -> String,
    /// The lesser and the greater of two values, of which either may be NULL.
    pub(crate) least: fn(&str, &str) -> String,
    pub(crate) greatest: fn(&str, &str) -> String,
    /// The elements of a parameter that is a list of texts.
    pub(crate) list: fn(&str) -> String,
    /// Entries of a suppression list as a table: `address`, `recipient`, `reason`, `since`, `event_id`, `message_id`, and `erased`,
    /// the address as it is kept after an erasure.
    pub(crate) given: &'static str,
    /// One of a few numbers, which spreads the rows that all connections count in.
    pub(crate) shard: &'static str,
}

/// Later than every [`Timestamp`], and a time that both databases know.
pub(crate) const LATER: i64 = i64::MAX / 16;

/// Earlier than every [`Timestamp`].
const EARLIER: i64 = -62_167_219_200_000_001;

/// Where a page begins.
pub(crate) fn page_start(after: Option<(Timestamp, &str)>) -> (i64, &str) {
    after.map_or((LATER, ""), |(at, id)| (at.unix_micros(), id))
}

/// A condition: the address was not released after this time under the form that it has after an erasure.
fn is_not_released(suppressions: &impl Display, erased: &str, at: &str) -> String {
    format!("NOT EXISTS (SELECT 1 FROM {suppressions} AS e WHERE e.address = {erased} AND e.released_at >= {at})")
}

/// The end of an INSERT into the suppressions `AS s`: an address stays released from what happened before, the rule for soft
/// bounces yields to other reasons, and the first event counts.
const SUPPRESS: &str = "
    ON CONFLICT (address) DO UPDATE SET recipient = excluded.recipient, reason = excluded.reason, since = excluded.since,
        event_id = excluded.event_id, message_id = excluded.message_id
    WHERE (s.released_at IS NULL OR excluded.since > s.released_at) AND (s.reason IS NULL OR
        (CASE excluded.reason WHEN 'soft_bounces' THEN 1 ELSE 0 END, excluded.since, coalesce(excluded.event_id, ''))
        < (CASE s.reason WHEN 'soft_bounces' THEN 1 ELSE 0 END, s.since, coalesce(s.event_id, '')))";
