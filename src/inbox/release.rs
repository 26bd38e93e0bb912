//! Claims that are released in the background, because their delivery was dropped or the store failed.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::claim::Claimed;
use crate::event::EventKey;
use crate::logging::{Chain, Clipped, TARGET};
use crate::storage::StoreFuture;
use crate::telemetry::FailedStore;

/// The claims that wait for a store to take them back.
#[derive(Debug)]
pub(super) struct Releases {
    waiting: Arc<Semaphore>,
    at_once: Semaphore,
}

/// At some kilobytes each. Beyond this the end of the lease frees the event.
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

/// Releases a claim that was dropped.
pub(super) fn release_in_background(claimed: Claimed<'_>) {
    let (inbox, handle) = (claimed.attempt.inbox.clone(), claimed.handle);
    let (store, asked) = (Arc::clone(&inbox.0.store), handle.clone());
    let mut release = StoreFuture::new(async move { store.release(asked.key(), asked.token()).await });
    // A store in memory answers at once, even where the runtime is ending and begins no task any more.
    let polled =
        catch_unwind(AssertUnwindSafe(|| Pin::new(&mut release).poll(&mut Context::from_waker(Waker::noop()))));
    let first = match polled {
        Ok(Poll::Ready(Ok(_))) => return,
        Ok(Poll::Pending) => Some(release),
        Ok(Poll::Ready(Err(_))) | Err(_) => None,
    };
    let Ok(runtime) = Handle::try_current() else {
        return log_unreleased(handle.key(), "there is no tokio runtime to wait for the store");
    };
    let (guard, drain) = (claimed.attempt.guard.clone(), Arc::clone(claimed.attempt.guard.drain()));
    let Ok(place) = Arc::clone(&drain.releases.waiting).try_acquire_owned() else {
        return log_unreleased(handle.key(), "too many claims wait to be released");
    };
    let give_up = claimed.lease_end + RELEASE_BEYOND_LEASE;
    drop(runtime.spawn(async move {
        let release = || inbox.step(FailedStore::Dedup, inbox.store().release(handle.key(), handle.token()));
        let mut released = match first {
            Some(first) => inbox.step(FailedStore::Dedup, first).await,
            None => release().await,
        };
        // A shutdown waits for the first try alone.
        drop(guard);
        // A store that comes back may find the claim, sent before it went away, only after this release. So one that
        // finds nothing to release is sent again, and only then believed.
        let (mut found_nothing, mut pause) = (false, RELEASE_AGAIN_AFTER);
        loop {
            match released {
                Ok(true) => break,
                Ok(false) if found_nothing => break,
                Ok(false) => found_nothing = true,
                Err(error) if Instant::now() >= give_up => {
                    log_unreleased(handle.key(), Chain(&error));
                    break;
                }
                Err(_) => found_nothing = false,
            }
            sleep(pause).await;
            pause = (pause * 2).min(RELEASE_AGAIN_AT_MOST);
            let _turn = drain.releases.at_once.acquire().await;
            released = release().await;
        }
        drop(place);
    }));
}

fn log_unreleased(key: &EventKey, error: impl Display) {
    let event_id = Clipped(key.event_id());
    let message = "a claim could not be released; the end of its lease frees it";
    tracing::warn!(target: TARGET, ?event_id, %error, "{message}");
}
