//! The tables, their version, and the way from each version to the next.

use std::fmt::{self, Display};

use sqlx::postgres::PgRow;
use sqlx::{Error, Row};

/// A table's name. The builder has checked its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) schema: Option<String>,
    pub(super) name: String,
}

/// The tables of one store, and the one that says which version they have.
#[derive(Debug)]
pub(super) struct Schema {
    claims: Table,
    letters: Table,
    versions: Table,
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

/// The table of versions, one row for each table of claims.
pub(super) const VERSIONS: &str = "sendarix_schema";

/// Raise it with every change of the tables, and add the way from the version before to [`Schema::migration`].
///
/// Before version 1 there was no number: ids, errors and tokens were `bytea`, and times of letters were texts.
const CURRENT: i64 = 1;

impl Schema {
    pub(super) fn new(claims: Table, letters: Table) -> Self {
        let versions = Table { schema: claims.schema.clone(), name: VERSIONS.to_owned() };
        Self { claims, letters, versions }
    }

    /// Asks what is there, as [`Found::read`] reads it.
    pub(super) fn find(&self) -> String {
        let Self { claims, letters, versions } = self;
        let trigger = claims.trigger();
        format!(
            "SELECT current_setting('server_encoding') AS encoding,
                to_regclass('{versions}') IS NOT NULL AS has_version,
                to_regclass('{claims}') IS NOT NULL AND to_regclass('{letters}') IS NOT NULL AND EXISTS (
                    SELECT FROM pg_trigger WHERE tgrelid = to_regclass('{claims}') AND tgname = '{trigger}'
                ) AS is_complete"
        )
    }

    /// Asks for the version, where there is a table of them.
    pub(super) fn find_version(&self) -> String {
        format!("SELECT version FROM {} WHERE claims = '{}'", self.versions, self.claims.name)
    }

    /// Whether these rows, the answers to both questions, say that nothing is to be done.
    pub(super) fn is_current(&self, found: &Found, version: Option<&PgRow>) -> Result<bool, Error> {
        let version: Option<i64> = version.map(|row| row.try_get("version")).transpose()?;
        if let Some(version) = version.filter(|version| *version > CURRENT) {
            let claims = &self.claims;
            let message = format!(
                "{claims} has version {version}, and this version of the crate knows {CURRENT}: a newer one has changed the \
                 tables; update this application too"
            );
            return Err(Error::Configuration(message.into()));
        }
        Ok(version == Some(CURRENT) && found.is_complete)
    }

    /// What makes the tables, or brings them to the current version. It changes nothing where they are current.
    pub(super) fn migration(&self) -> String {
        let Self { claims, letters, versions } = self;
        let (until, live, trigger) = (claims.index("until"), claims.index("live"), claims.trigger());
        let function = Table { schema: claims.schema.clone(), name: trigger.clone() };
        let name = &claims.name;
        let is_old = "attname = 'event_id' AND atttypid = 'bytea'::regtype";
        format!(
            "\
CREATE TABLE IF NOT EXISTS {versions} (
    -- The name of the table of claims, whose dead letters have the same version
    claims text PRIMARY KEY,
    version bigint NOT NULL
);
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
INSERT INTO {versions} (claims, version) VALUES ('{name}', {CURRENT})
ON CONFLICT (claims) DO UPDATE SET version = excluded.version;
",
        )
    }
}

impl Table {
    fn trigger(&self) -> String {
        format!("{}_done", self.name)
    }

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
