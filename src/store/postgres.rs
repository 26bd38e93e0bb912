//! The dedup memory of several instances, in PostgreSQL.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Postgres, Row, Transaction};
use tokio::sync::OnceCell;

use super::sql::{Connections, FAILED_FOR, Housekeeping, Lent, PURGE_BATCH, units};
use super::{
    Claim, ClaimHandle, ClaimToken, CommitError, DedupStore, EventKey, StoreConfigError, StoreError, StoreFuture,
};
use crate::dead_letter::PostgresDeadLetters;
use crate::telemetry::{Chain, TARGET};

/// Remembers events in PostgreSQL, for any number of instances.
///
/// Each step is one statement and one round trip. The server's clock decides, so the instances need not agree about the
/// time. With [`commit`](Self::commit), a handler that writes to the same database makes its effect and the completion
/// one transaction.
///
/// ```
/// # #[cfg(feature = "testing")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use sendarix_webhooks::{Receiver, SigningSecret, store::PostgresStore};
///
/// let store = PostgresStore::open("postgres://app@db.internal/app")?;
/// let receiver = Receiver::builder(SigningSecret::new("a secret from the dashboard")?)
///     .dead_letters(store.dead_letters())
///     .store(store)
///     .build()?;
/// # Ok(()) }
/// ```
///
/// # Connections
///
/// The store opens up to 8 connections of its own, when they are needed. While the server cannot be reached, deliveries
/// are answered 503; once it can, they go through again, and nothing has to be restarted. Nothing is left on a connection
/// between two statements, and no statement is prepared, so a pooler in transaction mode may stand in between. For TLS
/// switch on a `tls-…` feature of sqlx 0.9 in your own `Cargo.toml`.
///
/// # The tables
///
/// `sendarix_claims` has a row for each event that is claimed or remembered, about 200 bytes with its indexes, and
/// `sendarix_dead_letters` one for each dead letter. The store makes them when they are missing; if its role may not,
/// run [`migration`](Self::migration) yourself. Rows that are over are deleted in the background, a thousand at a time. A
/// purge passes by every row that somebody has locked, and every live claim.
///
/// # What PostgreSQL cannot promise
///
/// After a failover to an asynchronous replica, the last events are forgotten, and copies of them are handled again.
/// Synchronous replication closes that gap.
#[derive(Clone)]
pub struct PostgresStore(Arc<Database>);

/// The tables, and a few connections to them.
#[derive(Debug)]
pub(crate) struct Database {
    connections: Connections<PgConnection>,
    claims: Table,
    pub(crate) letters: Table,
    migrate: bool,
    migrated: OnceCell<()>,
    housekeeping: Housekeeping,
}

/// A table's name, which needs no quoting, or not more than it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    schema: Option<String>,
    name: String,
}

/// Builds a [`PostgresStore`].
#[derive(Clone)]
#[must_use]
pub struct PostgresBuilder {
    options: PgConnectOptions,
    max_connections: usize,
    schema: Option<String>,
    claims: String,
    letters: String,
    migrate: bool,
}

impl PostgresStore {
    /// A store at this URL (`postgres://user:password@host:port/database`), with every default. Does not connect yet.
    ///
    /// # Errors
    ///
    /// The URL cannot be read.
    pub fn open(url: &str) -> Result<Self, StoreConfigError> {
        Self::builder(url)?.build()
    }

    /// Starts a store at this URL.
    ///
    /// # Errors
    ///
    /// The URL cannot be read.
    pub fn builder(url: &str) -> Result<PostgresBuilder, StoreConfigError> {
        let options = url.parse().map_err(|error| StoreConfigError {
            // The URL may have a password in it.
            message: "the PostgreSQL URL cannot be read; it looks like postgres://user:password@host:5432/database"
                .into(),
            source: Some(Box::<sqlx::Error>::new(error)),
        })?;
        Ok(Self::with_options(options))
    }

    /// Starts a store that connects as sqlx's options say, such as those of your own pool:
    /// `PgConnectOptions::clone(&pool.connect_options())`.
    pub fn with_options(options: PgConnectOptions) -> PostgresBuilder {
        PostgresBuilder {
            options,
            max_connections: 8,
            schema: None,
            claims: "sendarix_claims".to_owned(),
            letters: "sendarix_dead_letters".to_owned(),
            migrate: true,
        }
    }

    /// Dead letters in the same database.
    #[must_use]
    pub fn dead_letters(&self) -> PostgresDeadLetters {
        PostgresDeadLetters::new(Arc::clone(&self.0))
    }

    /// The SQL that makes the tables. It changes nothing where they are.
    #[must_use]
    pub fn migration(&self) -> String {
        self.0.migration()
    }

    /// Runs the [`migration`](Self::migration) now. Without this it is run over the first connection.
    ///
    /// # Errors
    ///
    /// The database cannot be reached, or its role may not make tables.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let mut lent = self.0.connections.lend().await.map_err(StoreError::new)?;
        self.0.migrate(&mut lent).await.map_err(StoreError::new)?;
        lent.give_back();
        Ok(())
    }

    /// Commits the handler's transaction together with the completion of its claim: both happen, or neither.
    ///
    /// The transaction must be on the store's own database. Commit last in the handler: what fails afterwards is not
    /// tried again.
    ///
    /// ```no_run
    /// # use sendarix_webhooks::{Delivery, HandlerError, store::PostgresStore};
    /// async fn credit(delivery: Delivery, store: PostgresStore, pool: sqlx::PgPool) -> Result<(), HandlerError> {
    ///     let mut tx = pool.begin().await?;
    ///     let credit = "UPDATE accounts SET balance = balance + 1 WHERE address = $1";
    ///     sqlx::query(credit).bind(&*delivery.event().recipient).execute(&mut *tx).await?;
    ///     store.commit(tx, delivery.claim()).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`CommitError::TakenOver`] if the claim was lost, and [`CommitError::Failed`] if the database failed.
    pub async fn commit(&self, mut tx: Transaction<'_, Postgres>, claim: &ClaimHandle) -> Result<(), CommitError> {
        let complete = self.0.complete(claim.key(), claim.token(), claim.retention());
        let completed = sqlx::raw_sql(AssertSqlSafe(complete)).fetch_all(&mut *tx).await;
        let completed = completed.map_err(|error| CommitError::Failed(StoreError::new(error)))?;
        if completed.is_empty() {
            return Err(CommitError::TakenOver);
        }
        tx.commit().await.map_err(|error| CommitError::Failed(StoreError::new(error)))?;
        claim.set_completed();
        Ok(())
    }

    /// Deletes the rows that nobody needs any more, and returns how many. Live claims are never among them.
    ///
    /// The store does this by itself once a minute, as long as events are completed.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn purge(&self) -> Result<u64, StoreError> {
        let claims = &self.0.claims;
        let kept = Microseconds(FAILED_FOR);
        // A live claim is not forgotten when its lease ends: its owner may still complete it, and its attempt still counts.
        let purge = format!(
            "DELETE FROM {claims} WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM {claims}
                WHERE until < clock_timestamp() AND (state <> 'live' OR until < clock_timestamp() - {kept})
                ORDER BY until LIMIT {PURGE_BATCH} FOR UPDATE SKIP LOCKED))
             RETURNING 1"
        );
        let mut purged = 0;
        loop {
            let deleted = self.0.fetch(&purge).await.map_err(StoreError::new)?.len() as u64;
            purged += deleted;
            if deleted < PURGE_BATCH {
                return Ok(purged);
            }
        }
    }

    fn purge_if_due(&self) {
        if self.0.housekeeping.is_due() {
            let store = self.clone();
            drop(tokio::spawn(async move {
                if let Err(error) = store.purge().await {
                    let error = Chain(&error);
                    tracing::warn!(target: TARGET, %error, "old events could not be deleted from PostgreSQL");
                }
            }));
        }
    }

    async fn try_claim(&self, key: &EventKey, token: ClaimToken, lease: Duration) -> Result<Claim, sqlx::Error> {
        let claims = &self.0.claims;
        let (key, lease) = (Key(key), Microseconds(lease));
        let (endpoint, event_id, token) = (key.endpoint(), key.event_id(), Bytes(&token.to_bytes()));
        // The second half sees the row as it was before, and answers only if the first half did not claim it.
        let claim = format!(
            "WITH claimed AS (
                INSERT INTO {claims} AS c (endpoint, event_id, token, attempt, state, until)
                VALUES ({endpoint}, {event_id}, {token}, 1, 'live', clock_timestamp() + {lease})
                ON CONFLICT (endpoint, event_id) DO UPDATE SET
                    attempt = CASE
                        WHEN c.state = 'live' AND c.token = excluded.token THEN c.attempt
                        WHEN c.state = 'completed' THEN 1
                        ELSE c.attempt + 1 END,
                    token = excluded.token, state = 'live', until = excluded.until
                WHERE (c.state = 'live' AND c.token = excluded.token)
                    OR c.state = 'failed' OR c.until <= clock_timestamp()
                RETURNING attempt
             )
             SELECT 'granted' AS state, attempt AS number FROM claimed
             UNION ALL
             SELECT state, (extract(epoch FROM until - clock_timestamp()) * 1000000)::bigint FROM {claims}
             WHERE {key} AND NOT EXISTS (SELECT FROM claimed)"
        );
        for _ in 0..TRIES {
            if let Some(row) = self.0.fetch(&claim).await?.first()
                && let Some(claim) = answer(row)?
            {
                return Ok(claim);
            }
        }
        Err(sqlx::Error::Protocol("the event's state went on changing".to_owned()))
    }

    async fn release_row(&self, key: &EventKey, token: ClaimToken) -> Result<bool, sqlx::Error> {
        let (claims, kept) = (&self.0.claims, Microseconds(FAILED_FOR));
        let (key, token) = (Key(key), Bytes(&token.to_bytes()));
        let release = format!(
            "UPDATE {claims} SET state = 'failed', until = clock_timestamp() + {kept}
             WHERE {key} AND token = {token} AND state <> 'completed' RETURNING 1"
        );
        Ok(!self.0.fetch(&release).await?.is_empty())
    }
}

/// So often at most is a claim sent again because the row changed while the statement ran.
const TRIES: usize = 5;

/// What a row says to a claim, unless the event is free by now.
fn answer(row: &PgRow) -> Result<Option<Claim>, sqlx::Error> {
    let number = u64::try_from(row.try_get::<i64, _>("number")?).ok().filter(|number| *number > 0);
    let Some(number) = number else { return Ok(None) };
    Ok(match row.try_get("state")? {
        "granted" => Some(Claim::Granted { attempt: u32::try_from(number).unwrap_or(u32::MAX) }),
        "completed" => Some(Claim::Completed),
        "live" => Some(Claim::InFlight { remaining: Duration::from_micros(number) }),
        _ => None,
    })
}

impl DedupStore for PostgresStore {
    fn claim<'a>(&'a self, key: &'a EventKey, token: ClaimToken, lease: Duration) -> StoreFuture<'a, Claim> {
        Box::pin(async move { self.try_claim(key, token, lease).await.map_err(StoreError::new) })
    }

    fn complete<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            self.purge_if_due();
            let completed = self.0.fetch(&self.0.complete(key, token, retention)).await;
            Ok(!completed.map_err(StoreError::new)?.is_empty())
        })
    }

    fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool> {
        Box::pin(async move { self.release_row(key, token).await.map_err(StoreError::new) })
    }
}

impl Database {
    fn complete(&self, key: &EventKey, token: ClaimToken, retention: Duration) -> String {
        let (claims, retention) = (&self.claims, Microseconds(retention));
        let (key, token) = (Key(key), Bytes(&token.to_bytes()));
        format!(
            "UPDATE {claims} SET state = 'completed', until = clock_timestamp() + {retention}
             WHERE {key} AND token = {token} AND state <> 'failed' RETURNING 1"
        )
    }

    /// Runs one statement, which must be safe to run twice: if an idle connection turns out to be dead, it is sent again
    /// over a new one.
    ///
    /// It goes out as a simple query, with its values in it. That takes one round trip and leaves nothing on the
    /// connection, where a prepared statement takes two at first, and breaks behind a pooler that exchanges the
    /// connection between them.
    pub(crate) async fn fetch(&self, sql: &str) -> Result<Vec<PgRow>, sqlx::Error> {
        let sql: Arc<str> = sql.into();
        loop {
            let mut lent = self.lend().await?;
            match sqlx::raw_sql(AssertSqlSafe(Arc::clone(&sql))).fetch_all(lent.connection()?).await {
                Ok(rows) => {
                    lent.give_back();
                    return Ok(rows);
                }
                Err(error) if lent.is_fresh() => return Err(error),
                // This also drops the idle connections, so the next one is new.
                Err(_) => drop(lent),
            }
        }
    }

    /// A connection to a database that has the tables.
    async fn lend(&self) -> Result<Lent<'_, PgConnection>, sqlx::Error> {
        let mut lent = self.connections.lend().await?;
        if self.migrate {
            self.migrated.get_or_try_init(|| self.migrate(&mut lent)).await?;
        }
        Ok(lent)
    }

    async fn migrate(&self, lent: &mut Lent<'_, PgConnection>) -> Result<(), sqlx::Error> {
        // Asked first: a role that may not make tables may not say IF NOT EXISTS either.
        let (claims, letters) = (self.claims.to_string(), self.letters.to_string());
        let (claims, letters) = (Text(&claims), Text(&letters));
        let missing = format!("SELECT 1 WHERE to_regclass({claims}) IS NULL OR to_regclass({letters}) IS NULL");
        let missing = sqlx::raw_sql(AssertSqlSafe(missing)).fetch_all(lent.connection()?).await?;
        if missing.is_empty() {
            return Ok(());
        }
        // Several statements in one are one transaction, and the lock makes instances that start together take turns.
        let migration = format!("SELECT pg_advisory_xact_lock({ADVISORY_LOCK}); {}", self.migration());
        sqlx::raw_sql(AssertSqlSafe(migration)).execute(lent.connection()?).await.map(drop)
    }

    fn migration(&self) -> String {
        let Self { claims, letters, .. } = self;
        format!(
            "\
CREATE TABLE IF NOT EXISTS {claims} (
    endpoint text COLLATE \"C\" NOT NULL,
    event_id bytea NOT NULL,
    token bytea NOT NULL,
    attempt bigint NOT NULL,
    -- 'live', 'failed' or 'completed'
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
    error text NOT NULL,
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

/// `Sendarix`, in ASCII.
const ADVISORY_LOCK: i64 = 0x5365_6e64_6172_6978;

impl PostgresBuilder {
    /// The schema of the tables, which must be there. Default: the first of the connection's `search_path`.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = Some(name.into());
        self
    }

    /// The name of the table of claims. Default: `sendarix_claims`.
    pub fn claims_table(mut self, name: impl Into<String>) -> Self {
        self.claims = name.into();
        self
    }

    /// The name of the table of dead letters. Default: `sendarix_dead_letters`.
    pub fn dead_letters_table(mut self, name: impl Into<String>) -> Self {
        self.letters = name.into();
        self
    }

    /// How many connections may be open at the same time. Default: 8. A claim takes one for as long as one statement
    /// takes, so this is not the number of events that are handled at the same time.
    pub fn max_connections(mut self, max: usize) -> Self {
        self.max_connections = max;
        self
    }

    /// Leaves the tables to you: see [`PostgresStore::migration`]. Default: the store makes them.
    pub fn without_migration(mut self) -> Self {
        self.migrate = false;
        self
    }

    /// Checks the names. Does not connect yet.
    ///
    /// # Errors
    ///
    /// A name is not made of 1 to 57 ASCII letters, digits and underscores, or begins with a digit; both tables have the
    /// same name; no connection is allowed.
    pub fn build(self) -> Result<PostgresStore, StoreConfigError> {
        if self.max_connections == 0 {
            return Err(StoreConfigError::new("`max_connections` is 0; a store needs at least one connection"));
        }
        if self.claims == self.letters {
            return Err(StoreConfigError::new(format!("both tables are called `{}`", self.claims)));
        }
        for (setting, name) in [("claims_table", &self.claims), ("dead_letters_table", &self.letters)]
            .into_iter()
            .chain(self.schema.iter().map(|name| ("schema", name)))
        {
            check_name(setting, name)?;
        }
        let table = |name| Table { schema: self.schema.clone(), name };
        Ok(PostgresStore(Arc::new(Database {
            claims: table(self.claims.clone()),
            letters: table(self.letters.clone()),
            // A pooler may know no such setting, and no number here is a float.
            connections: Connections::new(self.options.extra_float_digits(None), self.max_connections),
            migrate: self.migrate,
            migrated: OnceCell::new(),
            housekeeping: Housekeeping::new(),
        })))
    }
}

/// `PostgreSQL` cuts names at 63 bytes, and that of the index has 6 more than the table's.
const MAX_NAME: usize = 57;

fn check_name(setting: &str, name: &str) -> Result<(), StoreConfigError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let digit_first = name.starts_with(|first: char| first.is_ascii_digit());
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed) && !digit_first {
        return Ok(());
    }
    Err(StoreConfigError::new(format!(
        "`{setting}` is {name:?}; a name has 1 to {MAX_NAME} ASCII letters, digits and underscores, and no digit first"
    )))
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

/// Bytes as an SQL expression: nothing but hex digits comes from outside.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

/// A text as an SQL expression, by the same way.
pub(crate) struct Text<'a>(pub(crate) &'a str);

/// The condition that a row is that of a key.
pub(crate) struct Key<'a>(pub(crate) &'a EventKey);

struct Microseconds(Duration);

impl Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("decode('")?;
        f.write_str(&const_hex::encode(self.0))?;
        f.write_str("', 'hex')")
    }
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "convert_from({}, 'UTF8')", Bytes(self.0.as_bytes()))
    }
}

impl<'a> Key<'a> {
    fn endpoint(&self) -> Text<'a> {
        Text(self.0.endpoint())
    }

    fn event_id(&self) -> Bytes<'a> {
        Bytes(self.0.event_id().as_bytes())
    }
}

impl Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint = {} AND event_id = {}", self.endpoint(), self.event_id())
    }
}

impl Display for Microseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interval '{} microseconds'", units(self.0, 1_000_000))
    }
}

/// Leaves out how to reach the server, which may include a password.
impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("claims", &self.0.claims).finish_non_exhaustive()
    }
}

impl fmt::Debug for PostgresBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBuilder")
            .field("schema", &self.schema)
            .field("claims", &self.claims)
            .finish_non_exhaustive()
    }
}
