//! The claim that a delivery holds while its handler runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::Receiver;
use super::running::RunningGuard;
use super::time_limit::within;
use crate::store::{Claim, ClaimHandle, DedupStore, EventKey, StoreError, StoreFuture};
use crate::telemetry::{self, Chain, Clipped, FailedStore};

/// A claim that is released when it is dropped, unless it has been completed or released before.
///
/// It exists from before the store is asked: when the store grants a claim and its reply is lost, the claim is released
/// all the same.
#[derive(Debug)]
pub(super) struct HeldClaim<'a> {
    receiver: &'a Receiver,
    /// What the handler has of it.
    pub(super) handle: ClaimHandle,
    /// Nothing to release: never granted, or settled.
    settled: bool,
    /// Which attempt this is, counted from 1.
    pub(super) attempt: u32,
    /// When the lease is over, if the store's clock runs as ours.
    pub(super) lease_end: Instant,
    running: &'a RunningGuard,
}

/// How an event has ended that is not to be delivered again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    Handled,
    /// It is kept as a dead letter.
    GivenUp,
}

/// Why there is no claim.
#[derive(Debug)]
pub(super) enum NotClaimed {
    InFlight { remaining: Duration },
    Completed,
    GivenUp,
    StoreFailed(StoreError),
}

impl<'a> HeldClaim<'a> {
    /// Claims the event; one that was given up too, if it is `reopened`.
    pub(super) async fn take(
        receiver: &'a Receiver,
        handle: ClaimHandle,
        reopened: bool,
        running: &'a RunningGuard,
    ) -> Result<Self, NotClaimed> {
        if reopened {
            step(receiver, receiver.store().reopen(handle.key())).await.map_err(NotClaimed::StoreFailed)?;
        }
        let lease = receiver.settings().lease;
        let lease_end = Instant::now() + lease;
        let mut claim = Self { receiver, handle, settled: false, attempt: 0, lease_end, running };
        let answer = claim.step(claim.store().claim(claim.key(), claim.handle.token(), lease)).await;
        match answer {
            Ok(Claim::Granted { attempt }) => {
                claim.attempt = attempt;
                Ok(claim)
            }
            Ok(Claim::InFlight { remaining }) => {
                claim.settled = true;
                Err(NotClaimed::InFlight { remaining })
            }
            Ok(Claim::Completed) => {
                claim.settled = true;
                Err(NotClaimed::Completed)
            }
            Ok(Claim::GivenUp) => {
                claim.settled = true;
                Err(NotClaimed::GivenUp)
            }
            Err(error) => Err(NotClaimed::StoreFailed(error)),
        }
    }

    pub(super) fn key(&self) -> &EventKey {
        self.handle.key()
    }

    fn store(&self) -> &Arc<dyn DedupStore> {
        self.receiver.store()
    }

    fn step<T>(&self, future: StoreFuture<'_, T>) -> impl Future<Output = Result<T, StoreError>> {
        step(self.receiver, future)
    }

    /// Records how the event has ended. `false`: the claim was taken over in the meantime.
    pub(super) async fn end(&mut self, ending: Ending) -> Result<bool, StoreError> {
        // Nothing is left to be delivered, so whatever happens to the record, the claim must not be given back.
        self.settled = true;
        ending.record(self.receiver, &self.handle).await
    }

    /// The handler has recorded it.
    pub(super) fn is_completed(&self) -> bool {
        self.handle.is_completed()
    }

    /// Lets go of a claim that the handler has completed.
    pub(super) fn disarm(&mut self) {
        self.settled = true;
    }

    /// Gives the event back. `false`: the claim was taken over in the meantime, or its handler has completed it.
    pub(super) async fn release(&mut self) -> Result<bool, StoreError> {
        let released = self.step(self.store().release(self.key(), self.handle.token())).await;
        // If the store fails, dropping the claim goes on trying.
        self.settled = released.is_ok();
        released
    }
}

impl Ending {
    /// `false`: the claim was taken over in the meantime.
    pub(super) async fn record(self, receiver: &Receiver, handle: &ClaimHandle) -> Result<bool, StoreError> {
        let (store, key, token, retention) = (receiver.store(), handle.key(), handle.token(), handle.retention());
        let recorded = match self {
            Self::Handled => store.complete(key, token, retention),
            Self::GivenUp => store.give_up(key, token, retention),
        };
        step(receiver, recorded).await
    }
}

impl Drop for HeldClaim<'_> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let (store, handle) = (Arc::clone(self.store()), self.handle.clone());
        let mut release = Box::pin(async move { store.release(handle.key(), handle.token()).await });
        // A store in memory answers at once, even where the runtime is ending and begins no task any more.
        let asked = catch_unwind(AssertUnwindSafe(|| release.as_mut().poll(&mut Context::from_waker(Waker::noop()))));
        let first = match asked {
            Ok(Poll::Ready(Ok(_))) => return,
            Ok(Poll::Pending) => Some(release),
            Ok(Poll::Ready(Err(_))) | Err(_) => None,
        };
        let Ok(runtime) = Handle::try_current() else {
            return log_unreleased(self.key(), &StoreError::new("there is no tokio runtime to wait for the store"));
        };
        let releases = self.running.releases();
        let Ok(place) = Arc::clone(&releases.waiting).try_acquire_owned() else {
            return log_unreleased(self.key(), &StoreError::new("too many claims wait to be released"));
        };
        let (receiver, handle, running) = (self.receiver.clone(), self.handle.clone(), self.running.clone());
        let give_up = self.lease_end + RELEASE_BEYOND_LEASE;
        drop(runtime.spawn(async move {
            let mut released = match first {
                Some(release) => step(&receiver, release).await,
                None => step(&receiver, receiver.store().release(handle.key(), handle.token())).await,
            };
            // A shutdown waits for the first try alone.
            drop(running);
            // A store that comes back may find the claim, sent before it went away, only after this release. So one that
            // finds nothing to release is sent again, and only then believed.
            let (mut found_nothing, mut pause) = (false, RELEASE_AGAIN_AFTER);
            loop {
                match released {
                    Ok(true) => break,
                    Ok(false) if found_nothing => break,
                    Ok(false) => found_nothing = true,
                    Err(error) if Instant::now() >= give_up => {
                        log_unreleased(handle.key(), &error);
                        break;
                    }
                    Err(_) => found_nothing = false,
                }
                sleep(pause).await;
                pause = (pause * 2).min(RELEASE_AGAIN_AT_MOST);
                let _turn = releases.at_once.acquire().await;
                released = step(&receiver, receiver.store().release(handle.key(), handle.token())).await;
            }
            drop(place);
        }));
    }
}

/// The claims that wait for a store to take them back.
#[derive(Debug)]
pub(super) struct Releases {
    waiting: Arc<Semaphore>,
    at_once: Semaphore,
}

/// At some kilobytes each. Beyond them the end of the lease has to do.
const MAX_RELEASES: usize = 10_000;

/// Few, so that a store that comes back has room for new deliveries.
const RELEASES_AT_ONCE: usize = 4;

/// How long a store that has failed to release a claim is left alone: at first, so that an event is free again soon after
/// the store is back, and at most.
const RELEASE_AGAIN_AFTER: Duration = Duration::from_secs(1);
const RELEASE_AGAIN_AT_MOST: Duration = Duration::from_secs(3);

/// For how long after the end of its lease a claim is still released. The event is free by then; what a late release keeps is
/// the number of its attempt, and the order of the log.
const RELEASE_BEYOND_LEASE: Duration = Duration::from_secs(60);

impl Default for Releases {
    fn default() -> Self {
        let waiting = Arc::new(Semaphore::new(MAX_RELEASES));
        Self { waiting, at_once: Semaphore::new(RELEASES_AT_ONCE) }
    }
}

fn log_unreleased(key: &EventKey, error: &StoreError) {
    let (error, event_id) = (Chain(error), Clipped(key.event_id()));
    let message = "a claim could not be released; the end of its lease frees it";
    tracing::warn!(target: telemetry::TARGET, ?event_id, %error, message);
}

/// Waits for one step of the store, as long as the receiver's settings allow.
pub(super) async fn step<T>(receiver: &Receiver, mut step: StoreFuture<'_, T>) -> Result<T, StoreError> {
    let limit = receiver.settings().store_timeout;
    let late = || Err(StoreError::new(format!("no answer within {limit:?}")));
    let done = within(limit, step.as_mut()).await.unwrap_or_else(late);
    if done.is_err() {
        receiver.telemetry().store_failed(FailedStore::Dedup);
    }
    done
}
