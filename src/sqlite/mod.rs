//! Events and dead letters of one machine, in an SQLite file.

mod connection;
mod letters;
#[cfg(feature = "mail")]
mod mail;
mod schema;
mod statements;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};

use self::connection::{Database, Query};
pub use self::letters::SqliteDeadLetters;
use self::statements::{
    CLAIM, CLAMP, COMPLETE, COMPLETE_ONCE, FIND, GIVE_UP, IS_COMPLETED, PURGE, RELEASE, REOPEN, STATE,
};
use crate::contract::MAX_LEASE;
use crate::dead_letter::DeadLetters;
use crate::sql::{FAILED_FOR, Housekeeping, PURGE_BATCH, claim_state, in_batches, units};
use crate::store::{
    Claim, ClaimHandle, ClaimState, ClaimToken, CommitError, DedupStore, EventKey, StoreConfigError, StoreError,
    StoreFuture,
};

/// Remembers events in an SQLite file, for all processes of one machine.
///
/// It survives restarts and crashes, and several processes may have the file open at the same time. It must be on a disk
/// of this machine: SQLite's locks do not work over network file systems. The clock is the machine's.
///
/// ```
/// # #[cfg(feature = "testing")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use sendarix_webhooks::{Receiver, SigningSecret, SqliteStore};
///
/// let store = SqliteStore::open("events.sqlite")?;
/// let receiver = Receiver::builder(SigningSecret::new("a secret from the dashboard")?).store(store).build()?;
/// # Ok(()) }
/// ```
///
/// # Durability
///
/// A claim or a completion survives a crash of the process at once, and a power failure once the next checkpoint has
/// written it out (`PRAGMA synchronous = NORMAL`). What a power failure takes is the memory of the last few events: a copy
/// of one that comes after it is handled again. Dead letters are on the disk before they count as kept (`FULL`), and
/// what your own transaction [commits](Self::commit) is as durable as your connection, `FULL` by default.
///
/// # The file
///
/// The table `sendarix_claims` has a row for each event that is claimed or remembered, about 150 bytes,
/// `sendarix_dead_letters` one for each dead letter, and `sendarix_schema` the version of both. The store makes them when they
/// are missing, and brings those of an earlier version to its own: stop the processes of an earlier version first. Rows that are
/// over are deleted in the background, a thousand at a time, and their pages used again. Do not delete or replace the file
/// while a process has it open: that process would go on with the old one. To look at what is going on:
///
/// ```sql
/// SELECT endpoint, event_id, state, attempt, datetime(until / 1000, 'unixepoch') AS until
/// FROM sendarix_claims WHERE state <> 'completed' ORDER BY sendarix_claims.until;
/// ```
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    database: Arc<Database>,
    housekeeping: Housekeeping,
}

impl SqliteStore {
    /// A store in this file, which is created when it is first needed. Does not touch the disk yet.
    ///
    /// # Errors
    ///
    /// The path is empty or `:memory:`, which would be a separate memory for every connection.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreConfigError> {
        let path = path.as_ref();
        if path.as_os_str().is_empty() || path.as_os_str().as_encoded_bytes().starts_with(b":memory:") {
            let found = path.display();
            let message = format!("`{found}` is no file; SQLite needs one, or use a MemoryStore");
            return Err(StoreConfigError::new(message, None));
        }
        let (database, housekeeping) = (Arc::new(Database::new(path)), Housekeeping::default());
        Ok(Self(Arc::new(Inner { database, housekeeping })))
    }

    /// The dead letters, which are in the same file.
    #[must_use]
    pub fn dead_letters(&self) -> SqliteDeadLetters {
        SqliteDeadLetters(Arc::clone(&self.0.database))
    }

    /// Commits the handler's transaction together with the completion of its claim: both happen, or neither.
    ///
    /// The transaction must be on the store's own file. Begin it with `BEGIN IMMEDIATE` (sqlx's `begin_with`): one that
    /// reads first and then writes fails whenever another has written in between. Begin it last and keep it short: while it
    /// is open nothing else can write to the file, and no event can be claimed, also when the process is stopped. Commit last
    /// in the handler: what fails afterwards is not tried again. A claim is committed once; only after
    /// [`CommitError::Failed`], when it is not known whether the first `commit` has arrived, may it be tried again, with the
    /// same work in a new transaction.
    ///
    /// ```no_run
    /// # use sendarix_webhooks::{Delivery, HandlerError, SqliteStore};
    /// async fn credit(delivery: Delivery, store: SqliteStore, pool: sqlx::SqlitePool) -> Result<(), HandlerError> {
    ///     let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    ///     let credit = "UPDATE accounts SET balance = balance + 1 WHERE address = ?1";
    ///     sqlx::query(credit).bind(&*delivery.event().recipient).execute(&mut *tx).await?;
    ///     store.commit(tx, delivery.claim()).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`CommitError::AlreadyCommitted`] if the claim has been completed, [`CommitError::TakenOver`] if it was lost,
    /// [`CommitError::Elsewhere`] if the transaction is nested in another one or on another file, and [`CommitError::Failed`] if the
    /// database failed.
    pub async fn commit(&self, mut tx: Transaction<'_, Sqlite>, claim: &ClaimHandle) -> Result<(), CommitError> {
        let committing = match claim.begin_commit() {
            Ok(committing) => committing,
            Err(error) => {
                tx.rollback().await.map_err(failed)?;
                return Err(error);
            }
        };
        self.purge_if_due();
        let retention = units(claim.retention(), 1000);
        let complete = bind_step(sqlx::query(COMPLETE_ONCE), claim.key(), claim.token(), retention);
        let recorded = !complete.fetch_all(&mut *tx).await.map_err(failed)?.is_empty();
        if recorded { tx.commit().await } else { tx.rollback().await }.map_err(failed)?;
        committing.conclude(recorded, self.state(claim).await.map_err(CommitError::Failed)?)
    }

    /// What the store itself sees of a claim, unless it is not this one's any more.
    async fn state(&self, claim: &ClaimHandle) -> Result<Option<ClaimState>, StoreError> {
        let key = claim.key();
        let claims = &self.0.database.claims;
        let rows = claims
            .run(STATE, |query| query.bind(key.endpoint()).bind(key.event_id()).bind(claim.token().to_hex()))
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
        let claims = &self.0.database.claims;
        let (kept, batch) = (units(FAILED_FOR, 1000), i64::try_from(PURGE_BATCH).unwrap_or(i64::MAX));
        let purged = in_batches(|| claims.run(PURGE, |query| query.bind(kept).bind(batch))).await?;
        claims.run(CLAMP, |query| query.bind(units(MAX_LEASE, 1000))).await?;
        Ok(purged)
    }

    async fn try_claim(&self, key: &EventKey, token: ClaimToken, lease: i64) -> Result<Claim, StoreError> {
        let claims = &self.0.database.claims;
        for _ in 0..TRIES {
            // Copies of an event are common, and reading waits for no lock.
            let found = claims.run(FIND, |query| query.bind(key.endpoint()).bind(key.event_id())).await?;
            if let Some(row) = found.first()
                && let Some(claim) = refusal(row, token).map_err(StoreError::new)?
            {
                return Ok(claim);
            }
            let bind = |query| bind_step(query, key, token, lease).bind(units(MAX_LEASE, 1000));
            if let Some(row) = claims.run(CLAIM, bind).await?.first() {
                let attempt: i64 = row.try_get("attempt").map_err(StoreError::new)?;
                return Ok(Claim::Granted { attempt: u32::try_from(attempt).unwrap_or(u32::MAX) });
            }
        }
        Err(StoreError::new("the event's state went on changing"))
    }

    async fn step(&self, sql: &'static str, key: &EventKey, token: ClaimToken, kept: i64) -> Result<bool, StoreError> {
        let rows = self.0.database.claims.run(sql, |query| bind_step(query, key, token, kept)).await?;
        Ok(!rows.is_empty())
    }
}

/// How often at most a claim is tried again because the row changed between two statements.
const TRIES: usize = 5;

fn failed(error: sqlx::Error) -> CommitError {
    CommitError::Failed(StoreError::new(error))
}

/// What every step of a claim binds: the event, the token, and a time in milliseconds.
fn bind_step<'q>(query: Query<'q>, key: &'q EventKey, token: ClaimToken, milliseconds: i64) -> Query<'q> {
    query.bind(key.endpoint()).bind(key.event_id()).bind(token.to_hex()).bind(milliseconds)
}

/// Why the event in this row cannot be claimed, if that is so.
fn refusal(row: &SqliteRow, token: ClaimToken) -> Result<Option<Claim>, sqlx::Error> {
    let remaining = u64::try_from(row.try_get::<i64, _>("remaining")?).ok().filter(|remaining| *remaining > 0);
    // A lease has begun with the millisecond after its claim.
    let Some(remaining) = remaining.map(|ms| Duration::from_millis((ms - 1).max(1))) else { return Ok(None) };
    Ok(match row.try_get("state")? {
        "completed" => Some(Claim::Completed),
        "given_up" => Some(Claim::GivenUp),
        "live" if row.try_get::<&str, _>("token")? != token.to_hex() => {
            // A lease that ends later than any may be was given before the clock stepped back.
            (remaining <= MAX_LEASE).then_some(Claim::InFlight { remaining })
        }
        _ => None,
    })
}

impl DedupStore for SqliteStore {
    fn claim<'a>(&'a self, key: &'a EventKey, token: ClaimToken, lease: Duration) -> StoreFuture<'a, Claim> {
        StoreFuture::new(self.try_claim(key, token, units(lease, 1000)))
    }

    fn complete<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            self.purge_if_due();
            self.step(COMPLETE, key, token, units(retention, 1000)).await
        })
    }

    fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool> {
        StoreFuture::new(self.step(RELEASE, key, token, units(FAILED_FOR, 1000)))
    }

    fn give_up<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            self.purge_if_due();
            self.step(GIVE_UP, key, token, units(retention, 1000)).await
        })
    }

    fn reopen<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        StoreFuture::new(async move {
            let kept = units(FAILED_FOR, 1000);
            let bind = |query: Query<'a>| query.bind(key.endpoint()).bind(key.event_id()).bind(kept);
            self.0.database.claims.run(REOPEN, bind).await.map(drop)
        })
    }

    fn is_completed<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, bool> {
        StoreFuture::new(async move {
            let bind = |query: Query<'a>| query.bind(key.endpoint()).bind(key.event_id());
            Ok(!self.0.database.claims.run(IS_COMPLETED, bind).await?.is_empty())
        })
    }

    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        Some(Arc::new(self.dead_letters()))
    }

    fn set_time_limit(&self, limit: Duration) {
        self.0.database.allow(limit);
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteStore").field(&self.0.database).finish()
    }
}
