//! Dead letters as rows: the statements and the shape that SQLite and PostgreSQL share.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use sqlx::{ColumnIndex, Decode, FromRow, Type};

use crate::dead_letter::{DeadLetter, DeadLetterReason, ListedLetter, UnreadableLetter};
use crate::event::{EventKey, Place};
use crate::storage::StoreError;
use crate::verify::Signature;

/// What a table of letters is asked. Both databases number parameters as `$1`.
#[derive(Debug)]
pub(crate) struct LetterStatements {
    /// Binds a [`Row`], by [`bind_row`].
    pub(crate) record: Arc<str>,
    /// Binds the endpoint and the event's id.
    pub(crate) resolve: Arc<str>,
    /// Binds the endpoint and the event's id.
    pub(crate) get: Arc<str>,
    /// Binds the endpoint, the id after which the page begins, and how many letters it has at most.
    pub(crate) list: Arc<str>,
    /// Binds the endpoint, the event's id, the attempts, and the last time as a text. Returns a row if it deleted one.
    pub(crate) discard: Arc<str>,
    /// Binds the endpoint. Returns a reason and a number in each row.
    pub(crate) count: Arc<str>,
}

/// Where the databases differ about letters.
pub(crate) struct Dialect<'a> {
    /// What stands before the INSERT.
    pub(crate) with: &'a str,
    /// A SELECT that finds a row if the event has been handled.
    pub(crate) completed: &'a str,
    /// From a text to a time as the column has it.
    pub(crate) time: fn(&str) -> String,
    /// From a time as the column has it to a text.
    pub(crate) time_text: fn(&str) -> String,
}

impl LetterStatements {
    pub(crate) fn new(letters: impl Display, dialect: &Dialect<'_>) -> Self {
        let Dialect { with, completed, time, time_text } = dialect;
        let [first, last] = ["$6", "$7"].map(time);
        let [first_text, last_text] = ["first_at", "last_at"].map(time_text);
        let columns = format!(
            "endpoint, event_id, reason, error, attempts, {first_text} AS first_at, {last_text} AS last_at, signature,
             timestamp_header, error_line, error_column, body"
        );
        let read_last = time("$4");
        let (resolved, found) = ("endpoint = $1 AND event_id = $2", "endpoint = $1 AND event_id > $2");
        Self {
            // An event that has been handled needs no letter: a delivery that has lost its claim would leave one behind.
            record: format!(
                "{with} INSERT INTO {letters} AS l (endpoint, event_id, reason, error, attempts, first_at, last_at,
                    signature, timestamp_header, error_line, error_column, body)
                 SELECT $1, $2, $3, $4, $5, {first}, {last}, $8, $9, $10, $11, $12
                 WHERE NOT EXISTS ({completed}) {SUPERSEDE}"
            )
            .into(),
            resolve: format!("DELETE FROM {letters} WHERE {resolved}").into(),
            get: format!("SELECT {columns} FROM {letters} WHERE {resolved}").into(),
            list: format!("SELECT {columns} FROM {letters} WHERE {found} ORDER BY event_id LIMIT $3").into(),
            discard: format!(
                "DELETE FROM {letters} WHERE {resolved} AND attempts = $3 AND last_at = {read_last} RETURNING 1"
            )
            .into(),
            count: format!("SELECT reason, count(*) AS letters FROM {letters} WHERE endpoint = $1 GROUP BY reason")
                .into(),
        }
    }
}

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

/// The rows of [`LetterStatements::count`].
pub(crate) fn counts<'r, R>(rows: &'r [R]) -> Result<HashMap<DeadLetterReason, u64>, StoreError>
where
    R: sqlx::Row,
    (String, i64): FromRow<'r, R>,
{
    let count = |row| {
        let (reason, letters) = <(String, i64)>::from_row(row).map_err(StoreError::new)?;
        Ok((reason.into(), u64::try_from(letters).unwrap_or_default()))
    };
    rows.iter().map(count).collect()
}

/// Binds a [`Row`] to [`LetterStatements::record`].
macro_rules! bind_row {
    ($query:expr, $row:expr) => {{
        let (query, row) = ($query, $row);
        let query = query.bind(&row.0).bind(&row.1).bind(&row.2).bind(&row.3).bind(row.4).bind(&row.5).bind(&row.6);
        query.bind(&row.7).bind(row.8).bind(row.9).bind(row.10).bind(&row.11)
    }};
}
pub(crate) use bind_row;

/// A letter of a page. A row that cannot be read costs that letter alone, and is told by its key.
pub(crate) fn listed<'r, R>(endpoint: &str, row: &'r R) -> ListedLetter
where
    R: sqlx::Row,
    Row: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    let letter = Row::from_row(row).map_err(StoreError::new).and_then(letter);
    letter.map_err(|error| {
        let event_id: String = row.try_get_unchecked("event_id").unwrap_or_default();
        UnreadableLetter::new(EventKey::new(endpoint, event_id), error)
    })
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
