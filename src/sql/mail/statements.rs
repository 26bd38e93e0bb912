//! What the tables are asked.

use std::fmt::Display;
use std::sync::Arc;

use super::{LATER, MailDialect, MailTables, SUPPRESS};
#[cfg(doc)]
use crate::mail::MessageState;
use crate::mail::SoftBounceRule;

/// What the tables are asked. Times are in Unix microseconds.
#[derive(Debug)]
pub(crate) struct MailStatements {
    pub(crate) suppressed: Arc<str>,
    pub(crate) entry: Arc<str>,
    pub(crate) suppressions: Arc<str>,
    pub(crate) suppress: Arc<str>,
    pub(crate) release: Arc<str>,
    pub(crate) message: Arc<str>,
    pub(crate) messages: Arc<str>,
    pub(crate) messages_to: Arc<str>,
    pub(crate) timeline: Arc<str>,
    pub(crate) rates: Arc<str>,
    /// Takes an address off the list that soft bounces have put there. Binds the address.
    pub(crate) lift_soft_bounces: Arc<str>,
    /// Puts it back if the rule says so. Binds the address, the count less one, and the time.
    pub(crate) apply_soft_bounces: Arc<str>,
    pub(crate) purge_events: Arc<str>,
    pub(crate) purge_messages: Arc<str>,
    pub(crate) purge_rates: Arc<str>,
    pub(crate) erase_events: Arc<str>,
    pub(crate) erase_messages: Arc<str>,
    /// Copies a suppression to another address. Binds both.
    pub(crate) copy_suppression: Arc<str>,
    pub(crate) erase_suppression: Arc<str>,
}

impl MailStatements {
    pub(crate) fn new<T: Display>(tables: &MailTables<T>, dialect: &MailDialect) -> Self {
        let MailTables { events, messages, suppressions, rates } = tables;
        let MailDialect { time, micros, span, greatest, list, .. } = dialect;
        let time = |parameter: &str| time(&format!("CAST({parameter} AS bigint)"));
        let read = |columns: &[&str]| {
            columns.iter().map(|column| format!("{} AS {column}", micros(column))).collect::<Vec<_>>()
        };
        let message_times = read(&[
            "accepted_at",
            "deferred_at",
            "soft_bounce_at",
            "delivered_at",
            "bounce_at",
            "complained_at",
            "unsubscribed_at",
            "first_open_at",
            "last_open_at",
            "first_click_at",
            "last_click_at",
            "last_event_at",
        ]);
        let message_times = message_times.join(", ");
        let message = format!(
            "SELECT message_id, address, recipient, soft_bounce_category, soft_bounce_smtp_code, soft_bounce_smtp_message,
                bounce_category, bounce_smtp_code, bounce_smtp_message, opens, clicks, {message_times} FROM {messages} AS m"
        );
        let entry_times = read(&["since", "released_at"]).join(", ");
        let entry = format!(
            "SELECT address, recipient, reason, event_id, message_id, released_because, {entry_times}
             FROM {suppressions} AS s"
        );
        // Of the soft bounces since the last delivery and the last release, the first that completes the count in time.
        let soft_bounces = format!(
            "SELECT event_id, message_id, recipient, at,
                lag(at, CAST($2 AS integer)) OVER (ORDER BY at, event_id) AS first FROM {events} AS e
             WHERE address = CAST($1 AS text) AND fact = 'soft_bounced'
                AND NOT EXISTS (SELECT 1 FROM {events} AS d WHERE d.address = $1 AND d.fact = 'delivered' AND d.at >= e.at)
                AND NOT EXISTS (SELECT 1 FROM {suppressions} AS s WHERE s.address = $1 AND s.released_at >= e.at)"
        );
        let within = span("CAST($3 AS bigint)");
        Self {
            suppressed: format!(
                "SELECT address FROM {suppressions} WHERE reason IS NOT NULL AND address {}",
                list("$1")
            )
            .into(),
            suppressions: format!("{entry} WHERE reason IS NOT NULL AND s.address > $1 ORDER BY s.address LIMIT $2").into(),
            entry: format!("{entry} WHERE s.address = $1").into(),
            suppress: format!(
                "INSERT INTO {suppressions} AS s (address, recipient, reason, since) SELECT $1, $2, $3, {} WHERE 1 = 1 {SUPPRESS}",
                time("$4")
            )
            .into(),
            release: format!(
                "UPDATE {suppressions} SET released_at = {}, released_because = $3, reason = NULL, since = NULL,
                    event_id = NULL, message_id = NULL
                 WHERE address = $1 AND reason IS NOT NULL RETURNING 1",
                greatest("since", &time("$2"))
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
                 WHERE address = $1 AND reason = 'soft_bounces'"
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
                    SELECT event_id FROM {events} WHERE at < {} ORDER BY at LIMIT 1000) RETURNING 1",
                time("$1")
            )
            .into(),
            purge_messages: format!(
                "DELETE FROM {messages} WHERE (message_id, address) IN (
                    SELECT message_id, address FROM {messages} WHERE last_event_at < {} ORDER BY last_event_at LIMIT 1000)
                 RETURNING 1",
                time("$1")
            )
            .into(),
            purge_rates: format!("DELETE FROM {rates} WHERE minute < {}", time("$1")).into(),
            erase_events: format!("DELETE FROM {events} WHERE address = $1 RETURNING 1").into(),
            erase_messages: format!("DELETE FROM {messages} WHERE address = $1").into(),
            copy_suppression: format!(
                "INSERT INTO {suppressions} AS s (address, recipient, reason, since, released_at, released_because)
                 SELECT $2, '', reason, since, released_at, '' FROM {suppressions} WHERE address = $1
                 ON CONFLICT (address) DO UPDATE SET reason = coalesce(s.reason, excluded.reason),
                    since = coalesce(s.since, excluded.since), released_at = {}",
                greatest("s.released_at", "excluded.released_at")
            )
            .into(),
            erase_suppression: format!("DELETE FROM {suppressions} WHERE address = $1").into(),
        }
    }
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
