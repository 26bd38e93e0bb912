//! How an event is added.
//!
//! An event's row decides whether anything changes. The statements that follow from it take their values from the same
//! parameters, by the common table `v`.

use std::fmt::Display;

use super::{MailDialect, MailTables, SUPPRESS, is_not_released};
#[cfg(doc)]
use crate::mail::Record;

/// What adds an event. Each binds a [`Record`], by [`bind_record`].
#[derive(Debug)]
pub(crate) struct Recording {
    /// The parameters as a table of one row.
    pub(crate) values: String,
    pub(crate) event: String,
    pub(crate) message: String,
    pub(crate) suppression: String,
    pub(crate) rates: String,
}

/// How many parameters a [`Record`] has.
#[cfg(feature = "postgres")]
pub(crate) const RECORD_PARAMETERS: usize = 15;

impl Recording {
    /// Each part changes something only if the condition holds.
    pub(crate) fn new<T: Display>(tables: &MailTables<T>, dialect: &MailDialect, first: &str, then: &str) -> Self {
        let MailTables { events, messages, suppressions, rates } = tables;
        let MailDialect { time, least, greatest, shard, .. } = dialect;
        let (at, minute) = (time("CAST($4 AS bigint)"), time("CAST($14 AS bigint)"));
        let values = format!(
            "v AS (SELECT CAST($1 AS text) AS event_id, CAST($2 AS text) AS event_type, CAST($3 AS text) AS fact, {at} AS at,
                CAST($5 AS text) AS message_id, CAST($6 AS text) AS address, CAST($7 AS text) AS recipient, $8 AS body,
                CAST($9 AS text) AS category, CAST($10 AS bigint) AS smtp_code, CAST($11 AS text) AS smtp_message,
                CAST($12 AS text) AS reason, CAST($13 AS text) AS counted, {minute} AS minute,
                CAST($15 AS text) AS erased)"
        );
        let event = format!(
            "INSERT INTO {events} (event_id, event_type, fact, at, message_id, address, recipient, body)
             SELECT event_id, event_type, fact, at, message_id, address, recipient, body FROM v WHERE {first}
             ON CONFLICT (event_id) DO NOTHING RETURNING 1"
        );
        let when = |fact: &str, value: &str| format!("CASE fact WHEN '{fact}' THEN {value} END");
        let failed =
            |fact: &str| ["at", "category", "smtp_code", "smtp_message"].map(|value| when(fact, value)).join(", ");
        let (soft, hard) = (failed("soft_bounced"), failed("bounced"));
        let once = |fact: &str| when(fact, "at");
        let seen = |fact: &str| format!("{0}, {0}, CASE fact WHEN '{fact}' THEN 1 ELSE 0 END", when(fact, "at"));
        let merged = |column: &str, choose: &fn(&str, &str) -> String| {
            format!("{column} = {}", choose(&format!("m.{column}"), &format!("excluded.{column}")))
        };
        let earliest =
            ["accepted_at", "delivered_at", "complained_at", "unsubscribed_at", "first_open_at", "first_click_at"]
                .map(|column| merged(column, least));
        let latest =
            ["deferred_at", "last_open_at", "last_click_at", "last_event_at"].map(|column| merged(column, greatest));
        let counts = ["opens", "clicks"].map(|column| format!("{column} = m.{column} + excluded.{column}"));
        // Of two failures the later or the earlier counts; where they are of one time, what their other columns say.
        let failure = |prefix: &str, replaces: &str| {
            let columns = ["at", "category", "smtp_code", "smtp_message"].map(|column| format!("{prefix}_{column}"));
            let [at, category, code, message] = &columns;
            let rank = |row: &str| {
                format!(
                    "({row}.{at}, {row}.{category} IS NOT NULL, coalesce({row}.{category}, ''), coalesce({row}.{code}, -1),
                      {row}.{message} IS NOT NULL, coalesce({row}.{message}, ''))"
                )
            };
            let (new, old) = (rank("excluded"), rank("m"));
            let is_new = format!("excluded.{at} IS NOT NULL AND (m.{at} IS NULL OR {new} {replaces} {old})");
            columns
                .each_ref()
                .map(|column| format!("{column} = CASE WHEN {is_new} THEN excluded.{column} ELSE m.{column} END"))
        };
        let sets = [
            earliest.join(", "),
            latest.join(", "),
            counts.join(", "),
            failure("soft_bounce", ">").join(", "),
            failure("bounce", "<").join(", "),
        ];
        let message = format!(
            "INSERT INTO {messages} AS m (message_id, address, recipient, accepted_at, deferred_at, soft_bounce_at,
                soft_bounce_category, soft_bounce_smtp_code, soft_bounce_smtp_message, delivered_at, bounce_at,
                bounce_category, bounce_smtp_code, bounce_smtp_message, complained_at, unsubscribed_at, first_open_at,
                last_open_at, opens, first_click_at, last_click_at, clicks, last_event_at)
             SELECT message_id, address, recipient, {}, {}, {soft}, {}, {hard}, {}, {}, {}, {}, at FROM v WHERE {then}
             ON CONFLICT (message_id, address) DO UPDATE SET {} RETURNING status",
            once("accepted"),
            once("deferred"),
            once("delivered"),
            once("complained"),
            once("unsubscribed"),
            seen("opened"),
            seen("clicked"),
            sets.join(", "),
        );
        let suppression = format!(
            "INSERT INTO {suppressions} AS s (address, recipient, reason, since, event_id, message_id)
             SELECT address, recipient, reason, at, event_id, message_id FROM v
             WHERE reason IS NOT NULL AND {then} AND {} {SUPPRESS}",
            is_not_released(suppressions, "v.erased", "v.at"),
        );
        let counted = |fact: &str| format!("CASE fact WHEN '{fact}' THEN 1 ELSE 0 END");
        let (delivered, bounced, complained) = (counted("delivered"), counted("bounced"), counted("complained"));
        let rates = format!(
            "INSERT INTO {rates} AS r (counted, minute, shard, delivered, bounced, complained)
             SELECT counted, minute, {shard}, {delivered}, {bounced}, {complained} FROM v
             WHERE counted IS NOT NULL AND fact IN ('delivered', 'bounced', 'complained') AND {then}
             ON CONFLICT (counted, minute, shard) DO UPDATE SET delivered = r.delivered + excluded.delivered,
                bounced = r.bounced + excluded.bounced, complained = r.complained + excluded.complained"
        );
        Self { values, event, message, suppression, rates }
    }
}

/// Binds a [`Record`], as [`Recording`] wants it.
macro_rules! bind_record {
    ($query:expr, $record:expr) => {{
        let record: &crate::mail::Record<'_> = $record;
        let (event, failure) = (record.event, record.failure.as_ref());
        let counted = record.counted.as_ref();
        $query
            .bind(event.event_id.as_str())
            .bind(event.type_name())
            .bind(record.fact.map(crate::mail::Fact::as_str))
            .bind(record.at.unix_micros())
            .bind(record.message_id.as_str())
            .bind(record.address.as_str())
            .bind(event.recipient.as_str())
            .bind(event.body().as_ref())
            .bind(failure.and_then(|failure| failure.category.as_deref()))
            .bind(failure.and_then(|failure| failure.smtp_code).map(i64::from))
            .bind(failure.and_then(|failure| failure.smtp_message.as_deref()))
            .bind(record.reason.map(crate::mail::SuppressionReason::as_str))
            .bind(counted.map(|(key, _)| key.as_str()))
            .bind(counted.map(|(_, at)| at.to_minute().unix_micros()))
            .bind(record.erased.as_ref().map(crate::mail::Address::as_str))
    }};
}
pub(crate) use bind_record;
