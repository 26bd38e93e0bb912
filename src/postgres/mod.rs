//! Events and dead letters of several instances, in PostgreSQL.

mod builder;
mod database;
mod letters;
#[cfg(feature = "mail")]
mod mail;
mod schema;
mod statements;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, Postgres, Row, Transaction};

pub use self::builder::PostgresBuilder;
use self::database::{Database, Query};
pub use self::letters::PostgresDeadLetters;
use crate::dead_letter::DeadLetters;
use crate::sql::{FAILED_FOR, Housekeeping, claim_state, in_batches, units};
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
/// are answered 503; once it can, they go through again, and nothing has to be restarted. Behind a pooler in transaction
/// mode, such as `PgBouncer`, call [`behind_pooler`](PostgresBuilder::behind_pooler). For TLS switch on a `tls-…` feature of sqlx 0.9 in your own `Cargo.toml`.
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
/// delivery is answered 503. With [`without_migration`](PostgresBuilder::without_migration) it does not look, and each event
/// with such an id is answered 503.
///
/// # What PostgreSQL cannot promise
///
/// After a failover to an asynchronous replica, the last events are forgotten, and copies of them are handled again.
/// Synchronous replication closes that gap.
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    database: Arc<Database>,
    housekeeping: Housekeeping,
    #[cfg(feature = "mail")]
    mail: mail::MailDatabase,
}

impl PostgresStore {
    fn new(database: Database, mail_tables: &str) -> Self {
        #[cfg(not(feature = "mail"))]
        let _ = mail_tables;
        Self(Arc::new(Inner {
            housekeeping: Housekeeping::default(),
            #[cfg(feature = "mail")]
            mail: mail::MailDatabase::new(&database.claims, mail_tables),
            database: Arc::new(database),
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
        PostgresDeadLetters(Arc::clone(&self.0.database))
    }

    /// The SQL that makes the tables. It changes nothing where they are.
    #[must_use]
    pub fn migration(&self) -> String {
        self.0.database.schema.migration.clone()
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
        let committing = match claim.begin_commit() {
            Ok(committing) => committing,
            Err(error) => {
                tx.rollback().await.map_err(failed)?;
                return Err(error);
            }
        };
        self.purge_if_due();
        let Database { statements, behind_pooler, .. } = &*self.0.database;
        let complete = sqlx::query(AssertSqlSafe(Arc::clone(&statements.complete_once))).persistent(!behind_pooler);
        let complete = bind_step(complete, claim.key(), claim.token(), claim.retention());
        let recorded = !complete.fetch_all(&mut *tx).await.map_err(failed)?.is_empty();
        if recorded { tx.commit().await } else { tx.rollback().await }.map_err(failed)?;
        committing.conclude(recorded, self.state(claim).await.map_err(CommitError::Failed)?)
    }

    /// What the store itself sees of a claim, unless it is not this one's any more.
    async fn state(&self, claim: &ClaimHandle) -> Result<Option<ClaimState>, StoreError> {
        let key = claim.key();
        let rows = self
            .0
            .database
            .run(|sql| &sql.state, |query| query.bind(key.endpoint()).bind(key.event_id()).bind(claim.token().to_hex()))
            .await?;
        let state: Option<&str> = rows.first().map(|row| row.try_get("state")).transpose().map_err(StoreError::new)?;
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
        let purged = in_batches(|| self.0.database.run(|sql| &sql.purge, |query| query)).await?;
        self.0.database.run(|sql| &sql.clamp, |query| query).await?;
        Ok(purged)
    }

    async fn try_claim(&self, key: &EventKey, token: ClaimToken, lease: Duration) -> Result<Claim, StoreError> {
        for _ in 0..TRIES {
            let rows = self.0.database.run(|sql| &sql.claim, |query| bind_step(query, key, token, lease)).await?;
            if let Some(row) = rows.first()
                && let Some(claim) = answer(row).map_err(StoreError::new)?
            {
                return Ok(claim);
            }
        }
        Err(StoreError::new("the event's state went on changing"))
    }

    /// Brings the event from live into a state, unless the claim was lost.
    async fn settle(
        &self,
        state: &'static str,
        key: &EventKey,
        token: ClaimToken,
        kept: Duration,
    ) -> Result<bool, StoreError> {
        let bind = |query| bind_step(query, key, token, kept).bind(state);
        Ok(!self.0.database.run(|sql| &sql.settle, bind).await?.is_empty())
    }
}

/// How often at most a claim is sent again because the row changed while the statement ran.
const TRIES: usize = 5;

/// What every step of a claim binds: the event, the token, and a time.
fn bind_step<'q>(query: Query<'q>, key: &'q EventKey, token: ClaimToken, time: Duration) -> Query<'q> {
    query.bind(key.endpoint()).bind(key.event_id()).bind(token.to_hex()).bind(units(time, 1_000_000))
}

fn failed(error: sqlx::Error) -> CommitError {
    CommitError::Failed(StoreError::new(error))
}

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
        StoreFuture::new(self.try_claim(key, token, lease))
    }

    fn complete<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            self.purge_if_due();
            self.settle("completed", key, token, retention).await
        })
    }

    fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool> {
        StoreFuture::new(self.settle("failed", key, token, FAILED_FOR))
    }

    fn give_up<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            self.purge_if_due();
            self.settle("given_up", key, token, retention).await
        })
    }

    fn reopen<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        StoreFuture::new(async move {
            let kept = units(FAILED_FOR, 1_000_000);
            let bind = |query: Query<'a>| query.bind(key.endpoint()).bind(key.event_id()).bind(kept);
            self.0.database.run(|sql| &sql.reopen, bind).await.map(drop)
        })
    }

    fn is_completed<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            let bind = |query: Query<'a>| query.bind(key.endpoint()).bind(key.event_id());
            Ok(!self.0.database.run(|sql| &sql.is_completed, bind).await?.is_empty())
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
