//! The connections, and how a statement is sent again.
//!
//! sqlx does not send a statement again. Without that, these tests in `tests/system` fail: `restarted_unnoticed` and
//! `postgres_read_only` (connections that are dead, or lead to a replica), `tables_that_are_gone_are_made_again`, and
//! `postgres_with_serializable_transactions` (two transactions collide). Without a time limit at the server, `postgres_locked` fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Error, Postgres};
use tokio::time::sleep;

use super::schema::{Found, Schema, Table};
use super::statements::Statements;
use crate::sql::{Connections, PooledConnection};
use crate::storage::StoreError;

/// A few connections, and the tables that they lead to.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) connections: Connections<PgConnection>,
    /// Statements keep no state in the server's session, which may be another one for the next.
    pub(super) behind_pooler: bool,
    pub(super) claims: Table,
    pub(super) letters: Table,
    pub(super) statements: Statements,
    pub(super) schema: Schema,
    /// The tables of mail state, once they are needed.
    mail: OnceLock<Schema>,
    migrate: bool,
    /// Whether the tables have been seen.
    migrated: AtomicBool,
}

pub(super) type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// `Sendarix`, in ASCII.
const ADVISORY_LOCK: i64 = 0x5365_6e64_6172_6978;

impl Database {
    pub(super) fn new(
        options: PgConnectOptions,
        max_connections: usize,
        behind_pooler: bool,
        claims: Table,
        letters: Table,
        migrate: bool,
    ) -> Self {
        // A pooler may not know this setting, and no number here is a float. A slow statement's text has recipients in it.
        let options = options.extra_float_digits(None).disable_statement_logging();
        let fit = if behind_pooler { |options, _| options } else { with_time_limit };
        Self {
            connections: Connections::new(options, fit, max_connections),
            behind_pooler,
            statements: Statements::new(&claims, &letters),
            schema: Schema::of_events(claims.clone(), &letters),
            mail: OnceLock::new(),
            claims,
            letters,
            migrate,
            migrated: AtomicBool::new(false),
        }
    }

    pub(super) fn allow(&self, limit: Duration) {
        self.connections.allow(limit);
    }

    /// Runs one statement, which must be safe to run twice: if an idle connection turns out to be dead, it is sent again
    /// over a new one.
    pub(super) async fn run<'q>(
        &self,
        statement: impl FnOnce(&Statements) -> &Arc<str>,
        bind: impl Fn(Query<'q>) -> Query<'q>,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.run_sql(statement(&self.statements), bind).await
    }

    /// Runs one statement, as [`run`](Self::run) does.
    pub(super) async fn run_sql<'q>(
        &self,
        sql: &Arc<str>,
        bind: impl Fn(Query<'q>) -> Query<'q>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut answers = self.run_all(|| vec![bind(query(sql))]).await?;
        Ok(answers.pop().unwrap_or_default())
    }

    /// Runs statements, several of them in a transaction, which must be safe to run twice. Returns the rows of each.
    pub(super) async fn run_all<'q>(
        &self,
        queries: impl Fn() -> Vec<Query<'q>>,
    ) -> Result<Vec<Vec<PgRow>>, StoreError> {
        self.send(queries).await.map_err(StoreError::new)
    }

    async fn send<'q>(&self, queries: impl Fn() -> Vec<Query<'q>>) -> Result<Vec<Vec<PgRow>>, Error> {
        let (mut looked_for_tables, mut tries) = (false, 0);
        loop {
            let mut pooled = self.acquire().await?;
            let error = match self.ask(&mut pooled, queries()).await {
                Ok(answers) => {
                    pooled.put_back();
                    return Ok(answers);
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
            if self.migrate && !looked_for_tables && has_code(&error, UNDEFINED_TABLE) {
                looked_for_tables = true;
                self.migrated.store(false, Ordering::Release);
                continue;
            }
            tries += 1;
            if !is_conflict(&error) || tries == TRIES {
                return Err(error);
            }
            // The other transaction needs time to end; and the waiting statements should not all come back at once.
            sleep(PAUSE * tries + PAUSE.mul_f64(rand::random())).await;
        }
    }

    async fn ask(
        &self,
        pooled: &mut PooledConnection<'_, PgConnection>,
        mut queries: Vec<Query<'_>>,
    ) -> Result<Vec<Vec<PgRow>>, Error> {
        if !self.behind_pooler && queries.len() == 1 {
            let Some(query) = queries.pop() else { return Ok(Vec::new()) };
            return pooled.ask(|connection| async { Ok(vec![query.fetch_all(connection).await?]) }).await;
        }
        // Within a transaction a pooler does not change the session between the statement and its values.
        // While it is open, the event's row is locked, also when the process is stopped.
        let limit = self.connections.limit();
        // A statement of a transaction that waits for a lock must see what was committed meanwhile.
        let begin =
            format!("BEGIN ISOLATION LEVEL READ COMMITTED; {}; {}", set_time_limit(limit), set_idle_limit(limit));
        let persistent = !self.behind_pooler;
        pooled
            .ask(|connection| async move {
                sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *connection).await?;
                let mut answers = Vec::with_capacity(queries.len());
                let mut failed = None;
                for query in queries {
                    match query.persistent(persistent).fetch_all(&mut *connection).await {
                        Ok(rows) => answers.push(rows),
                        Err(error) => {
                            failed = Some(error);
                            break;
                        }
                    }
                }
                let end = if failed.is_none() { "COMMIT" } else { "ROLLBACK" };
                // A connection that cannot be rolled back must not be used again, whatever the server had said before.
                sqlx::raw_sql(end).execute(&mut *connection).await?;
                failed.map_or(Ok(answers), Err)
            })
            .await
    }

    /// Says that the tables of mail state are needed as well.
    #[cfg(feature = "mail")]
    pub(super) fn need_mail(&self, schema: impl FnOnce() -> Schema) {
        self.mail.get_or_init(schema);
        self.migrated.store(false, Ordering::Release);
    }

    pub(super) async fn migrate(&self) -> Result<(), Error> {
        let mut pooled = self.connect().await?;
        self.migrate_over(&mut pooled).await?;
        pooled.put_back();
        Ok(())
    }

    /// A connection to a database that has the tables.
    async fn acquire(&self) -> Result<PooledConnection<'_, PgConnection>, Error> {
        let mut pooled = self.connect().await?;
        if self.migrate && !self.migrated.load(Ordering::Acquire) {
            self.migrate_over(&mut pooled).await?;
            self.migrated.store(true, Ordering::Release);
        }
        Ok(pooled)
    }

    /// A connection whose session is this store's alone, unless the builder was told of a pooler. In one that a pooler shares, a
    /// prepared statement may be that of another client. A pooler refuses the time limit, or drops it.
    async fn connect(&self) -> Result<PooledConnection<'_, PgConnection>, Error> {
        let mut pooled = match self.connections.acquire().await {
            Err(error) if !self.behind_pooler && has_code(&error, PROTOCOL_VIOLATION) => {
                return Err(unknown_pooler(&error.to_string()));
            }
            acquired => acquired?,
        };
        if pooled.is_fresh() && !self.behind_pooler {
            let limit = pooled.limit().as_millis();
            let find = format!("SELECT FROM pg_settings WHERE name = 'statement_timeout' AND reset_val = '{limit}'");
            let found = pooled.ask(|connection| sqlx::raw_sql(AssertSqlSafe(find)).fetch_all(connection)).await?;
            if found.is_empty() {
                return Err(unknown_pooler("the session does not have it"));
            }
        }
        Ok(pooled)
    }

    /// Makes the tables, or brings them to the current version.
    async fn migrate_over(&self, pooled: &mut PooledConnection<'_, PgConnection>) -> Result<(), Error> {
        for schema in [Some(&self.schema), self.mail.get()].into_iter().flatten() {
            self.migrate_schema(pooled, schema).await?;
        }
        Ok(())
    }

    async fn migrate_schema(
        &self,
        pooled: &mut PooledConnection<'_, PgConnection>,
        schema: &Schema,
    ) -> Result<(), Error> {
        // Asked first: a role that may not make tables may not say IF NOT EXISTS either.
        let found = Found::read(&self.ask_raw(pooled, &schema.find()).await?)?;
        let version = if found.has_version { self.ask_raw(pooled, &schema.find_version()).await? } else { Vec::new() };
        if schema.is_current(&found, version.first())? {
            return Ok(());
        }
        // Several statements in one are one transaction, so a process that is stopped holds no lock; and the lock makes instances
        // that start together take turns.
        let migrate = format!(
            "SET LOCAL client_min_messages = warning; SELECT pg_advisory_xact_lock({ADVISORY_LOCK}); {}",
            schema.migration
        );
        for tries in 1..TRIES {
            match self.ask_raw(pooled, &migrate).await {
                // A claim of an instance that was faster had the tables in another order.
                Err(error) if is_conflict(&error) => sleep(PAUSE * tries).await,
                migrated => return migrated.map(drop),
            }
        }
        self.ask_raw(pooled, &migrate).await.map(drop)
    }

    /// Asks the database something that has no values. Several statements in one are one transaction.
    async fn ask_raw(&self, pooled: &mut PooledConnection<'_, PgConnection>, sql: &str) -> Result<Vec<PgRow>, Error> {
        let sql = format!("{}; {sql}", set_time_limit(self.connections.limit()));
        pooled.ask(|connection| sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection)).await
    }
}

pub(super) fn query<'q>(sql: &Arc<str>) -> Query<'q> {
    sqlx::query(AssertSqlSafe(Arc::clone(sql)))
}

fn unknown_pooler(found: &str) -> Error {
    let message = format!(
        "the server does not take a session with statement_timeout ({found}); if it is a pooler in transaction mode, call \
         PostgresBuilder::behind_pooler"
    );
    Error::Configuration(message.into())
}

/// The server gives a statement up in time, since it goes on with abandoned ones: in the queue for a lock, for example.
fn with_time_limit(options: PgConnectOptions, limit: Duration) -> PgConnectOptions {
    options.options([("statement_timeout", limit.as_millis().to_string())])
}

/// As [`with_time_limit`], for one transaction.
fn set_time_limit(limit: Duration) -> String {
    format!("SET LOCAL statement_timeout = {}", limit.as_millis())
}

/// The server ends a transaction whose client is silent for this time.
fn set_idle_limit(limit: Duration) -> String {
    format!("SET LOCAL idle_in_transaction_session_timeout = {}", limit.as_millis())
}

/// How often a statement is sent that collides with others, and how long it waits in between at first.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// Codes of `PostgreSQL`, Appendix A: `protocol_violation`, `undefined_table`, `read_only_sql_transaction`.
const PROTOCOL_VIOLATION: &str = "08P01";
const UNDEFINED_TABLE: &str = "42P01";
const READ_ONLY: &str = "25006";

/// The session does not have the statement that sqlx remembers, or has another: `invalid_sql_statement_name`,
/// `duplicate_prepared_statement`, and `feature_not_supported` where the result of a statement has changed with the tables.
const OTHER_STATEMENT: [&str; 3] = ["26000", "42P05", "0A000"];

/// Class of codes: another transaction came first, where transactions are stricter by default than `READ COMMITTED`, or each
/// waited for the other.
const TRANSACTION_ROLLBACK: &str = "40";

/// Classes of codes: the connection is broken, or the server is going away.
const CONNECTION_EXCEPTION: &str = "08";
const OPERATOR_INTERVENTION: &str = "57P";

/// Whether an error is not about what was asked: the connection is dead, or leads to a server that is gone, or to
/// a replica.
fn speaks_against_connection(error: &Error) -> bool {
    let Some(error) = error.as_database_error() else { return true };
    let of_it = |code: &str| {
        code == READ_ONLY
            || OTHER_STATEMENT.contains(&code)
            || code.starts_with(CONNECTION_EXCEPTION)
            || code.starts_with(OPERATOR_INTERVENTION)
    };
    error.code().is_none_or(|code| of_it(&code))
}

fn is_conflict(error: &Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with(TRANSACTION_ROLLBACK))
}

fn has_code(error: &Error, code: &str) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|found| found == code)
}
