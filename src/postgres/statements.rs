//! What the tables are asked.

use std::sync::Arc;

use super::schema::Table;
use crate::contract::MAX_LEASE;
use crate::sql::letters::{Dialect, LetterStatements};
use crate::sql::{FAILED_FOR, PURGE_BATCH};

/// The statements of one store. Times are in microseconds, tokens in hex.
#[derive(Debug)]
pub(super) struct Statements {
    /// Binds the endpoint, the event's id, the token, and the lease.
    pub(super) claim: Arc<str>,
    /// Brings a live claim into a state, or finds it there. Binds the endpoint, the event's id, the token, how long the row
    /// is needed, and the state.
    pub(super) settle: Arc<str>,
    /// Completes a live claim within the handler's transaction, which is no repetition of another one. Binds the endpoint,
    /// the event's id, the token, and the retention.
    pub(super) complete_once: Arc<str>,
    /// Binds the endpoint, the event's id, and the token.
    pub(super) state: Arc<str>,
    /// Binds the endpoint, the event's id, and how long the row is needed.
    pub(super) reopen: Arc<str>,
    /// Binds the endpoint and the event's id.
    pub(super) is_completed: Arc<str>,
    pub(super) purge: Arc<str>,
    pub(super) clamp: Arc<str>,
    pub(super) letters: LetterStatements,
}

/// [`MAX_LEASE`] in SQL.
const MAX_LEASE_INTERVAL: &str = "interval '330 seconds'";
const _: () = assert!(MAX_LEASE.as_secs() == 330);

/// How long the server waits for the commit of a transaction that has completed a claim.
const LONGEST_COMMIT: &str = "5s";

impl Statements {
    pub(super) fn new(claims: &Table, letters: &Table) -> Self {
        let row = "endpoint = $1 AND event_id = $2";
        let failed_for = FAILED_FOR.as_secs();
        // The second half sees the row as it was before, and answers only if the first half did not claim it.
        let claim = format!(
            "WITH claimed AS (
                INSERT INTO {claims} AS c (endpoint, event_id, token, attempt, state, until)
                VALUES ($1, $2, $3::uuid, 1, 'live', clock_timestamp() + $4 * interval '1 microsecond')
                ON CONFLICT (endpoint, event_id) DO UPDATE SET
                    attempt = CASE
                        WHEN c.state = 'live' AND c.token = excluded.token THEN c.attempt
                        WHEN c.state IN ('completed', 'given_up') THEN 1
                        ELSE c.attempt + 1 END,
                    token = excluded.token, state = 'live', until = excluded.until
                WHERE (c.state = 'live' AND c.token = excluded.token)
                    OR c.state = 'failed' OR c.until <= clock_timestamp()
                    OR (c.state = 'live' AND c.until > clock_timestamp() + {MAX_LEASE_INTERVAL})
                RETURNING attempt
             )
             SELECT 'granted' AS state, attempt AS number FROM claimed
             UNION ALL
             SELECT state, (extract(epoch FROM until - clock_timestamp()) * 1000000)::bigint FROM {claims}
             WHERE {row} AND NOT EXISTS (SELECT FROM claimed)"
        );
        // A trigger deletes the letter of an event that is completed.
        let settle = format!(
            "UPDATE {claims} SET state = $5, until = clock_timestamp() + $4 * interval '1 microsecond'
             WHERE {row} AND token = $3::uuid AND state IN ('live', $5) RETURNING 1"
        );
        // While the transaction is open the event's row is locked, also when the process is stopped.
        let complete_once = format!(
            "UPDATE {claims} SET state = 'completed', until = clock_timestamp() + $4 * interval '1 microsecond'
             WHERE {row} AND token = $3::uuid AND state = 'live'
             RETURNING set_config('idle_in_transaction_session_timeout', '{LONGEST_COMMIT}', true)"
        );
        // A live claim is not forgotten when its lease ends: its owner may still complete it, and its attempt still counts.
        let purge = format!(
            "DELETE FROM {claims} WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM {claims}
                WHERE until < now() AND (state <> 'live' OR until < now() - interval '{failed_for} seconds')
                ORDER BY until LIMIT {PURGE_BATCH} FOR UPDATE SKIP LOCKED))
             RETURNING 1"
        );
        // Claims from before the clock stepped back: see `claim`. From now on, their attempts count for a day.
        let clamp = format!(
            "UPDATE {claims} SET until = clock_timestamp()
             WHERE state = 'live' AND until > clock_timestamp() + {MAX_LEASE_INTERVAL}"
        );
        let reopen = format!(
            "UPDATE {claims} SET state = 'failed', until = clock_timestamp() + $3 * interval '1 microsecond'
             WHERE {row} AND state = 'given_up'"
        );
        let is_completed =
            format!("SELECT 1 FROM {claims} WHERE {row} AND state = 'completed' AND until > clock_timestamp()");
        let dialect = Dialect {
            // The lock makes this wait for a completion that is under way.
            with: &format!("WITH claim AS (SELECT state, until FROM {claims} WHERE {row} FOR SHARE)"),
            completed: "SELECT FROM claim WHERE state = 'completed' AND until > clock_timestamp()",
            time: |text| format!("{text}::timestamptz"),
            time_text: |column| format!("to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"),
        };
        Self {
            claim: claim.into(),
            settle: settle.into(),
            complete_once: complete_once.into(),
            state: format!("SELECT state FROM {claims} WHERE {row} AND token = $3::uuid").into(),
            reopen: reopen.into(),
            is_completed: is_completed.into(),
            purge: purge.into(),
            clamp: clamp.into(),
            letters: LetterStatements::new(letters, &dialect),
        }
    }
}
