//! What the tables are asked.

use std::fmt::Display;
use std::sync::Arc;

use super::{EARLIER, LATER, MailDialect, MailTables, SUPPRESS, is_not_released};
#[cfg(doc)]
use crate::mail::MessageState;
use crate::mail::SoftBounceRule;
use crate::mail::{ERASED, ERASED_END};
use crate::sql::PURGE_BATCH;

/// What the tables are asked. Times are in Unix microseconds.
#[derive(Debug)]
pub(crate) struct MailStatements {
    /// Binds the addresses, and where those stand that were erased with the own key.
    pub(crate) suppressed: Arc<str>,
    pub(crate) entry: Arc<str>,
    pub(crate) suppressions: Arc<str>,
    pub(crate) suppress: Arc<str>,
    /// Records the release of an address that is not on the list. Binds as `release`.
    pub(crate) release_unlisted: Arc<str>,
    pub(crate) release: Arc<str>,
    pub(crate) message: Arc<str>,
    pub(crate) messages: Arc<str>,
    pub(crate) messages_to: Arc<str>,
    pub(crate) timeline: Arc<str>,
    pub(crate) rates: Arc<str>,
    /// Takes an address off the list that soft bounces have put there, if a delivery may change that. Binds the address, the
    /// times of the delivery and of the rule, and the address as it is kept after an erasure.
    pub(crate) lift_soft_bounces: Arc<str>,
    /// Puts an address on the list if the rule says so. Binds the address, the count less one, the time, and the address as it is
    /// kept after an erasure.
    pub(crate) apply_soft_bounces: Arc<str>,
    pub(crate) purge_events: Arc<str>,
    pub(crate) purge_messages: Arc<str>,
    pub(crate) purge_rates: Arc<str>,
    pub(crate) erase_events: Arc<str>,
    pub(crate) erase_messages: Arc<str>,
}

impl MailStatements {
    pub(crate) fn new<T: Display>(tables: &MailTables<T>, dialect: &MailDialect) -> Self {
        let MailTables { events, messages, suppressions, rates } = tables;
        let MailDialect { time, micros, span, greatest, list, given, .. } = dialect;
        let time = |parameter: &str| time(&format!("CAST({parameter} AS bigint)"));
        let (at, since) = (time("$2"), time("given.since"));
        let read = |columns: &str| {
            let columns = columns.split_whitespace().map(|column| format!("{} AS {column}", micros(column)));
            columns.collect::<Vec<_>>().join(", ")
        };
        let message_times = read(
            "accepted_at deferred_at soft_bounce_at delivered_at bounce_at complained_at unsubscribed_at first_open_at
             last_open_at first_click_at last_click_at last_event_at",
        );
        let message = format!(
            "SELECT message_id, address, recipient, soft_bounce_category, soft_bounce_smtp_code, soft_bounce_smtp_message,
                bounce_category, bounce_smtp_code, bounce_smtp_message, opens, clicks, {message_times} FROM {messages} AS m"
        );
        let entry_times = read("since released_at");
        let entry = format!(
            "SELECT address, recipient, reason, event_id, message_id, released_because, {entry_times}
             FROM {suppressions} AS s"
        );
        // Of the soft bounces since the last delivery and the last release, the first that completes the count in time.
        let latest = |of: &str| format!("coalesce(({of}), {})", time(&EARLIER.to_string()));
        let delivered = latest(&format!("SELECT max(at) FROM {events} WHERE address = $1 AND fact = 'delivered'"));
        let released = latest(&format!(
            "SELECT max(released_at) FROM {suppressions} WHERE address = $1 OR address = CAST($4 AS text)"
        ));
        let soft_bounces = format!(
            "SELECT event_id, message_id, recipient, at, lag(at, CAST($2 AS integer)) OVER (ORDER BY at, event_id) AS first
             FROM {events}
             WHERE address = CAST($1 AS text) AND fact = 'soft_bounced' AND at > {delivered} AND at > {released}"
        );
        let within = span("CAST($3 AS bigint)");
        let one_of = |range: &str| {
            let found = format!("SELECT address FROM {suppressions} WHERE reason IS NOT NULL AND {range} LIMIT 1");
            format!("SELECT * FROM ({found}) AS erased")
        };
        Self {
            suppressed: format!(
                "SELECT address FROM {suppressions} WHERE reason IS NOT NULL AND address {}
                 UNION ALL {} UNION ALL {}",
                list("$1"),
                one_of(&format!("address >= '{ERASED}' AND address < $2")),
                one_of(&format!("address >= $3 AND address < '{ERASED_END}'"))
            )
            .into(),
            suppressions: format!("{entry} WHERE reason IS NOT NULL AND s.address > $1 ORDER BY s.address LIMIT $2").into(),
            entry: format!("{entry} WHERE s.address = $1").into(),
            suppress: format!(
                "INSERT INTO {suppressions} AS s (address, recipient, reason, since, event_id, message_id)
                 SELECT address, recipient, reason, {since}, event_id, message_id FROM {given}
                 WHERE {} {SUPPRESS}",
                is_not_released(suppressions, "given.erased", &since)
            )
            .into(),
            release_unlisted: format!(
                "INSERT INTO {suppressions} AS s (address, recipient, released_at, released_because)
                 VALUES (CAST($1 AS text), CAST($1 AS text), {at}, $3)
                 ON CONFLICT (address) DO UPDATE SET released_at = {},
                    released_because = CASE WHEN s.released_at >= {at} THEN s.released_because ELSE $3 END
                 WHERE s.reason IS NULL RETURNING 1",
                greatest("s.released_at", &at)
            )
            .into(),
            release: format!(
                "UPDATE {suppressions} SET released_at = {}, released_because = $3, reason = NULL, since = NULL,
                    event_id = NULL, message_id = NULL
                 WHERE address = $1 AND (reason IS NOT NULL OR (released_at = {at} AND released_because = $3)) RETURNING 1",
                greatest("since", &at)
            )
            .into(),
            message: format!("{message} WHERE m.message_id = $1 AND m.address = $2").into(),
            messages: format!("{message} WHERE m.message_id = $1 ORDER BY m.address").into(),
            messages_to: format!(
                "{message} WHERE m.address = $1 AND (m.last_event_at, m.message_id) < ({}, $3)
                 ORDER BY m.last_event_at DESC, m.message_id DESC LIMIT $4",
                time("$2")
            )
            .into(),
            timeline: format!(
                "SELECT body FROM {events} WHERE address = $1 AND (at, event_id) < ({}, $3)
                 ORDER BY at DESC, event_id DESC LIMIT $4",
                time("$2")
            )
            .into(),
            rates: format!(
                "SELECT CAST(coalesce(sum(delivered), 0) AS bigint) AS delivered, CAST(coalesce(sum(bounced), 0) AS bigint) AS bounced,
                    CAST(coalesce(sum(complained), 0) AS bigint) AS complained
                 FROM {rates} WHERE counted = $1 AND minute >= {}",
                time("$2")
            )
            .into(),
            lift_soft_bounces: format!(
                "UPDATE {suppressions} SET reason = NULL, since = NULL, event_id = NULL, message_id = NULL
                 WHERE address IN ($1, CAST($4 AS text)) AND reason = 'soft_bounces' AND since - {} <= {at}",
                span("CAST($3 AS bigint)")
            )
            .into(),
            apply_soft_bounces: format!(
                "INSERT INTO {suppressions} AS s (address, recipient, reason, since, event_id, message_id)
                 SELECT * FROM (SELECT $1, recipient, 'soft_bounces', at, event_id, message_id FROM ({soft_bounces}) AS soft
                    WHERE at - first <= {within} ORDER BY at, event_id LIMIT 1) AS found WHERE 1 = 1 {SUPPRESS}"
            )
            .into(),
            purge_events: format!(
                "DELETE FROM {events} WHERE event_id IN (
                    SELECT event_id FROM {events} WHERE at < {} ORDER BY at LIMIT {PURGE_BATCH}) RETURNING 1",
                time("$1")
            )
            .into(),
            purge_messages: format!(
                "DELETE FROM {messages} WHERE (message_id, address) IN (
                    SELECT message_id, address FROM {messages} WHERE last_event_at < {} ORDER BY last_event_at LIMIT {PURGE_BATCH})
                 RETURNING 1",
                time("$1")
            )
            .into(),
            purge_rates: format!(
                "DELETE FROM {rates} WHERE (counted, minute, shard) IN (
                    SELECT counted, minute, shard FROM {rates} WHERE minute < {} ORDER BY minute LIMIT {PURGE_BATCH})
                 RETURNING 1",
                time("$1")
            )
            .into(),
            erase_events: format!(
                "DELETE FROM {events} WHERE event_id IN (
                    SELECT event_id FROM {events} WHERE address = $1 LIMIT {PURGE_BATCH}) RETURNING 1"
            )
            .into(),
            erase_messages: format!(
                "DELETE FROM {messages} WHERE address = $1 AND message_id IN (
                    SELECT message_id FROM {messages} WHERE address = $1 LIMIT {PURGE_BATCH}) RETURNING 1"
            )
            .into(),
        }
    }
}

/// Copies a suppression from these rows to the address `$2`, and merges it with what is there.
pub(crate) fn copy_suppression(suppressions: &impl Display, rows: &str, greatest: fn(&str, &str) -> String) -> String {
    let released_at = greatest("s.released_at", "excluded.released_at");
    let stands = |one: &str, other: &str| {
        format!("({one}.reason IS NOT NULL AND ({other}.released_at IS NULL OR {one}.since > {other}.released_at))")
    };
    let (old, new) = (stands("s", "excluded"), stands("excluded", "s"));
    let rank = |row: &str| format!("(CASE {row}.reason WHEN 'soft_bounces' THEN 1 ELSE 0 END, {row}.since)");
    let wins = format!("{new} AND (NOT {old} OR {} < {})", rank("excluded"), rank("s"));
    let merged = |column: &str| format!("CASE WHEN {wins} THEN excluded.{column} WHEN {old} THEN s.{column} END");
    format!(
        "INSERT INTO {suppressions} AS s (address, recipient, reason, since, released_at, released_because)
         SELECT $2, '', reason, since, released_at, '' FROM {rows}
         ON CONFLICT (address) DO UPDATE SET reason = {}, since = {}, released_at = {released_at}, released_because = ''",
        merged("reason"),
        merged("since")
    )
}

/// The parameters of [`MailStatements::apply_soft_bounces`] beside the address.
pub(crate) fn soft_bounce_parameters(rule: SoftBounceRule) -> (i64, i64) {
    (i64::from(rule.count) - 1, i64::try_from(rule.within.as_micros()).unwrap_or(LATER).min(LATER))
}

/// [`MessageState::status`] in SQL.
macro_rules! message_status {
    () => {
        "CASE WHEN bounce_at IS NOT NULL THEN 'bounced'
            WHEN coalesce(delivered_at, first_open_at, first_click_at, complained_at, unsubscribed_at) IS NOT NULL
                THEN 'delivered'
            WHEN soft_bounce_at IS NOT NULL THEN 'soft_bounced'
            WHEN deferred_at IS NOT NULL THEN 'deferred'
            WHEN accepted_at IS NOT NULL THEN 'accepted' END"
    };
}
pub(crate) use message_status;
