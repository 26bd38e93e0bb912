//! What the SQL stores share: connections that are trusted only as long as they answer, and the pace of cleaning up.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::StoreError;
use crate::telemetry::{Chain, TARGET};

/// A few connections to one database, opened when they are needed.
///
/// sqlx's own pool asks every connection for a sign of life each time it comes back, which is a round trip, and goes on
/// using one whose answer was not waited for. Here a connection comes back only after it has answered, and one that has
/// not takes the idle ones with it: whatever happened to it may have happened to them.
pub(crate) struct Connections<C: Connection> {
    options: C::Options,
    idle: Mutex<Vec<C>>,
    permits: Semaphore,
}

/// A connection that is closed when it is dropped, unless it is given back.
pub(crate) struct Lent<'a, C: Connection> {
    home: &'a Connections<C>,
    /// `None` once it has been given back.
    connection: Option<C>,
    #[cfg(feature = "postgres")]
    fresh: bool,
    _permit: SemaphorePermit<'a>,
}

impl<C: Connection> Connections<C> {
    pub(crate) fn new(options: C::Options, max: usize) -> Self {
        Self { options, idle: Mutex::default(), permits: Semaphore::new(max) }
    }

    /// Lends a connection that is idle, or else a new one, when it is this caller's turn.
    pub(crate) async fn lend(&self) -> Result<Lent<'_, C>, sqlx::Error> {
        let permit = self.permits.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
        let idle = self.idle().pop();
        Ok(Lent {
            home: self,
            #[cfg(feature = "postgres")]
            fresh: idle.is_none(),
            connection: Some(match idle {
                Some(connection) => connection,
                None => self.options.connect().await?,
            }),
            _permit: permit,
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<C>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Connection> Lent<'_, C> {
    pub(crate) fn connection(&mut self) -> Result<&mut C, sqlx::Error> {
        self.connection.as_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// Whether it was opened just now, so that an error is the database's and not that of a connection long dead.
    #[cfg(feature = "postgres")]
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The database has answered everything that it was asked.
    pub(crate) fn give_back(mut self) {
        self.home.idle().extend(self.connection.take());
    }
}

impl<C: Connection> Drop for Lent<'_, C> {
    fn drop(&mut self) {
        if self.connection.is_some() {
            self.home.idle().clear();
        }
    }
}

/// Leaves out how to reach the database, which may include a password.
impl<C: Connection> fmt::Debug for Connections<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("idle", &self.idle().len()).finish_non_exhaustive()
    }
}

/// When the rows that nobody needs any more are deleted: by whoever completes an event a minute after the last time.
#[derive(Debug)]
pub(crate) struct Housekeeping(Mutex<Instant>);

const EVERY: Duration = Duration::from_secs(60);

/// So many rows are deleted in one statement.
pub(crate) const PURGE_BATCH: u64 = 1000;

impl Housekeeping {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// Purges in the background if it is time, which it then is not for anybody else.
    pub(crate) fn purge_if_due<F>(&self, purge: impl FnOnce() -> F)
    where
        F: Future<Output = Result<u64, StoreError>> + Send + 'static,
    {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < EVERY {
            return;
        }
        *last = Instant::now();
        let purge = purge();
        drop(tokio::spawn(async move {
            if let Err(error) = purge.await {
                let error = Chain(&error);
                let message = "events that are over could not be deleted; the table grows until they are";
                tracing::warn!(target: TARGET, %error, message);
            }
        }));
    }
}

/// For how long the number of a failed attempt is remembered: a day, which is longer than the sender's schedule.
pub(crate) const FAILED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// A duration in a unit of so many to the second, as databases count it; a century at most.
pub(crate) fn units(duration: Duration, per_second: u32) -> i64 {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let duration = duration.min(CENTURY);
    let unit = Duration::from_secs(1) / per_second;
    i64::try_from(duration.as_nanos().div_ceil(unit.as_nanos().max(1))).unwrap_or(i64::MAX)
}
