//! The connections, and how a statement is sent again.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Error};
use tokio::time::sleep;

use super::schema::{Found, Schema, Table};
use super::sql::Statement;
use crate::sql::letters::Row;
use crate::sql::{Connections, PooledConnection, StepLimit};

/// A few connections, and the tables that they lead to.
#[derive(Debug)]
pub(super) struct Database {
    connections: Connections<PgConnection>,
    limit: Arc<StepLimit>,
    pub(super) claims: Table,
    pub(super) letters: Table,
    schema: Schema,
    migrate: bool,
    /// Whether the tables have been seen.
    migrated: AtomicBool,
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
        let limit = Arc::new(StepLimit::new());
        let connections = Connections::new(options, |options, _| options, Arc::clone(&limit), max_connections);
        let schema = Schema::new(claims.clone(), letters.clone());
        Self { connections, limit, claims, letters, schema, migrate, migrated: AtomicBool::new(false) }
    }

    pub(super) fn allow(&self, limit: Duration) {
        self.limit.allow(limit);
    }

    /// Runs one statement, which must be safe to run twice: if an idle connection turns out to be dead, it is sent again
    /// over a new one.
    ///
    /// It goes out as a simple query, with its values in it, which takes one round trip and leaves nothing behind.
    pub(super) async fn fetch(&self, sql: &str) -> Result<Vec<PgRow>, Error> {
        self.send(&Question::Simple(sql)).await
    }

    /// Runs one statement with values that must not stand in its text, where the server's log would have them; otherwise as
    /// [`fetch`](Self::fetch), but for four round trips.
    pub(super) async fn run_bound(&self, sql: &str, row: &Row) -> Result<Vec<PgRow>, Error> {
        self.send(&Question::Bound { sql, row }).await
    }

    /// Runs a statement that each session of the server plans once; otherwise as [`fetch`](Self::fetch).
    pub(super) async fn run(&self, statement: &Statement, arguments: impl Display) -> Result<Vec<PgRow>, Error> {
        self.send(&Question::Prepared { statement, execute: statement.execute(arguments) }).await
    }

    async fn send(&self, question: &Question<'_>) -> Result<Vec<PgRow>, Error> {
        let (mut looked_for_tables, mut tries) = (false, 0);
        loop {
            let mut pooled = self.lend().await?;
            let error = match question.ask(&mut pooled, self.connections.limit()).await {
                Ok(rows) => {
                    pooled.put_back();
                    return Ok(rows);
                }
                Err(error) => error,
            };
            if speaks_against_connection(&error) {
                // Dropping it drops the idle ones too, so the next is new.
                if pooled.is_fresh() {
                    return Err(error);
                }
                continue;
            }
            pooled.put_back();
            // This may be another database than it was: the next caller looks for the tables again.
            let tables_are_gone = self.migrate && !looked_for_tables && has_code(&error, UNDEFINED_TABLE);
            if tables_are_gone {
                looked_for_tables = true;
                self.migrated.store(false, Ordering::Release);
            }
            if tables_are_gone {
                continue;
            }
            tries += 1;
            if !is_for_the_next_try(&error) || tries == TRIES {
                return Err(error);
            }
            // The other transaction, which came first, needs time to end; and the waiting statements should not all come back at once.
            sleep(PAUSE * tries + PAUSE.mul_f64(rand::random())).await;
        }
    }

    pub(super) async fn migrate(&self) -> Result<(), Error> {
        let mut pooled = self.connections.lend().await?;
        self.migrate_over(&mut pooled).await?;
        pooled.put_back();
        Ok(())
    }

    /// A connection to a database that has the tables.
    async fn lend(&self) -> Result<PooledConnection<'_, PgConnection>, Error> {
        let mut pooled = self.connections.lend().await?;
        if self.migrate && !self.migrated.load(Ordering::Acquire) {
            self.migrate_over(&mut pooled).await?;
            self.migrated.store(true, Ordering::Release);
        }
        Ok(pooled)
    }

    async fn migrate_over(&self, pooled: &mut PooledConnection<'_, PgConnection>) -> Result<(), Error> {
        // Asked first: a role that may not make tables may not say IF NOT EXISTS either.
        let limit = self.connections.limit();
        let found = Found::read(&ask(pooled, limit, &self.schema.find()).await?)?;
        let version =
            if found.has_version { ask(pooled, limit, &self.schema.find_version()).await? } else { Vec::new() };
        if self.schema.is_current(&found, version.first())? {
            return Ok(());
        }
        // Several statements in one are one transaction, and the lock makes instances that start together take turns.
        ask(pooled, limit, &format!("SELECT pg_advisory_xact_lock({ADVISORY_LOCK}); {}", self.migration()))
            .await
            .map(drop)
    }

    pub(super) fn migration(&self) -> String {
        self.schema.migration()
    }
}

/// What the database is asked.
enum Question<'a> {
    Simple(&'a str),
    Prepared { statement: &'a Statement, execute: String },
    Bound { sql: &'a str, row: &'a Row },
}

impl Question<'_> {
    async fn ask(&self, pooled: &mut PooledConnection<'_, PgConnection>, limit: Duration) -> Result<Vec<PgRow>, Error> {
        match self {
            Self::Simple(sql) => ask(pooled, limit, sql).await,
            Self::Prepared { statement, execute } => match ask(pooled, limit, execute).await {
                Err(error) if has_code(&error, UNKNOWN_STATEMENT) => {
                    ask(pooled, limit, &format!("{}; {execute}", statement.prepare())).await
                }
                answer => answer,
            },
            Self::Bound { sql, row } => ask_bound(pooled, limit, sql, row).await,
        }
    }
}

/// Sends what is one transaction. The server gives it up in time, since it goes on with abandoned statements: in
/// the queue for a lock, for example.
async fn ask(pooled: &mut PooledConnection<'_, PgConnection>, limit: Duration, sql: &str) -> Result<Vec<PgRow>, Error> {
    let sql = format!("{}; {sql}", set_timeout(limit));
    pooled.ask(|connection| sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection)).await
}

/// As [`ask`], with values that are bound. Within a transaction, since a pooler may else take another session for the
/// statement than for its values.
async fn ask_bound(
    pooled: &mut PooledConnection<'_, PgConnection>,
    limit: Duration,
    sql: &str,
    row: &Row,
) -> Result<Vec<PgRow>, Error> {
    // While it is open, the event's row is locked, also when the process is stopped.
    let idle = limit.as_millis();
    let begin = format!("BEGIN; {}; SET LOCAL idle_in_transaction_session_timeout = {idle}", set_timeout(limit));
    let statement = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    let statement = statement.bind(&row.0).bind(&row.1).bind(&row.2).bind(&row.3).bind(row.4).bind(&row.5);
    let statement = statement.bind(&row.6).bind(&row.7).bind(row.8).bind(row.9).bind(row.10).bind(&row.11);
    pooled
        .ask(|connection| async move {
            sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *connection).await?;
            let answer = statement.fetch_all(&mut *connection).await;
            let end = if answer.is_ok() { "COMMIT" } else { "ROLLBACK" };
            let ended = sqlx::raw_sql(end).execute(&mut *connection).await;
            // A connection that cannot be rolled back must not be used again, whatever the server had said before.
            ended?;
            answer
        })
        .await
}

fn set_timeout(limit: Duration) -> String {
    format!("SET LOCAL statement_timeout = {}", limit.as_millis())
}

/// How often a statement is sent that collides with others, and how long it waits in between at first.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

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

/// Whether an error is not about what was asked: the connection is dead, or leads to a server that is gone, or to
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
