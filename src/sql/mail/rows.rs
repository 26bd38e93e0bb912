//! Rows of mail state as values.

use sqlx::{ColumnIndex, Decode, Type};

use crate::event::Timestamp;
use crate::mail::{Address, Failure, Message, MessageState, Rates, Release, Seen, Suppressed, SuppressionEntry};

/// A row that can be read by the names of its columns.
pub(crate) trait MailRow: sqlx::Row {
    fn text(&self, column: &'static str) -> Result<Option<String>, sqlx::Error>;
    fn number(&self, column: &'static str) -> Result<Option<i64>, sqlx::Error>;
}

impl<R> MailRow for R
where
    R: sqlx::Row,
    &'static str: ColumnIndex<R>,
    for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
{
    fn text(&self, column: &'static str) -> Result<Option<String>, sqlx::Error> {
        self.try_get(column)
    }

    fn number(&self, column: &'static str) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(column)
    }
}

pub(crate) fn message(row: &impl MailRow) -> Result<Message, sqlx::Error> {
    let time = |column| Ok::<_, sqlx::Error>(row.number(column)?.map(Timestamp::from_unix_micros));
    let failure = |at, category, code, text| {
        let Some(at) = time(at)? else { return Ok::<_, sqlx::Error>(None) };
        let smtp_code = row.number(code)?.and_then(|code| u16::try_from(code).ok());
        Ok(Some(Failure { at, category: row.text(category)?, smtp_code, smtp_message: row.text(text)? }))
    };
    let seen =
        |first, last| Ok::<_, sqlx::Error>(time(first)?.zip(time(last)?).map(|(first, last)| Seen { first, last }));
    let state = MessageState {
        accepted: time("accepted_at")?,
        deferred: time("deferred_at")?,
        soft_bounce: failure(
            "soft_bounce_at",
            "soft_bounce_category",
            "soft_bounce_smtp_code",
            "soft_bounce_smtp_message",
        )?,
        delivered: time("delivered_at")?,
        bounce: failure("bounce_at", "bounce_category", "bounce_smtp_code", "bounce_smtp_message")?,
        complaint: time("complained_at")?,
        unsubscribe: time("unsubscribed_at")?,
        open: seen("first_open_at", "last_open_at")?,
        click: seen("first_click_at", "last_click_at")?,
    };
    let last_event_at = time("last_event_at")?.ok_or(sqlx::Error::RowNotFound)?;
    Ok(Message {
        message_id: row.text("message_id")?.unwrap_or_default(),
        address: Address::kept(row.text("address")?.unwrap_or_default()),
        recipient: row.text("recipient")?.unwrap_or_default(),
        state,
        opens: count(row, "opens")?,
        clicks: count(row, "clicks")?,
        last_event_at,
    })
}

pub(crate) fn entry(row: &impl MailRow) -> Result<SuppressionEntry, sqlx::Error> {
    let time = |column| Ok::<_, sqlx::Error>(row.number(column)?.map(Timestamp::from_unix_micros));
    let reason = row.text("reason")?.map(|reason| reason.parse()).transpose();
    let suppressed = reason.map_err(|error| sqlx::Error::Decode(Box::new(error)))?.zip(time("since")?);
    let (event_id, message_id) = (row.text("event_id")?, row.text("message_id")?);
    let because = row.text("released_because")?.unwrap_or_default();
    Ok(SuppressionEntry {
        address: Address::kept(row.text("address")?.unwrap_or_default()),
        recipient: row.text("recipient")?.unwrap_or_default(),
        suppressed: suppressed.map(|(reason, since)| Suppressed { reason, since, event_id, message_id }),
        released: time("released_at")?.map(|at| Release { at, because }),
    })
}

pub(crate) fn rates(row: &impl MailRow) -> Result<Rates, sqlx::Error> {
    let [delivered, bounced, complained] = ["delivered", "bounced", "complained"].map(|column| count(row, column));
    Ok(Rates { delivered: delivered?, bounced: bounced?, complained: complained? })
}

fn count(row: &impl MailRow, column: &'static str) -> Result<u64, sqlx::Error> {
    Ok(row.number(column)?.and_then(|number| u64::try_from(number).ok()).unwrap_or_default())
}
