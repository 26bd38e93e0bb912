//! The tables, their version, and the way from each version to the next.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Error};

/// Raise it with every change of the tables, and add the way from the version before to [`prepare`].
///
/// Before version 1 there was no number: ids, errors and tokens were blobs.
const CURRENT: i64 = 1;

const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS sendarix_schema (version INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS sendarix_claims (
        endpoint TEXT NOT NULL,
        event_id TEXT NOT NULL,
        -- Which claim the row is of, in hex
        token TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        -- 'live', 'failed', 'given_up' or 'completed'
        state TEXT NOT NULL,
        -- In Unix milliseconds: the end of a live claim's lease; after it, how long the row is needed
        until INTEGER NOT NULL,
        PRIMARY KEY (endpoint, event_id)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS sendarix_claims_until ON sendarix_claims (until);
    CREATE INDEX IF NOT EXISTS sendarix_claims_live ON sendarix_claims (until) WHERE state = 'live';
    CREATE TABLE IF NOT EXISTS sendarix_dead_letters (
        endpoint TEXT NOT NULL,
        -- The event's id; for a body that has none, a digest of the body
        event_id TEXT NOT NULL,
        -- 'failed', 'failed_permanently', 'malformed', 'unknown_type' or 'expired'
        reason TEXT NOT NULL,
        error TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        -- As in 2026-04-19T14:30:45.000000000Z
        first_at TEXT NOT NULL,
        last_at TEXT NOT NULL,
        -- In hex; NULL for an event that the application delivered
        signature TEXT,
        -- In Unix seconds
        timestamp_header INTEGER,
        -- Where in the body decoding stopped
        error_line INTEGER,
        error_column INTEGER,
        -- The exact bytes that were signed
        body BLOB NOT NULL,
        PRIMARY KEY (endpoint, event_id)
    );
    -- An event that has been handled leaves no letter, whatever happens to the process just then
    CREATE TRIGGER IF NOT EXISTS sendarix_completed
    AFTER UPDATE OF state ON sendarix_claims WHEN NEW.state = 'completed'
    BEGIN
        DELETE FROM sendarix_dead_letters WHERE endpoint = NEW.endpoint AND event_id = NEW.event_id;
    END;
    DELETE FROM sendarix_schema;
    INSERT INTO sendarix_schema (version) VALUES (1);";
const _: () = assert!(CURRENT == 1);

/// Makes room for the tables of version 1.
const SET_ASIDE: &str = "
    DROP TRIGGER IF EXISTS sendarix_completed;
    DROP INDEX IF EXISTS sendarix_claims_until;
    DROP INDEX IF EXISTS sendarix_claims_live;
    ALTER TABLE sendarix_claims RENAME TO sendarix_claims_0;
    ALTER TABLE sendarix_dead_letters RENAME TO sendarix_dead_letters_0;";

/// Moves the rows of the tables that had no version.
const MOVE: &str = "
    INSERT INTO sendarix_claims
    SELECT endpoint, CAST(event_id AS TEXT), lower(hex(token)), attempt, state, until FROM sendarix_claims_0;
    INSERT INTO sendarix_dead_letters
    SELECT endpoint, CAST(event_id AS TEXT), reason, CAST(error AS TEXT), attempts, first_at, last_at, signature,
        timestamp_header, error_line, error_column, body FROM sendarix_dead_letters_0;
    DROP TABLE sendarix_claims_0;
    DROP TABLE sendarix_dead_letters_0;";

/// What is there of the tables.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// The tables from before there were versions.
    WithoutVersion,
    Current,
    /// A table or the trigger is missing, or all of them.
    Incomplete,
}

/// Makes the tables, or brings them to the current version.
///
/// # Errors
///
/// The tables have a version that only a newer version of the crate knows.
pub(super) async fn prepare(connection: &mut SqliteConnection) -> Result<(), Error> {
    if find(connection).await? == Found::Current {
        return Ok(());
    }
    // Another process may do the same: what is there is asked again under the lock.
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    let steps = match find(connection).await? {
        Found::Current => String::new(),
        Found::Incomplete => CREATE.to_owned(),
        Found::WithoutVersion => [SET_ASIDE, CREATE, MOVE].concat(),
    };
    // An error leaves the transaction open; the connection is then closed, which rolls it back.
    sqlx::raw_sql(AssertSqlSafe(steps)).execute(&mut *connection).await?;
    sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;
    Ok(())
}

async fn find(connection: &mut SqliteConnection) -> Result<Found, Error> {
    let names = "SELECT name FROM sqlite_schema WHERE name IN (
        'sendarix_schema', 'sendarix_claims', 'sendarix_dead_letters', 'sendarix_completed')";
    let names: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut *connection).await?;
    let has = |name: &str| names.iter().any(|found| found == name);
    if !has("sendarix_schema") {
        // The tables before version 1 are told by the type of their ids.
        let blobs = "SELECT count(*) FROM sqlite_schema AS t, pragma_table_info(t.name) AS c
            WHERE t.name IN ('sendarix_claims', 'sendarix_dead_letters') AND c.name = 'event_id' AND c.type = 'BLOB'";
        let blobs: i64 = sqlx::query_scalar(blobs).fetch_one(connection).await?;
        return Ok(if blobs == 2 { Found::WithoutVersion } else { Found::Incomplete });
    }
    let version: Option<i64> =
        sqlx::query_scalar("SELECT version FROM sendarix_schema").fetch_optional(connection).await?;
    match version {
        Some(version) if version > CURRENT => Err(Error::Configuration(
            format!(
                "the file has version {version} of the tables, and this version of the crate knows {CURRENT}: a newer one has \
                 changed them; update this application too"
            )
            .into(),
        )),
        Some(CURRENT) if names.len() == 4 => Ok(Found::Current),
        _ => Ok(Found::Incomplete),
    }
}
