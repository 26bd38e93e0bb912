//! Dead letters as rows: what SQLite and PostgreSQL share.

use crate::dead_letter::{DeadLetter, ListedLetter, UnreadableLetter};
use crate::event::{EventKey, Place};
use crate::storage::StoreError;
use crate::verify::Signature;

/// The columns in the order of a [`Row`].
pub(crate) const COLUMNS: &str = "endpoint, event_id, reason, error, attempts, first_at, last_at, signature, \
    timestamp_header, error_line, error_column, body";

/// The columns as a [`Row`] is read, where the database has a type for times.
#[cfg(feature = "postgres")]
pub(crate) const COLUMNS_AS_TEXT: &str = "endpoint, event_id, reason, error, attempts, \
    to_char(first_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS first_at, \
    to_char(last_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS last_at, signature, timestamp_header, \
    error_line, error_column, body";

/// The end of an INSERT into the table `AS l`: [`DeadLetter::superseding`] in SQL.
pub(crate) const SUPERSEDE: &str = "
    ON CONFLICT (endpoint, event_id) DO UPDATE SET
        reason = CASE excluded.reason WHEN 'failed' THEN l.reason ELSE excluded.reason END,
        error = excluded.error,
        attempts = CASE WHEN l.attempts > excluded.attempts THEN l.attempts ELSE excluded.attempts END,
        first_at = CASE WHEN l.first_at < excluded.first_at THEN l.first_at ELSE excluded.first_at END,
        last_at = excluded.last_at,
        signature = excluded.signature,
        timestamp_header = excluded.timestamp_header,
        error_line = excluded.error_line,
        error_column = excluded.error_column,
        body = excluded.body";

pub(crate) type Row = (
    String,
    String,
    String,
    String,
    i64,
    String,
    String,
    Option<String>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Vec<u8>,
);

/// The row of a letter. Times are texts that sort as the times do, and that both databases read.
pub(crate) fn row(letter: &DeadLetter) -> Row {
    (
        letter.key.endpoint().to_owned(),
        letter.key.event_id().to_owned(),
        letter.reason.as_str().to_owned(),
        // No text of a database can hold a NUL.
        letter.error.replace('\0', "\u{fffd}"),
        letter.attempts.into(),
        letter.first_at.to_sortable(),
        letter.last_at.to_sortable(),
        letter.signature.map(|signature| signature.to_string()),
        letter.timestamp_header.map(u64::cast_signed),
        letter.place.map(|place| (place.line as u64).cast_signed()),
        letter.place.map(|place| (place.column as u64).cast_signed()),
        letter.body.to_vec(),
    )
}

/// A letter of a page, by the row if it could be read, and by its key if not.
pub(crate) fn listed(endpoint: &str, event_id: &str, row: Result<Row, sqlx::Error>) -> ListedLetter {
    row.map_err(StoreError::new)
        .and_then(letter)
        .map_err(|error| UnreadableLetter::new(EventKey::new(endpoint, event_id), error))
}

fn letter(row: Row) -> Result<DeadLetter, StoreError> {
    let (
        endpoint,
        event_id,
        reason,
        error,
        attempts,
        first_at,
        last_at,
        signature,
        timestamp_header,
        line,
        column,
        body,
    ) = row;
    let place = |line: i64, column: i64| {
        Some(Place { line: usize::try_from(line).ok()?, column: usize::try_from(column).ok()? })
    };
    Ok(DeadLetter {
        key: EventKey::new(endpoint, event_id),
        body: body.into(),
        signature: signature.map(|text| Signature::parse(text.as_bytes())).transpose().map_err(StoreError::new)?,
        timestamp_header: timestamp_header.map(i64::cast_unsigned),
        reason: reason.into(),
        error,
        place: line.zip(column).and_then(|(line, column)| place(line, column)),
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        first_at: first_at.parse().map_err(StoreError::new)?,
        last_at: last_at.parse().map_err(StoreError::new)?,
    })
}
