//! What the table of claims is asked.

/// This moment in Unix milliseconds, when the statement has its lock. The clock has no more digits, so a
/// duration begins with the next one.
macro_rules! now {
    () => {
        "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
    };
}

pub(super) const FIND: &str = concat!(
    "SELECT state, token, until - ",
    now!(),
    " AS remaining FROM sendarix_claims WHERE endpoint = ?1 AND event_id = ?2"
);

pub(super) const CLAIM: &str = concat!(
    "INSERT INTO sendarix_claims AS c (endpoint, event_id, token, attempt, state, until)
     VALUES (?1, ?2, ?3, 1, 'live', ",
    now!(),
    " + 1 + ?4)
     ON CONFLICT (endpoint, event_id) DO UPDATE SET
        attempt = CASE
            WHEN c.state = 'live' AND c.token = excluded.token THEN c.attempt
            WHEN c.state IN ('completed', 'given_up') THEN 1
            ELSE c.attempt + 1 END,
        token = excluded.token, state = 'live', until = excluded.until
     WHERE (c.state = 'live' AND c.token = excluded.token) OR c.state = 'failed' OR c.until <= ",
    now!(),
    " OR (c.state = 'live' AND c.until > ",
    now!(),
    " + 1 + ?5) RETURNING attempt"
);

/// From live, or from one more state.
macro_rules! settle {
    ($state:literal) => {
        settle!($state, $state)
    };
    ($state:literal, $or_from:literal) => {
        concat!(
            "UPDATE sendarix_claims SET state = '",
            $state,
            "', until = ",
            now!(),
            " + 1 + ?4 WHERE endpoint = ?1 AND event_id = ?2 AND token = ?3 AND state IN ('live', '",
            $or_from,
            "') RETURNING 1"
        )
    };
}

pub(super) const COMPLETE: &str = settle!("completed");
/// For a transaction, which is no repetition of another one.
pub(super) const COMPLETE_ONCE: &str = settle!("completed", "live");
pub(super) const RELEASE: &str = settle!("failed");
pub(super) const GIVE_UP: &str = settle!("given_up");

pub(super) const STATE: &str = "SELECT state FROM sendarix_claims WHERE endpoint = ?1 AND event_id = ?2 AND token = ?3";

pub(super) const IS_COMPLETED: &str = concat!(
    "SELECT 1 FROM sendarix_claims WHERE endpoint = ?1 AND event_id = ?2 AND state = 'completed' AND until > ",
    now!()
);

pub(super) const REOPEN: &str = concat!(
    "UPDATE sendarix_claims SET state = 'failed', until = ",
    now!(),
    " + ?3 WHERE endpoint = ?1 AND event_id = ?2 AND state = 'given_up'"
);

/// A live claim is not forgotten when its lease ends: its owner may still complete it, and its attempt still counts.
pub(super) const PURGE: &str = concat!(
    "DELETE FROM sendarix_claims WHERE (endpoint, event_id) IN (
        SELECT endpoint, event_id FROM sendarix_claims
        WHERE until < ",
    now!(),
    " AND (state <> 'live' OR until < ",
    now!(),
    " - ?1)
        ORDER BY until LIMIT ?2) RETURNING 1"
);

/// Ends the claims from before the clock stepped back: see [`CLAIM`]. From now on, their attempts count for a day.
pub(super) const CLAMP: &str =
    concat!("UPDATE sendarix_claims SET until = ", now!(), " WHERE state = 'live' AND until > ", now!(), " + 1 + ?1");
