//! Events and dead letters of several instances, in PostgreSQL.

mod builder;
mod database;
mod letters;
mod schema;
mod sql;

use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, Postgres, Row, Transaction};

pub use self::builder::PostgresBuilder;
use self::database::Database;
pub use self::letters::PostgresDeadLetters;
use self::schema::Table;
use self::sql::{Arguments, Key, Statement, Token};
use crate::contract::MAX_LEASE;
use crate::dead_letter::DeadLetters;
use crate::sql::{FAILED_FOR, Housekeeping, PURGE_BATCH, claim_state, units};
use crate::store::{
    Claim, ClaimHandle, ClaimState, ClaimToken, CommitError, DedupStore, EventKey, StoreConfigError, StoreError,
    StoreFuture,
};

/// Remembers events in PostgreSQL, for any number of instances.
///
/// Each step is one statement and one round trip, also where transactions are stricter than `READ COMMITTED` by default,
/// unless two of them collide. The server's clock decides, so the instances need not agree about the
/// time. With [`commit`](Self::commit), a handler that writes to the same database makes its effect and the completion
/// one transaction.
///
/// ```
/// # #[cfg(feature = "testing")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use sendarix_webhooks::{PostgresStore, Receiver, SigningSecret};
///
/// let store = PostgresStore::open("postgres://app@db.internal/app")?;
/// let receiver = Receiver::builder(SigningSecret::new("a secret from the dashboard")?).store(store).build()?;
/// # Ok(()) }
/// ```
///
/// # Connections
///
/// The store opens up to 8 connections, when they are needed. While the server cannot be reached, deliveries
/// are answered 503; once it can, they go through again, and nothing has to be restarted. A pooler in transaction mode
/// may stand in between: every statement is by itself, and one that is prepared bears a name that nothing else can have,
/// and is prepared again wherever it is missing. For TLS switch on a `tls-…` feature of sqlx 0.9 in your own `Cargo.toml`.
///
/// # The tables
///
/// `sendarix_claims` has a row for each event that is claimed or remembered, about 200 bytes with its indexes,
/// `sendarix_dead_letters` one for each dead letter, and `sendarix_schema` the version of both. The store makes them when they
/// are missing, and brings those of an earlier version to its own; if its role may not, run [`migration`](Self::migration)
/// yourself. Do so too for a large table of an earlier version: the store gives a statement 3 s. Stop the instances of an
/// earlier version first. Rows that are over are deleted in the background, a thousand at a
/// time. A purge passes by every row that is locked, and every live claim. To look at what is going on:
///
/// ```sql
/// SELECT endpoint, event_id, state, attempt, until FROM sendarix_claims WHERE state <> 'completed' ORDER BY until;
/// ```
///
/// The database must have the encoding UTF8. In another, some event's id could not be written: the store says so, and every
/// delivery is answered 503.
///
/// # What PostgreSQL cannot promise
///
/// After a failover to an asynchronous replica, the last events are forgotten, and copies of them are handled again.
/// Synchronous replication closes that gap.
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    database: Arc<Database>,
    claim: Statement,
    complete: Statement,
    release: Statement,
    give_up: Statement,
    housekeeping: Housekeeping,
}

/// The event, the token and a time in microseconds.
const PARAMETERS: &str = "text, text, uuid, bigint";

impl PostgresStore {
    fn new(database: Database) -> Self {
        let claims = &database.claims;
        let row = "endpoint = $1 AND event_id = $2";
        // The second half sees the row as it was before, and answers only if the first half did not claim it.
        let claim = format!(
            "WITH claimed AS (
                INSERT INTO {claims} AS c (endpoint, event_id, token, attempt, state, until)
                VALUES ($1, $2, $3, 1, 'live', clock_timestamp() + $4 * interval '1 microsecond')
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
        let settle = |state| settle(claims, state, state, row, "$3", "$4");
        let statement = |text| Statement::new(PARAMETERS, text);
        Self(Arc::new(Inner {
            claim: statement(claim),
            complete: statement(settle("completed")),
            release: statement(settle("failed")),
            give_up: statement(settle("given_up")),
            database: Arc::new(database),
            housekeeping: Housekeeping::default(),
        }))
    }

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
        let options = url.parse().map_err(|error: sqlx::Error| {
            // The URL may have a password in it.
            let message =
                "the PostgreSQL URL cannot be read; it looks like postgres://user:password@host:5432/database";
            StoreConfigError::new(message, Some(error.into()))
        })?;
        Ok(Self::with_options(options))
    }

    /// Starts a store that connects as sqlx's options say, such as those of your own pool:
    /// `PgConnectOptions::clone(&pool.connect_options())`.
    pub fn with_options(options: PgConnectOptions) -> PostgresBuilder {
        PostgresBuilder::new(options)
    }

    /// The dead letters, which are in the same database.
    #[must_use]
    pub fn dead_letters(&self) -> PostgresDeadLetters {
        PostgresDeadLetters::new(Arc::clone(&self.0.database))
    }

    /// The SQL that makes the tables. It changes nothing where they are.
    #[must_use]
    pub fn migration(&self) -> String {
        self.0.database.migration()
    }

    /// Runs the [`migration`](Self::migration) now. Without this it is run over the first connection.
    ///
    /// # Errors
    ///
    /// The database cannot be reached, or its role may not make tables.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.0.database.migrate().await.map_err(StoreError::new)
    }

    /// Commits the handler's transaction together with the completion of its claim: both happen, or neither.
    ///
    /// It takes two round trips in the transaction, the completion and the commit, and another to see that it has arrived.
    ///
    /// The transaction must be on the store's own database, and is best begun last and kept short: rows that it has locked
    /// stay locked for as long as it is open, also when the process is stopped, which the server ends after 5 s. One that is
    /// stricter than `READ COMMITTED` may be refused here like anywhere, and then the handler fails. Its role needs UPDATE on the
    /// table of claims, and SELECT and DELETE on that of dead letters: the completion deletes the letter of the event. Commit last in the handler: what fails
    /// afterwards is not tried again. A claim is committed once; only after [`CommitError::Failed`], when it is not known
    /// whether the first `commit` has arrived, may it be tried again, with the same work in a new transaction.
    ///
    /// ```no_run
    /// # use sendarix_webhooks::{Delivery, HandlerError, PostgresStore};
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
    /// [`CommitError::AlreadyCommitted`] if the claim has been completed, [`CommitError::TakenOver`] if it was lost,
    /// [`CommitError::Elsewhere`] if the transaction is nested in another one or of another database, and [`CommitError::Failed`] if the
    /// database failed.
    pub async fn commit(&self, mut tx: Transaction<'_, Postgres>, claim: &ClaimHandle) -> Result<(), CommitError> {
        let failed = |error| CommitError::Failed(StoreError::new(error));
        let committing = match claim.begin_commit() {
            Ok(committing) => committing,
            Err(error) => {
                tx.rollback().await.map_err(failed)?;
                return Err(error);
            }
        };
        self.purge_if_due();
        let token = Token(claim.token());
        let retention = units(claim.retention(), 1_000_000);
        // From live alone: this transaction is no repetition of another one.
        let claims = &self.0.database.claims;
        let complete = settle(claims, "completed", "live", Key(claim.key()), token, retention);
        // While it is open the event's row is locked, also when the process is stopped. All in one simple query: a
        // statement that is prepared and missing, behind a pooler, would end the transaction.
        let complete = format!("SET LOCAL idle_in_transaction_session_timeout = '{LONGEST_COMMIT}'; {complete}");
        let completed = sqlx::raw_sql(AssertSqlSafe(complete)).fetch_all(&mut *tx).await.map_err(failed)?;
        let recorded = !completed.is_empty();
        if recorded { tx.commit().await } else { tx.rollback().await }.map_err(failed)?;
        committing.conclude(recorded, self.state(claim).await.map_err(failed)?)
    }

    /// What the store itself sees of a claim, unless it is not this one's any more.
    async fn state(&self, claim: &ClaimHandle) -> Result<Option<ClaimState>, sqlx::Error> {
        let (claims, token) = (&self.0.database.claims, Token(claim.token()));
        let state = format!("SELECT state FROM {claims} WHERE {} AND token = {token}", Key(claim.key()));
        let rows = self.0.database.fetch(&state).await?;
        let state: Option<&str> = rows.first().map(|row| row.try_get("state")).transpose()?;
        Ok(state.and_then(claim_state))
    }

    fn purge_if_due(&self) {
        self.0.housekeeping.purge_if_due(|| {
            let store = self.clone();
            async move { store.purge().await }
        });
    }

    /// Deletes the rows that are not needed any more, and returns how many. Live claims are never among them.
    ///
    /// The store does this by itself once a minute, as long as events are completed.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn purge(&self) -> Result<u64, StoreError> {
        let (claims, kept) = (&self.0.database.claims, units(FAILED_FOR, 1_000_000));
        // A live claim is not forgotten when its lease ends: its owner may still complete it, and its attempt still counts.
        let purge = format!(
            "DELETE FROM {claims} WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM {claims}
                WHERE until < now() AND (state <> 'live' OR until < now() - interval '{kept} microseconds')
                ORDER BY until LIMIT {PURGE_BATCH} FOR UPDATE SKIP LOCKED))
             RETURNING 1"
        );
        let mut purged = 0;
        loop {
            let deleted = self.0.database.fetch(&purge).await.map_err(StoreError::new)?.len() as u64;
            purged += deleted;
            if deleted < PURGE_BATCH {
                break;
            }
        }
        // Claims from before the clock stepped back: see the claim's own statement. From now on, their attempts count for a
        // day.
        let clamp = format!(
            "UPDATE {claims} SET until = clock_timestamp()
             WHERE state = 'live' AND until > clock_timestamp() + {MAX_LEASE_INTERVAL}"
        );
        self.0.database.fetch(&clamp).await.map_err(StoreError::new)?;
        Ok(purged)
    }

    async fn try_claim(&self, key: &EventKey, token: ClaimToken, lease: Duration) -> Result<Claim, sqlx::Error> {
        for _ in 0..TRIES {
            let rows = self.0.database.run(&self.0.claim, Arguments(key, token, lease)).await?;
            if let Some(row) = rows.first()
                && let Some(claim) = answer(row)?
            {
                return Ok(claim);
            }
        }
        Err(sqlx::Error::Protocol("the event's state went on changing".to_owned()))
    }

    async fn settle(
        &self,
        statement: &Statement,
        key: &EventKey,
        token: ClaimToken,
        kept: Duration,
    ) -> Result<bool, StoreError> {
        let rows = self.0.database.run(statement, Arguments(key, token, kept)).await;
        Ok(!rows.map_err(StoreError::new)?.is_empty())
    }
}

/// How long the server waits for the commit of a transaction that has completed a claim.
const LONGEST_COMMIT: &str = "5s";

/// Brings the row of a token's claim into a state: from live, or from one more. A trigger deletes the letter of an event that
/// is completed.
fn settle(
    claims: &Table,
    state: &str,
    or_from: &str,
    row: impl Display,
    token: impl Display,
    microseconds: impl Display,
) -> String {
    format!(
        "UPDATE {claims} SET state = '{state}', until = clock_timestamp() + {microseconds} * interval '1 microsecond'
         WHERE {row} AND token = {token} AND state IN ('live', '{or_from}') RETURNING 1"
    )
}

/// [`MAX_LEASE`] in SQL.
const MAX_LEASE_INTERVAL: &str = "interval '330 seconds'";
const _: () = assert!(MAX_LEASE.as_secs() == 330);

/// So often at most is a claim sent again because the row changed while the statement ran.
const TRIES: usize = 5;

/// What a row says to a claim, unless the event is free by now.
fn answer(row: &PgRow) -> Result<Option<Claim>, sqlx::Error> {
    let number = u64::try_from(row.try_get::<i64, _>("number")?).ok().filter(|number| *number > 0);
    let Some(number) = number else { return Ok(None) };
    Ok(match row.try_get("state")? {
        "granted" => Some(Claim::Granted { attempt: u32::try_from(number).unwrap_or(u32::MAX) }),
        "completed" => Some(Claim::Completed),
        "given_up" => Some(Claim::GivenUp),
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
            self.settle(&self.0.complete, key, token, retention).await
        })
    }

    fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool> {
        Box::pin(self.settle(&self.0.release, key, token, FAILED_FOR))
    }

    fn give_up<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            self.purge_if_due();
            self.settle(&self.0.give_up, key, token, retention).await
        })
    }

    fn reopen<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let (claims, kept) = (&self.0.database.claims, units(FAILED_FOR, 1_000_000));
            let reopen = format!(
                "UPDATE {claims} SET state = 'failed', until = now() + interval '{kept} microseconds'
                 WHERE {} AND state = 'given_up'",
                Key(key)
            );
            self.0.database.fetch(&reopen).await.map(drop).map_err(StoreError::new)
        })
    }

    fn is_completed<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let (claims, row) = (&self.0.database.claims, Key(key));
            let find =
                format!("SELECT 1 FROM {claims} WHERE {row} AND state = 'completed' AND until > clock_timestamp()");
            Ok(!self.0.database.fetch(&find).await.map_err(StoreError::new)?.is_empty())
        })
    }

    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::new(self.dead_letters()))
    }

    fn set_time_limit(&self, limit: Duration) {
        self.0.database.allow(limit);
    }
}

/// Leaves out how to reach the server, which may include a password.
impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("claims", &self.0.database.claims).finish_non_exhaustive()
    }
}
