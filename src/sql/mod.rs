//! What the SQL stores share: connections that are trusted only as long as they answer, and the pace of cleaning up.

pub(crate) mod letters;
#[cfg(feature = "mail")]
pub(crate) mod mail;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{ConnectOptions, Connection};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::logging::{Chain, TARGET};
use crate::storage::StoreError;
use crate::store::ClaimState;

/// A few connections to one database, opened when they are needed.
///
/// By hand, since with sqlx's pool `an_event_takes_two_round_trips_and_a_copy_one` (`tests/system`) fails: that
/// pool pings a connection each time it comes back, without a time limit, also one whose answer nothing waited for. Here a
/// connection comes back only after it has answered. One that has not answered takes the idle ones with it, because what
/// happened to it may have happened to them.
pub(crate) struct Connections<C: Connection + 'static> {
    /// How to reach the database.
    pub(crate) options: C::Options,
    /// Fits the options to how long a step may take.
    fit: fn(C::Options, Duration) -> C::Options,
    /// How long the most patient receiver waits for a step, in milliseconds; 0 as long as none has said so.
    limit: AtomicU64,
    /// Each with the time limit that it was opened with.
    idle: Mutex<Vec<(C, Duration)>>,
    permits: Arc<Semaphore>,
}

/// A connection that is closed when it is dropped, unless it is put back.
pub(crate) struct PooledConnection<'a, C: Connection + 'static> {
    home: &'a Connections<C>,
    /// `None` once it has been put back.
    connection: Option<C>,
    fresh: bool,
    /// Whether it has not answered yet.
    asking: bool,
    permit: Option<OwnedSemaphorePermit>,
    /// The time limit that it was opened with.
    limit: Duration,
}

/// How long the place of a connection is kept that was given up before it answered. The database may go on with what it
/// was asked, waiting for a lock for example, and one new connection after the other would soon be too many for it. Yet
/// one that comes back should not have to wait long for connections.
const PLACE_KEPT_FOR: Duration = Duration::from_secs(1);

impl<C: Connection + 'static> Connections<C> {
    pub(crate) fn new(options: C::Options, fit: fn(C::Options, Duration) -> C::Options, max: usize) -> Self {
        let (limit, idle, permits) = (AtomicU64::new(0), Mutex::default(), Arc::new(Semaphore::new(max)));
        Self { options, fit, limit, idle, permits }
    }

    /// How long the database may take for a step: a second more than the most patient receiver waits.
    pub(crate) fn limit(&self) -> Duration {
        let limit = match self.limit.load(Ordering::Relaxed) {
            0 => DEFAULT_LIMIT,
            milliseconds => Duration::from_millis(milliseconds),
        };
        limit + BEYOND_RECEIVER
    }

    /// Raises the limit to what this receiver waits.
    pub(crate) fn allow(&self, limit: Duration) {
        self.limit.fetch_max(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        // They were opened with a shorter one.
        self.idle().retain(|(_, opened_with)| *opened_with == self.limit());
    }

    /// A connection that is idle, or else a new one, when it is this caller's turn.
    pub(crate) async fn acquire(&self) -> Result<PooledConnection<'_, C>, sqlx::Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let idle = self.idle().pop();
        let fresh = idle.is_none();
        let (connection, limit) = match idle {
            Some(idle) => idle,
            None => {
                let limit = self.limit();
                let options = (self.fit)(self.options.clone(), limit);
                (self.in_time(options.connect()).await?, limit)
            }
        };
        Ok(PooledConnection {
            home: self,
            connection: Some(connection),
            fresh,
            asking: false,
            permit: Some(permit),
            limit,
        })
    }

    /// No answer in time is an error, also for a purge, whose place would else be lost together with its connection.
    async fn in_time<T>(&self, step: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        timeout(self.limit() + BEYOND_LIMIT, step).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(C, Duration)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Connection + 'static> PooledConnection<'_, C> {
    /// Asks the database something, and notices if the caller is cancelled.
    pub(crate) async fn ask<'c, T, F>(&'c mut self, question: impl FnOnce(&'c mut C) -> F) -> Result<T, sqlx::Error>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let Self { connection, asking, .. } = self;
        let answer = question(connection.as_mut().ok_or(sqlx::Error::PoolClosed)?);
        *asking = true;
        let answer = self.home.in_time(answer).await;
        *asking = matches!(answer, Err(sqlx::Error::PoolTimedOut));
        answer
    }

    /// Whether it was opened just now, so that an error is the server's and not that of a connection long dead.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The time limit that it was opened with.
    #[cfg(feature = "postgres")]
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// The database has answered everything that it was asked.
    pub(crate) fn put_back(mut self) {
        if self.limit == self.home.limit() {
            self.home.idle().extend(self.connection.take().map(|connection| (connection, self.limit)));
        }
    }
}

impl<C: Connection + 'static> Drop for PooledConnection<'_, C> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        self.home.idle().clear();
        if self.asking
            && let Ok(runtime) = Handle::try_current()
        {
            let place = (connection, self.permit.take());
            drop(runtime.spawn(async move {
                sleep(PLACE_KEPT_FOR).await;
                drop(place);
            }));
        }
    }
}

/// Leaves out how to reach the database, which may include a password.
impl<C: Connection + 'static> fmt::Debug for Connections<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("idle", &self.idle().len()).finish_non_exhaustive()
    }
}

/// A receiver's default.
const DEFAULT_LIMIT: Duration = Duration::from_secs(2);

pub(crate) const BEYOND_RECEIVER: Duration = Duration::from_secs(1);

/// An answer that says that the limit was reached needs time as well.
const BEYOND_LIMIT: Duration = Duration::from_secs(2);

/// When the rows that are not needed any more are deleted: with the first completion, since a process may not live long, and
/// then with the next one a minute after the last time.
#[derive(Debug, Default)]
pub(crate) struct Housekeeping(Mutex<Option<Instant>>);

const EVERY: Duration = Duration::from_secs(60);

/// How many rows one statement deletes, at most.
pub(crate) const PURGE_BATCH: u64 = 1000;

/// Deletes a batch after the other, and returns how many rows.
pub(crate) async fn in_batches<R, F>(delete: impl Fn() -> F) -> Result<u64, StoreError>
where
    F: Future<Output = Result<Vec<R>, StoreError>>,
{
    let mut all = 0;
    loop {
        let deleted = delete().await?.len() as u64;
        all += deleted;
        if deleted < PURGE_BATCH {
            return Ok(all);
        }
    }
}

impl Housekeeping {
    /// Purges in the background, if the last purge was a minute ago.
    pub(crate) fn purge_if_due<F>(&self, purge: impl FnOnce() -> F)
    where
        F: Future<Output = Result<u64, StoreError>> + Send + 'static,
    {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        *last = Some(Instant::now());
        let purge = purge();
        drop(tokio::spawn(async move {
            if let Err(error) = purge.await {
                let error = Chain(&error);
                let message = "events that are over could not be deleted; the table grows until they are";
                tracing::warn!(target: TARGET, %error, "{message}");
            }
        }));
    }
}

/// For how long the number of a failed attempt is remembered: a day, which is longer than the sender's schedule.
pub(crate) const FAILED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The state of a claim in a row that still has its token.
pub(crate) fn claim_state(column: &str) -> Option<ClaimState> {
    match column {
        "live" => Some(ClaimState::Live),
        "completed" => Some(ClaimState::Completed),
        _ => None,
    }
}

/// A duration in units, of which a second has `per_second`; a century at most.
pub(crate) fn units(duration: Duration, per_second: u32) -> i64 {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let duration = duration.min(CENTURY);
    let unit = Duration::from_secs(1) / per_second;
    i64::try_from(duration.as_nanos().div_ceil(unit.as_nanos().max(1))).unwrap_or(i64::MAX)
}
