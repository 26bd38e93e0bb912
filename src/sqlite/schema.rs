//! The tables, their version, and the way from each version to the next.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Error};

/// Some tables that have one version, which is raised with every change of them.
#[derive(Debug)]
pub(super) struct Schema {
    /// The table that has the version.
    versions: &'static str,
    current: i64,
    /// The names of all that must be there.
    names: &'static [&'static str],
    create: &'static str,
}

/// The tables of claims and of dead letters.
///
/// Before version 1 there was no number: ids, errors and tokens were blobs.
pub(super) const EVENTS: Schema = Schema {
    versions: "sendarix_schema",
    current: 1,
    names: &["sendarix_schema", "sendarix_claims", "sendarix_dead_letters", "sendarix_completed"],
    create: CREATE,
};

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

/// Makes room for the tables of version 1.
const RENAME_OLD_TABLES: &str = "
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

/// What is there of some tables.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// The tables of events from before there were versions.
    WithoutVersion,
    Current,
    /// A table or the trigger is missing, or all of them.
    Incomplete,
}

impl Schema {
    /// Makes the tables, or brings them to the current version.
    ///
    /// # Errors
    ///
    /// The tables have a version that only a newer version of the crate knows.
    pub(super) async fn prepare(&self, connection: &mut SqliteConnection) -> Result<(), Error> {
        if self.find(connection).await? == Found::Current {
            return Ok(());
        }
        // Another process may do the same: what is there is asked again under the lock.
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *connection).await?;
        let steps = match self.find(connection).await? {
            Found::Current => String::new(),
            Found::Incomplete => self.create.to_owned(),
            Found::WithoutVersion => [RENAME_OLD_TABLES, self.create, MOVE].concat(),
        };
        // An error leaves the transaction open; the connection is then closed, which rolls it back.
        sqlx::raw_sql(AssertSqlSafe(steps)).execute(&mut *connection).await?;
        sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;
        Ok(())
    }

    async fn find(&self, connection: &mut SqliteConnection) -> Result<Found, Error> {
        let Self { versions, current, names, .. } = self;
        let found: Vec<String> =
            sqlx::query_scalar("SELECT name FROM sqlite_schema").fetch_all(&mut *connection).await?;
        let has = |name: &str| found.iter().any(|found| found == name);
        if !has(versions) {
            // The tables before version 1 are told by the type of their ids.
            let blobs = "SELECT count(*) FROM sqlite_schema AS t, pragma_table_info(t.name) AS c
                WHERE t.name IN ('sendarix_claims', 'sendarix_dead_letters') AND c.name = 'event_id' AND c.type = 'BLOB'";
            let blobs: i64 = sqlx::query_scalar(blobs).fetch_one(connection).await?;
            return Ok(if blobs == 2 { Found::WithoutVersion } else { Found::Incomplete });
        }
        let version = AssertSqlSafe(format!("SELECT version FROM {versions}"));
        let version: Option<i64> = sqlx::query_scalar(version).fetch_optional(connection).await?;
        match version {
            Some(version) if version > *current => Err(Error::Configuration(
                format!(
                    "{versions} has version {version}, and this version of the crate knows {current}: a newer one has changed \
                     the tables; update this application too"
                )
                .into(),
            )),
            Some(version) if version == *current && names.iter().all(|name| has(name)) => Ok(Found::Current),
            _ => Ok(Found::Incomplete),
        }
    }
}

#[cfg(feature = "mail")]
mod mail {
    use super::Schema;

    /// The tables of mail state.
    pub(in crate::sqlite) const MAIL: Schema = Schema {
        versions: "sendarix_mail_schema",
        current: 1,
        names: &["sendarix_events", "sendarix_messages", "sendarix_suppressions", "sendarix_rates"],
        create: CREATE,
    };

    // The status is the same expression as PostgreSQL's.
    const CREATE: &str = concat!(
        "
    CREATE TABLE IF NOT EXISTS sendarix_mail_schema (version INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS sendarix_events (
        event_id TEXT PRIMARY KEY,
        event_type TEXT NOT NULL,
        -- What it says of its message: 'accepted', 'deferred', 'soft_bounced', 'delivered', 'bounced', 'complained',
        -- 'unsubscribed', 'opened' or 'clicked'; NULL for a type that is not documented
        fact TEXT,
        -- In Unix microseconds, like every time in these tables
        at INTEGER NOT NULL,
        message_id TEXT NOT NULL,
        -- As addresses are compared
        address TEXT NOT NULL,
        -- As Sendarix sent it
        recipient TEXT NOT NULL,
        -- The exact bytes that were signed
        body BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS sendarix_events_address ON sendarix_events (address, at, event_id);
    CREATE INDEX IF NOT EXISTS sendarix_events_at ON sendarix_events (at);
    CREATE INDEX IF NOT EXISTS sendarix_events_soft ON sendarix_events (address, at)
        WHERE fact IN ('soft_bounced', 'delivered');
    CREATE TABLE IF NOT EXISTS sendarix_messages (
        message_id TEXT NOT NULL,
        address TEXT NOT NULL,
        recipient TEXT NOT NULL,
        status TEXT GENERATED ALWAYS AS (",
        crate::sql::mail::message_status!(),
        ") VIRTUAL,
        accepted_at INTEGER,
        -- The last time, and of a soft bounce why
        deferred_at INTEGER,
        soft_bounce_at INTEGER,
        soft_bounce_category TEXT,
        soft_bounce_smtp_code INTEGER,
        soft_bounce_smtp_message TEXT,
        delivered_at INTEGER,
        bounce_at INTEGER,
        bounce_category TEXT,
        bounce_smtp_code INTEGER,
        bounce_smtp_message TEXT,
        complained_at INTEGER,
        unsubscribed_at INTEGER,
        first_open_at INTEGER,
        last_open_at INTEGER,
        opens INTEGER NOT NULL,
        first_click_at INTEGER,
        last_click_at INTEGER,
        clicks INTEGER NOT NULL,
        last_event_at INTEGER NOT NULL,
        PRIMARY KEY (message_id, address)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS sendarix_messages_address ON sendarix_messages (address, last_event_at, message_id);
    CREATE INDEX IF NOT EXISTS sendarix_messages_last ON sendarix_messages (last_event_at);
    CREATE TABLE IF NOT EXISTS sendarix_suppressions (
        -- As addresses are compared; after an erasure, 'erased:' and a keyed hash
        address TEXT PRIMARY KEY,
        recipient TEXT NOT NULL,
        -- 'permanent_bounce', 'complaint', 'unsubscribe', 'soft_bounces' or 'manual'; NULL after a release
        reason TEXT,
        since INTEGER,
        -- NULL where the application put the address on the list
        event_id TEXT,
        message_id TEXT,
        released_at INTEGER,
        released_because TEXT
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS sendarix_rates (
        -- What the application counts by
        counted TEXT NOT NULL,
        minute INTEGER NOT NULL,
        shard INTEGER NOT NULL,
        delivered INTEGER NOT NULL,
        bounced INTEGER NOT NULL,
        complained INTEGER NOT NULL,
        PRIMARY KEY (counted, minute, shard)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS sendarix_rates_minute ON sendarix_rates (minute);
    DELETE FROM sendarix_mail_schema;
    INSERT INTO sendarix_mail_schema (version) VALUES (1);"
    );
}
#[cfg(feature = "mail")]
pub(super) use self::mail::MAIL;
