//! A claim in the hands of a handler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::{ClaimToken, EventKey, StoreError};

/// The claim under which a handler runs: with it, the handler records the completion in a transaction of its own.
///
/// The stores that can take part in a transaction have a method `commit`, which takes the transaction and this. For
/// another driver, make the step that [`DedupStore::complete`](super::DedupStore::complete) describes within your
/// transaction, with the key, token and retention given here; roll back if the claim is not this token's any more; and
/// say [`set_completed`](Self::set_completed) once the transaction is committed.
#[derive(Clone, Debug)]
pub struct ClaimHandle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    key: EventKey,
    token: ClaimToken,
    retention: Duration,
    completion: AtomicU8,
}

/// How far the handler has come with completing the claim by itself.
mod completion {
    pub(super) const NOT_BEGUN: u8 = 0;
    pub(super) const BEGUN: u8 = 1;
    pub(super) const DONE: u8 = 2;
}

impl ClaimHandle {
    pub(crate) fn new(key: EventKey, retention: Duration) -> Self {
        let completion = AtomicU8::new(completion::NOT_BEGUN);
        Self(Arc::new(Inner { key, token: ClaimToken::random(), retention, completion }))
    }

    /// The event that is claimed.
    #[must_use]
    pub fn key(&self) -> &EventKey {
        &self.0.key
    }

    /// What tells this claim from every other.
    #[must_use]
    pub fn token(&self) -> ClaimToken {
        self.0.token
    }

    /// How long the completion is to be remembered.
    #[must_use]
    pub fn retention(&self) -> Duration {
        self.0.retention
    }

    /// The store has the completion for good, so the receiver need not record it.
    pub fn set_completed(&self) {
        self.0.completion.store(completion::DONE, Ordering::Release);
    }

    /// Until it is completed, a handler that reports success has not noticed that its transaction failed.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn begin_completing(&self) {
        let (from, to) = (completion::NOT_BEGUN, completion::BEGUN);
        // Once it is done, it stays so.
        let _ = self.0.completion.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    pub(crate) fn is_completed(&self) -> bool {
        self.0.completion.load(Ordering::Acquire) == completion::DONE
    }

    pub(crate) fn is_in_doubt(&self) -> bool {
        self.0.completion.load(Ordering::Acquire) == completion::BEGUN
    }
}

/// Why a handler's transaction was not committed together with the completion of its claim.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Another delivery owns the event, or has handled it. Everything was rolled back.
    #[error("the claim was taken over while the handler ran, so its transaction was rolled back")]
    TakenOver,
    /// The store sees no completion: the transaction is nested in another one, which is still open, or on another
    /// database.
    #[error("the store does not see the transaction: it is nested in another one, or of another database")]
    Elsewhere,
    /// The database failed. Unless it did so during the commit or just after it, everything was rolled back. If so, nobody
    /// knows, and the next delivery of the event finds out; so does another `commit`, which never does it a second time.
    #[error("the handler's transaction could not be committed")]
    Failed(#[source] StoreError),
}
