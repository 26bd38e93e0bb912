//! The tables, and how they are reached.

use std::fmt::{self, Display};
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Error};

use super::sql::{Statement, Text};
use crate::store::sql::{Connections, Lent};

/// The tables, and a few connections to them.
#[derive(Debug)]
pub(crate) struct Database {
    connections: Connections<PgConnection>,
    pub(super) claims: Table,
    pub(crate) letters: Table,
    migrate: bool,
    /// Whether the tables have been seen.
    migrated: AtomicBool,
}

/// A table's name. The builder has checked its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(super) schema: Option<String>,
    pub(super) name: String,
}

/// `Sendarix`, in ASCII.
const ADVISORY_LOCK: i64 = 0x5365_6e64_6172_6978;

impl Database {
    pub(super) fn new(
        options: PgConnectOptions,
        max_connections: usize,
        claims: Table,
        letters: Table,
        migrate: bool,
    ) -> Self {
        // A pooler may not know this setting, and no number here is a float. A slow statement's text has recipients in it.
        let options = options.extra_float_digits(None).disable_statement_logging();
        let connections = Connections::new(options, max_connections);
        Self { connections, claims, letters, migrate, migrated: AtomicBool::new(false) }
    }

    /// Runs one statement, which must be safe to run twice: if an idle connection turns out to be dead, it is sent again
    /// over a new one.
    ///
    /// It goes out as a simple query, with its values in it, which takes one round trip and leaves nothing behind.
    pub(crate) async fn fetch(&self, sql: &str) -> Result<Vec<PgRow>, Error> {
        self.send(sql, None).await
    }

    /// Runs a statement that each session of the server plans once; otherwise as [`fetch`](Self::fetch).
    pub(super) async fn run(&self, statement: &Statement, arguments: impl Display) -> Result<Vec<PgRow>, Error> {
        self.send(&statement.execute(arguments), Some(statement)).await
    }

    async fn send(&self, sql: &str, prepared: Option<&Statement>) -> Result<Vec<PgRow>, Error> {
        let mut looked_for_tables = false;
        loop {
            let mut lent = self.lend().await?;
            let mut answer = ask(&mut lent, sql).await;
            if let (Err(error), Some(statement)) = (&answer, prepared)
                && has_code(error, UNKNOWN_STATEMENT)
            {
                answer = ask(&mut lent, &format!("{}; {sql}", statement.prepare())).await;
            }
            let error = match answer {
                Ok(rows) => {
                    lent.give_back();
                    return Ok(rows);
                }
                Err(error) => error,
            };
            if speaks_against_connection(&error) {
                // Dropping it drops the idle ones too, so the next is new.
                if lent.is_fresh() {
                    return Err(error);
                }
                continue;
            }
            lent.give_back();
            // This may be another database than it was: whoever comes next looks for the tables again.
            let tables_are_gone = self.migrate && !looked_for_tables && has_code(&error, UNDEFINED_TABLE);
            if tables_are_gone {
                looked_for_tables = true;
                self.migrated.store(false, Ordering::Release);
            }
            if !tables_are_gone && !is_for_the_next_try(&error) {
                return Err(error);
            }
        }
    }

    pub(super) async fn migrate(&self) -> Result<(), Error> {
        let mut lent = self.connections.lend().await?;
        self.migrate_over(&mut lent).await?;
        lent.give_back();
        Ok(())
    }

    /// A connection to a database that has the tables.
    async fn lend(&self) -> Result<Lent<'_, PgConnection>, Error> {
        let mut lent = self.connections.lend().await?;
        if self.migrate && !self.migrated.load(Ordering::Acquire) {
            self.migrate_over(&mut lent).await?;
            self.migrated.store(true, Ordering::Release);
        }
        Ok(lent)
    }

    async fn migrate_over(&self, lent: &mut Lent<'_, PgConnection>) -> Result<(), Error> {
        // Asked first: a role that may not make tables may not say IF NOT EXISTS either.
        let (claims, letters) = (self.claims.to_string(), self.letters.to_string());
        let (claims, letters) = (Text(&claims), Text(&letters));
        let missing = format!("SELECT 1 WHERE to_regclass({claims}) IS NULL OR to_regclass({letters}) IS NULL");
        if ask(lent, &missing).await?.is_empty() {
            return Ok(());
        }
        // Several statements in one are one transaction, and the lock makes instances that start together take turns.
        ask(lent, &format!("SELECT pg_advisory_xact_lock({ADVISORY_LOCK}); {}", self.migration())).await.map(drop)
    }

    pub(super) fn migration(&self) -> String {
        let Self { claims, letters, .. } = self;
        format!(
            "\
CREATE TABLE IF NOT EXISTS {claims} (
    endpoint text COLLATE \"C\" NOT NULL,
    event_id bytea NOT NULL,
    token bytea NOT NULL,
    attempt bigint NOT NULL,
    -- 'live', 'failed', 'given_up' or 'completed'
    state text NOT NULL,
    -- The end of a live claim's lease; after it, how long the row is needed
    until timestamptz NOT NULL,
    PRIMARY KEY (endpoint, event_id)
);
CREATE INDEX IF NOT EXISTS {} ON {claims} (until);
CREATE TABLE IF NOT EXISTS {letters} (
    endpoint text COLLATE \"C\" NOT NULL,
    event_id bytea NOT NULL,
    reason text NOT NULL,
    -- UTF-8, whatever the encoding of the database
    error bytea NOT NULL,
    attempts bigint NOT NULL,
    first_at text COLLATE \"C\" NOT NULL,
    last_at text COLLATE \"C\" NOT NULL,
    signature text NOT NULL,
    timestamp_header bigint,
    error_line bigint,
    error_column bigint,
    body bytea NOT NULL,
    PRIMARY KEY (endpoint, event_id)
);
",
            claims.index("until"),
        )
    }
}

/// Sends what is one transaction. The server gives it up in time, since it goes on with what nobody waits for here: in
/// the queue for a lock, for example.
async fn ask(lent: &mut Lent<'_, PgConnection>, sql: &str) -> Result<Vec<PgRow>, Error> {
    let sql = format!("SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}; {sql}");
    lent.ask(|connection| sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection)).await
}

/// Longer than the receiver waits by default, and not much.
const STATEMENT_TIMEOUT_MS: u32 = 3_000;

/// Codes of `PostgreSQL`, Appendix A: `invalid_sql_statement_name`, `duplicate_prepared_statement`, `undefined_table`,
/// `serialization_failure`, `read_only_sql_transaction`.
const UNKNOWN_STATEMENT: &str = "26000";
const KNOWN_STATEMENT: &str = "42P05";
const UNDEFINED_TABLE: &str = "42P01";
const CONFLICT: &str = "40001";
const READ_ONLY: &str = "25006";

/// Classes of codes: the connection is broken, or the server is going away.
const CONNECTION_EXCEPTION: &str = "08";
const OPERATOR_INTERVENTION: &str = "57P";

/// Whether a statement was refused for a reason that is over when it is sent again.
fn is_for_the_next_try(error: &Error) -> bool {
    // A pooler has gone over to a session that knows the statement after all; or transactions are stricter by default than
    // `READ COMMITTED` here, and another one came first.
    has_code(error, KNOWN_STATEMENT) || has_code(error, CONFLICT)
}

/// Whether an error is not about what was asked: the connection is dead, or leads to a server that is none any more, or to
/// a replica.
fn speaks_against_connection(error: &Error) -> bool {
    let Some(error) = error.as_database_error() else { return true };
    let of_it = |code: &str| {
        code == READ_ONLY || code.starts_with(CONNECTION_EXCEPTION) || code.starts_with(OPERATOR_INTERVENTION)
    };
    error.code().is_none_or(|code| of_it(&code))
}

fn has_code(error: &Error, code: &str) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|found| found == code)
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
