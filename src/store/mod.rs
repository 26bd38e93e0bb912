//! The memory of which events have been claimed and which have been handled.
//!
//! | store | feature | for | survives a restart |
//! |---|---|---|---|
//! | [`MemoryStore`], on moka | `memory`, a default | one process | no |
//! | `SqliteStore` | `sqlite` | all processes of one machine | yes |
//! | `RedisStore` | `redis` | several instances | as the server is set up |
//! | `PostgresStore` | `postgres` | several instances | yes |
//!
//! `SqliteStore::commit` and `PostgresStore::commit` record the completion in the handler's transaction. For
//! another database implement [`DedupStore`]; this page is the guide to it, and `testing::conformance::dedup_store`
//! (feature `testing`) is the suite that every store must pass.
//!
//! # The protocol
//!
//! ```text
//! absent ─claim▶ live{token, attempt, lease} ─complete(token)▶ completed ─(retention)▶ absent
//!                  ▲       │       │give_up(token)
//!                  │       │       └──▶ given up ─(retention)▶ absent
//!                  │       │release(token)  │reopen
//!                  └─claim─┴▶ failed{attempt} ◀┘           live with its lease over: the next claim takes it over
//! ```
//!
//! An event is claimed before its handler runs, completed after it succeeded and released after it failed. Only the
//! owner of the live claim runs the handler, and it cannot hold the claim for ever: once the lease is over, the
//! next claim takes it over, and the token tells the late owner from the new one.
//!
//! An event that can never be handled is given up, once it is kept as a dead letter. It cannot be claimed, like a completed
//! one. But when its letter is redriven it is reopened first, which a completed one cannot be: so the store, and not a
//! letter that may be out of date, knows whether an event has been handled.
//!
//! # Writing a store
//!
//! 1. **Each method is one atomic step** in the store itself: a transaction, a script, a lock. Never read and then
//!    write.
//! 2. **The store's clock decides** whether a lease or the retention is over, never the caller's: instances disagree
//!    about the time.
//! 3. **Every method may be sent again with the same token**, because a reply can be lost after the step was made. A
//!    repeated `claim` of a live claim is granted again, with the same attempt and a new lease. A repeated `complete`,
//!    `release` or `give_up` answers `true` again.
//! 4. **A live claim is never forgotten** before its lease is over: not by a cache's eviction, not by a purge. But no lease is
//!    longer than [`MAX_LEASE`](crate::MAX_LEASE), so a live claim whose end lies farther away is over: the clock has
//!    stepped back, and must not keep an event away.
//! 5. **A completed or given up event is remembered for at least the retention**, a failed attempt's number for at least
//!    [`RETRY_SCHEDULE`](crate::RETRY_SCHEDULE).
//! 6. **A step that must wait is boxed** by [`StoreFuture::new`], as the claim below is. One that is done at once is
//!    [`ready`](StoreFuture::ready).
//! 7. **An error means that nothing is known** of what happened. Return it; the receiver answers 503, sends a release,
//!    and Sendarix delivers again. Time limits are the receiver's.
//!
//! ```
//! use std::{collections::HashMap, sync::Mutex, time::{Duration, Instant}};
//! use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, StoreFuture};
//!
//! /// The protocol on a map that forgets nothing: for illustration.
//! #[derive(Debug, Default)]
//! struct Ledger(Mutex<HashMap<EventKey, Entry>>);
//!
//! #[derive(Debug)]
//! struct Entry { token: ClaimToken, attempt: u32, state: State }
//!
//! #[derive(Clone, Copy, Debug, PartialEq)]
//! enum State { Live { until: Instant }, Failed, GivenUp { until: Instant }, Completed { until: Instant } }
//!
//! impl DedupStore for Ledger {
//!     fn claim<'a>(&'a self, key: &'a EventKey, token: ClaimToken, lease: Duration) -> StoreFuture<'a, Claim> {
//!         StoreFuture::new(async move {
//!             let now = Instant::now();
//!             let live = State::Live { until: now + lease };
//!             let mut entries = self.0.lock().unwrap();
//!             let Some(entry) = entries.get_mut(key) else {
//!                 entries.insert(key.clone(), Entry { token, attempt: 1, state: live });
//!                 return Ok(Claim::Granted { attempt: 1 });
//!             };
//!             match entry.state {
//!                 State::Completed { until } if until > now => return Ok(Claim::Completed),
//!                 State::GivenUp { until } if until > now => return Ok(Claim::GivenUp),
//!                 State::Completed { .. } | State::GivenUp { .. } => *entry = Entry { token, attempt: 1, state: live },
//!                 State::Live { .. } if entry.token == token => entry.state = live,
//!                 // `Instant` never steps back; with a clock that does, ask also whether it is at most `MAX_LEASE` away.
//!                 State::Live { until } if until > now => return Ok(Claim::InFlight { remaining: until - now }),
//!                 State::Live { .. } | State::Failed => {
//!                     *entry = Entry { token, attempt: entry.attempt + 1, state: live };
//!                 }
//!             }
//!             Ok(Claim::Granted { attempt: entry.attempt })
//!         })
//!     }
//!
//!     fn complete<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
//!         StoreFuture::ready(Ok(self.end(key, token, State::Completed { until: Instant::now() + retention })))
//!     }
//!
//!     fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool> {
//!         StoreFuture::ready(Ok(self.end(key, token, State::Failed)))
//!     }
//!
//!     fn give_up<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
//!         StoreFuture::ready(Ok(self.end(key, token, State::GivenUp { until: Instant::now() + retention })))
//!     }
//!
//!     fn reopen<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
//!         if let Some(entry) = self.0.lock().unwrap().get_mut(key) {
//!             if let State::GivenUp { .. } = entry.state { entry.state = State::Failed; }
//!         }
//!         StoreFuture::ready(Ok(()))
//!     }
//!
//!     fn is_completed<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, bool> {
//!         let entries = self.0.lock().unwrap();
//!         let state = entries.get(key).map(|entry| entry.state);
//!         StoreFuture::ready(Ok(matches!(state, Some(State::Completed { until }) if until > Instant::now())))
//!     }
//! }
//!
//! impl Ledger {
//!     /// From live, or from the same state again.
//!     fn end(&self, key: &EventKey, token: ClaimToken, state: State) -> bool {
//!         match self.0.lock().unwrap().get_mut(key).filter(|entry| entry.token == token) {
//!             Some(entry) if matches!(entry.state, State::Live { .. }) => entry.state = state,
//!             Some(entry) => return std::mem::discriminant(&entry.state) == std::mem::discriminant(&state),
//!             None => return false,
//!         }
//!         true
//!     }
//! }
//! # #[cfg(feature = "testing")]
//! # tokio::runtime::Runtime::new().unwrap().block_on(
//! #     sendarix_webhooks::testing::conformance::dedup_store(std::sync::Arc::new(Ledger::default())));
//! ```

mod claim_handle;
#[cfg(feature = "memory")]
pub(crate) mod memory;

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use crate::dead_letter::DeadLetters;

pub use self::claim_handle::{ClaimHandle, ClaimState, CommitError, Committing};
#[cfg(feature = "memory")]
#[cfg_attr(docsrs, doc(cfg(feature = "memory")))]
pub use self::memory::{MemoryStore, MemoryStoreBuilder};
pub use crate::event::EventKey;
pub use crate::storage::{StoreConfigError, StoreError, StoreFuture};

/// Remembers which events are being handled and which have been. The [module](self) is the guide to writing one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a dedup store",
    note = "the stores are `MemoryStore`, `SqliteStore`, `RedisStore`, `PostgresStore`, and an `Arc` of one"
)]
pub trait DedupStore: Debug + Send + Sync + 'static {
    /// Claims the event for this token until the lease is over, unless it has been completed or another token's claim
    /// is live.
    fn claim<'a>(&'a self, key: &'a EventKey, token: ClaimToken, lease: Duration) -> StoreFuture<'a, Claim>;

    /// Records that the event has been handled, and remembers it for the retention.
    ///
    /// `false` means that the claim was taken over or released in the meantime, and that nothing was changed.
    fn complete<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool>;

    /// Gives the event back for the next delivery, and keeps the number of its attempt.
    ///
    /// `false` means that this token held no claim, or not any more, and that nothing was changed.
    fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool>;

    /// Records that the event is not to be delivered again although it has not been handled, and remembers that for the
    /// retention. It cannot be claimed until it is reopened.
    ///
    /// `false` means that this token held no claim, or not any more, and that nothing was changed.
    fn give_up<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool>;

    /// Lets an event that was given up be claimed again, as if it had failed. Any other stays as it is.
    fn reopen<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()>;

    /// Whether the event has been handled, as far as this is remembered.
    fn is_completed<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, bool>;

    /// The dead letters that this store keeps beside the events, if it does. Default: `None`.
    ///
    /// An inbox uses them unless it is given others. Then [`complete`](Self::complete) must delete the letter of its event in
    /// the same step, since the inbox does not resolve it again, and the letters must keep none of an event that is completed.
    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        None
    }

    /// The receiver waits this long for each step of the store. Default: nothing happens.
    ///
    /// It is called when the receiver is built. A store whose server goes on with abandoned requests may give up soon
    /// after the longest of these times, and must not give up before.
    fn set_time_limit(&self, limit: Duration) {
        let _ = limit;
    }
}

/// A store that is shared, such as by several receivers.
impl<T: DedupStore + ?Sized> DedupStore for Arc<T> {
    fn claim<'a>(&'a self, key: &'a EventKey, token: ClaimToken, lease: Duration) -> StoreFuture<'a, Claim> {
        (**self).claim(key, token, lease)
    }

    fn complete<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        (**self).complete(key, token, retention)
    }

    fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool> {
        (**self).release(key, token)
    }

    fn give_up<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        (**self).give_up(key, token, retention)
    }

    fn reopen<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        (**self).reopen(key)
    }

    fn is_completed<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, bool> {
        (**self).is_completed(key)
    }

    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        (**self).dead_letters()
    }

    fn set_time_limit(&self, limit: Duration) {
        (**self).set_time_limit(limit);
    }
}

/// The answer to [`DedupStore::claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Claim {
    /// The event is yours to handle.
    Granted {
        /// Which attempt at the event this is, counted from 1: one more than the last that failed or was taken over.
        attempt: u32,
    },
    /// Another delivery of the same event is being handled.
    InFlight {
        /// How long its lease has to run.
        remaining: Duration,
    },
    /// The event has been handled.
    Completed,
    /// The event has not been handled, and is not to be delivered again. Its dead letter may be redriven.
    GivenUp,
}

/// Tells one claim from every other, of this process or another: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClaimToken(u128);

impl ClaimToken {
    /// A new token.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The token as bytes, for a store's own format.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    pub(crate) fn to_hex(self) -> String {
        format!("{:032x}", self.0)
    }
}

impl Debug for ClaimToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClaimToken({})", self.to_hex())
    }
}
