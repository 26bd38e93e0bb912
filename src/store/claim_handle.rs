//! A claim in the hands of a handler.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use super::{ClaimToken, EventKey, StoreError};

/// The claim under which a handler runs: with it, the handler records the completion in its own transaction.
///
/// The stores that can take part in a transaction have a method `commit`, which takes the transaction and this. For
/// another driver, [begin](Self::begin_commit); make the step that
/// [`DedupStore::complete`](super::DedupStore::complete) describes within your transaction, from a live claim alone, with
/// the key, token and retention given here, and delete the letter of the event if the store keeps letters; commit, or roll back if the claim is not this token's any more; and
/// [conclude](Committing::conclude) with the state that the store sees afterwards.
#[derive(Clone, Debug)]
pub struct ClaimHandle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    key: EventKey,
    token: ClaimToken,
    retention: Duration,
    completion: AtomicU8,
    taken: AtomicBool,
}

/// How far the handler has come with completing the claim by itself.
mod completion {
    pub(super) const NOT_BEGUN: u8 = 0;
    /// A `commit` is under way.
    pub(super) const BEGUN: u8 = 1;
    /// A `commit` has ended without its reply, or has failed.
    pub(super) const IN_DOUBT: u8 = 2;
    pub(super) const DONE: u8 = 3;
}

impl ClaimHandle {
    pub(crate) fn new(key: EventKey, retention: Duration) -> Self {
        let completion = AtomicU8::new(completion::NOT_BEGUN);
        let taken = AtomicBool::new(false);
        Self(Arc::new(Inner { key, token: ClaimToken::random(), retention, completion, taken }))
    }

    /// A handler has the event, so that its success counts.
    pub(crate) fn set_taken(&self) {
        self.0.taken.store(true, Ordering::Release);
    }

    #[cfg(any(feature = "tower", feature = "actix"))]
    pub(crate) fn is_taken(&self) -> bool {
        self.0.taken.load(Ordering::Acquire)
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

    /// Begins to commit the completion in a transaction of the handler's. Call it before the transaction is touched: a
    /// handler that reports success without a [conclusion](Committing::conclude) has then failed.
    ///
    /// # Errors
    ///
    /// [`CommitError::AlreadyCommitted`] if the claim has been completed, or another `commit` of it is under way. Roll the
    /// transaction back.
    pub fn begin_commit(&self) -> Result<Committing<'_>, CommitError> {
        let begin = |from| {
            let (to, order) = (completion::BEGUN, Ordering::AcqRel);
            self.0.completion.compare_exchange(from, to, order, Ordering::Acquire).is_ok()
        };
        if begin(completion::NOT_BEGUN) {
            Ok(Committing { claim: self, again: false })
        } else if begin(completion::IN_DOUBT) {
            Ok(Committing { claim: self, again: true })
        } else {
            Err(CommitError::AlreadyCommitted)
        }
    }

    pub(crate) fn is_completed(&self) -> bool {
        self.0.completion.load(Ordering::Acquire) == completion::DONE
    }

    /// A `commit` has begun and is not known to have succeeded: a handler that reports success all the same has not noticed
    /// that its transaction failed.
    pub(crate) fn is_in_doubt(&self) -> bool {
        matches!(self.0.completion.load(Ordering::Acquire), completion::BEGUN | completion::IN_DOUBT)
    }
}

/// One call of a store's `commit`. Dropped without its [conclusion](Self::conclude), it leaves the claim in doubt.
#[derive(Debug)]
#[must_use = "without a conclusion, the claim stays in doubt and the event is delivered again"]
pub struct Committing<'a> {
    claim: &'a ClaimHandle,
    /// The reply to a `commit` before this one was lost, which may have been that it had succeeded.
    again: bool,
}

/// The state in which a store sees a claim after a `commit`, if the claim is still the handler's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// The completion is not there.
    Live,
    /// The completion is there.
    Completed,
}

impl Committing<'_> {
    /// Says what has come of it: whether this transaction recorded the completion and was committed, and which state the
    /// store sees the claim in afterwards, over another connection. `None`: the claim is not this token's any more.
    ///
    /// # Errors
    ///
    /// [`CommitError::AlreadyCommitted`], [`CommitError::Elsewhere`] or [`CommitError::TakenOver`], by the state.
    pub fn conclude(self, recorded: bool, state: Option<ClaimState>) -> Result<(), CommitError> {
        match state {
            Some(ClaimState::Completed) => {
                self.claim.0.completion.store(completion::DONE, Ordering::Release);
                if recorded || self.again { Ok(()) } else { Err(CommitError::AlreadyCommitted) }
            }
            Some(ClaimState::Live) => Err(CommitError::Elsewhere),
            None => Err(CommitError::TakenOver),
        }
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        let (from, to) = (completion::BEGUN, completion::IN_DOUBT);
        let _ = self.claim.0.completion.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// Why a handler's transaction was not committed together with the completion of its claim.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The claim has been completed already: by another `commit`, which may be still under way, or because the handler has
    /// returned. Everything was rolled back.
    #[error(
        "the claim has been completed already, so this transaction was rolled back; commit once, before the handler returns"
    )]
    AlreadyCommitted,
    /// The store does not have this claim: another delivery has taken it over or has handled the event, or the receiver was
    /// built with another store than the one that commits. Everything was rolled back.
    #[error(
        "the store does not have this claim, so the transaction was rolled back: another delivery took it over, or the \
         receiver was built with another store"
    )]
    TakenOver,
    /// The store sees no completion: the transaction is nested in another one, which is still open, or on another
    /// database.
    #[error("the store does not see the transaction: it is nested in another one, or of another database")]
    Elsewhere,
    /// The database failed. Unless it did so during the commit or just after it, everything was rolled back. If so, it is
    /// not known, and the next delivery of the event finds out. So does a second `commit` of the same claim: it is rolled back
    /// and `Ok` if the first had succeeded.
    #[error("the handler's transaction could not be committed")]
    Failed(#[source] StoreError),
}
