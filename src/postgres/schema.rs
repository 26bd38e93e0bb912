//! The tables, their version, and the way from each version to the next.

use std::fmt::{self, Display};

use sqlx::postgres::PgRow;
use sqlx::{Error, Row};

#[cfg(feature = "mail")]
use crate::sql::mail::{MailTables, message_status};

/// A table's name. The builder has checked its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) schema: Option<String>,
    pub(super) name: String,
}

/// Some tables that have one version, and the table that says which.
#[derive(Debug)]
pub(super) struct Schema {
    /// By which the version is found.
    first: Table,
    versions: Table,
    /// The version that this crate knows.
    current: i64,
    /// A condition: whether all of it is there.
    is_complete: String,
    /// What makes the tables, or brings them to the current version. It changes nothing where they are current.
    pub(super) migration: String,
}

/// What is there of a store's tables.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) has_version: bool,
    is_complete: bool,
}

impl Found {
    /// Refuses a database in which not every event's id can be written.
    pub(super) fn read(rows: &[PgRow]) -> Result<Self, Error> {
        let row = rows.first().ok_or(Error::RowNotFound)?;
        let encoding: &str = row.try_get("encoding")?;
        if encoding != "UTF8" {
            let message = format!(
                "the database has the encoding {encoding}, in which not every event's id can be written; use one with UTF8"
            );
            return Err(Error::Configuration(message.into()));
        }
        Ok(Self { has_version: row.try_get("has_version")?, is_complete: row.try_get("is_complete")? })
    }
}

/// The table of versions, one row for each group of tables.
pub(super) const VERSIONS: &str = "sendarix_schema";

/// Raise it with every change of these tables, and add the way from the version before to [`Schema::of_events`].
///
/// Before version 1 there was no number: ids, errors and tokens were `bytea`, and times of letters were texts.
const CURRENT: i64 = 1;

impl Schema {
    fn new(first: Table, current: i64, is_complete: String, migration: &str) -> Self {
        let versions = Table { schema: first.schema.clone(), name: VERSIONS.to_owned() };
        let name = &first.name;
        let migration = format!(
            "\
CREATE TABLE IF NOT EXISTS {versions} (
    -- The first of the tables that have this version
    claims text PRIMARY KEY,
    version bigint NOT NULL
);
{migration}INSERT INTO {versions} (claims, version) VALUES ('{name}', {current})
ON CONFLICT (claims) DO UPDATE SET version = excluded.version;
"
        );
        Self { first, versions, current, is_complete, migration }
    }

    /// Asks what is there, as [`Found::read`] reads it.
    pub(super) fn find(&self) -> String {
        let Self { versions, is_complete, .. } = self;
        format!(
            "SELECT current_setting('server_encoding') AS encoding, to_regclass('{versions}') IS NOT NULL AS has_version,
                {is_complete} AS is_complete"
        )
    }

    /// Asks for the version, where there is a table of them.
    pub(super) fn find_version(&self) -> String {
        format!("SELECT version FROM {} WHERE claims = '{}'", self.versions, self.first.name)
    }

    /// Whether these rows, the answers to both questions, say that nothing is to be done.
    pub(super) fn is_current(&self, found: &Found, version: Option<&PgRow>) -> Result<bool, Error> {
        let version: Option<i64> = version.map(|row| row.try_get("version")).transpose()?;
        let Self { first, current, .. } = self;
        if let Some(version) = version.filter(|version| version > current) {
            let message = format!(
                "{first} has version {version}, and this version of the crate knows {current}: a newer one has changed the \
                 tables; update this application too"
            );
            return Err(Error::Configuration(message.into()));
        }
        Ok(version == Some(*current) && found.is_complete)
    }

    /// The tables of claims and of dead letters.
    pub(super) fn of_events(claims: Table, letters: &Table) -> Self {
        let trigger = format!("{}_done", claims.name);
        let is_complete = format!(
            "to_regclass('{claims}') IS NOT NULL AND to_regclass('{letters}') IS NOT NULL AND EXISTS (
                SELECT FROM pg_trigger WHERE tgrelid = to_regclass('{claims}') AND tgname = '{trigger}')"
        );
        let (until, live) = (claims.index("until"), claims.index("live"));
        let function = Table { schema: claims.schema.clone(), name: trigger.clone() };
        let is_old = "attname = 'event_id' AND atttypid = 'bytea'::regtype";
        let migration = format!(
            "\
DO $$
BEGIN
    -- From the tables before version 1, which are told by the type of their ids
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('{claims}') AND {is_old}) THEN
        ALTER TABLE {claims}
            ALTER event_id TYPE text COLLATE \"C\" USING convert_from(event_id, 'UTF8'),
            ALTER token TYPE uuid USING encode(token, 'hex')::uuid;
    END IF;
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('{letters}') AND {is_old}) THEN
        ALTER TABLE {letters}
            ALTER event_id TYPE text COLLATE \"C\" USING convert_from(event_id, 'UTF8'),
            ALTER error TYPE text USING CASE WHEN position(decode('00', 'hex') IN error) = 0
                THEN convert_from(error, 'UTF8') ELSE encode(error, 'escape') END,
            ALTER first_at TYPE timestamptz USING first_at::timestamptz,
            ALTER last_at TYPE timestamptz USING last_at::timestamptz,
            ALTER signature DROP NOT NULL;
    END IF;
END $$;
CREATE TABLE IF NOT EXISTS {claims} (
    endpoint text COLLATE \"C\" NOT NULL,
    event_id text COLLATE \"C\" NOT NULL,
    -- Which claim the row is of
    token uuid NOT NULL,
    attempt bigint NOT NULL,
    -- 'live', 'failed', 'given_up' or 'completed'
    state text NOT NULL,
    -- The end of a live claim's lease; after it, how long the row is needed
    until timestamptz NOT NULL,
    PRIMARY KEY (endpoint, event_id)
);
CREATE INDEX IF NOT EXISTS {until} ON {claims} (until);
CREATE INDEX IF NOT EXISTS {live} ON {claims} (until) WHERE state = 'live';
CREATE TABLE IF NOT EXISTS {letters} (
    endpoint text COLLATE \"C\" NOT NULL,
    -- The event's id; for a body that has none, a digest of the body
    event_id text COLLATE \"C\" NOT NULL,
    -- 'failed', 'failed_permanently', 'malformed', 'unknown_type' or 'expired'
    reason text NOT NULL,
    error text NOT NULL,
    attempts bigint NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    -- In hex; NULL for an event that the application delivered
    signature text,
    -- In Unix seconds
    timestamp_header bigint,
    -- Where in the body decoding stopped
    error_line bigint,
    error_column bigint,
    -- The exact bytes that were signed
    body bytea NOT NULL,
    PRIMARY KEY (endpoint, event_id)
);
-- An event that has been handled leaves no letter, whatever happens to the process just then
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM {letters} WHERE endpoint = NEW.endpoint AND event_id = NEW.event_id;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS \"{trigger}\" ON {claims};
CREATE TRIGGER \"{trigger}\" AFTER UPDATE OF state ON {claims}
FOR EACH ROW WHEN (NEW.state = 'completed') EXECUTE PROCEDURE {function}();
",
        );
        Self::new(claims, CURRENT, is_complete, &migration)
    }
}

/// Raise it with every change of the tables of mail state, and add the way from the version before to [`Schema::of_mail`].
#[cfg(feature = "mail")]
const CURRENT_MAIL: i64 = 1;

#[cfg(feature = "mail")]
impl Schema {
    /// The tables of mail state.
    pub(super) fn of_mail(tables: &MailTables<Table>) -> Self {
        let MailTables { events, messages, suppressions, rates } = tables;
        let (timeline, age, soft) = (events.index("address"), events.index("at"), events.index("soft"));
        let (of_recipient, message_age) = (messages.index("address"), messages.index("last"));
        let minute = rates.index("minute");
        let status = message_status!();
        let is_complete = [events, messages, suppressions, rates]
            .map(|table| format!("to_regclass('{table}') IS NOT NULL"))
            .join(" AND ");
        let migration = format!(
            "\
CREATE TABLE IF NOT EXISTS {events} (
    event_id text COLLATE \"C\" PRIMARY KEY,
    event_type text NOT NULL,
    -- What it says of its message: 'accepted', 'deferred', 'soft_bounced', 'delivered', 'bounced', 'complained',
    -- 'unsubscribed', 'opened' or 'clicked'; NULL for a type that is not documented
    fact text,
    -- As Sendarix signed it
    at timestamptz NOT NULL,
    message_id text COLLATE \"C\" NOT NULL,
    -- As addresses are compared
    address text COLLATE \"C\" NOT NULL,
    -- As Sendarix sent it
    recipient text NOT NULL,
    -- The exact bytes that were signed
    body bytea NOT NULL
);
CREATE INDEX IF NOT EXISTS {timeline} ON {events} (address, at, event_id);
CREATE INDEX IF NOT EXISTS {age} ON {events} (at);
CREATE INDEX IF NOT EXISTS {soft} ON {events} (address, at) WHERE fact IN ('soft_bounced', 'delivered');
CREATE TABLE IF NOT EXISTS {messages} (
    message_id text COLLATE \"C\" NOT NULL,
    address text COLLATE \"C\" NOT NULL,
    recipient text NOT NULL,
    status text GENERATED ALWAYS AS ({status}) STORED,
    accepted_at timestamptz,
    -- The last time, and of a soft bounce why
    deferred_at timestamptz,
    soft_bounce_at timestamptz,
    soft_bounce_category text COLLATE \"C\",
    soft_bounce_smtp_code bigint,
    soft_bounce_smtp_message text COLLATE \"C\",
    delivered_at timestamptz,
    bounce_at timestamptz,
    bounce_category text COLLATE \"C\",
    bounce_smtp_code bigint,
    bounce_smtp_message text COLLATE \"C\",
    complained_at timestamptz,
    unsubscribed_at timestamptz,
    first_open_at timestamptz,
    last_open_at timestamptz,
    opens bigint NOT NULL,
    first_click_at timestamptz,
    last_click_at timestamptz,
    clicks bigint NOT NULL,
    last_event_at timestamptz NOT NULL,
    PRIMARY KEY (message_id, address)
);
CREATE INDEX IF NOT EXISTS {of_recipient} ON {messages} (address, last_event_at, message_id);
CREATE INDEX IF NOT EXISTS {message_age} ON {messages} (last_event_at);
CREATE TABLE IF NOT EXISTS {suppressions} (
    -- As addresses are compared; after an erasure, 'erased:' and a keyed hash
    address text COLLATE \"C\" PRIMARY KEY,
    recipient text NOT NULL,
    -- 'permanent_bounce', 'complaint', 'unsubscribe', 'soft_bounces' or 'manual'; NULL after a release
    reason text,
    since timestamptz,
    -- NULL where the application put the address on the list
    event_id text COLLATE \"C\",
    message_id text,
    released_at timestamptz,
    released_because text
);
CREATE TABLE IF NOT EXISTS {rates} (
    -- What the application counts by
    counted text COLLATE \"C\" NOT NULL,
    minute timestamptz NOT NULL,
    -- Spreads the rows that all connections count in
    shard integer NOT NULL,
    delivered bigint NOT NULL,
    bounced bigint NOT NULL,
    complained bigint NOT NULL,
    PRIMARY KEY (counted, minute, shard)
);
CREATE INDEX IF NOT EXISTS {minute} ON {rates} (minute);
"
        );
        Self::new(events.clone(), CURRENT_MAIL, is_complete, &migration)
    }
}

impl Table {
    fn index(&self, column: &str) -> String {
        format!("\"{}_{column}\"", self.name)
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "\"{schema}\".")?;
        }
        write!(f, "\"{}\"", self.name)
    }
}
