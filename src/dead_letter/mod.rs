//! Dead letters: events that were received and not yet handled, and must not be lost.
//!
//! Sendarix gives up on an event after six attempts, and never retries one that was acknowledged. So an event that
//! failed is kept here until it succeeds, and one that retrying cannot help is kept here *before* it is acknowledged:
//!
//! | outcome | reason | state |
//! |---|---|---|
//! | `failed`, `not_taken`, `slow` that fails later | [`Failed`](DeadLetterReason::Failed) | retrying: resolved when a later delivery succeeds |
//! | `failed_permanently` | [`FailedPermanently`](DeadLetterReason::FailedPermanently) | dead |
//! | `malformed` | [`Malformed`](DeadLetterReason::Malformed) | dead |
//! | `unknown_type` | [`UnknownType`](DeadLetterReason::UnknownType) | dead |
//! | `expired` | [`Expired`](DeadLetterReason::Expired) | dead |
//!
//! [`FileDeadLetters`] keeps them in a file of JSON lines, for one process. A `SqliteStore`, a `RedisStore` and a
//! `PostgresStore` keep them beside the events. An inbox without dead letters does not build, unless
//! [`dangerously_without_dead_letters`](crate::ReceiverBuilder::dangerously_without_dead_letters) is called: then a log line
//! without the body is all that is left of such an event.
//!
//! [`Inbox::redrive`](crate::Inbox::redrive) delivers a letter again, and [`redrive_all`](crate::Inbox::redrive_all) all of
//! them, or those that a [`LetterFilter`] takes. [`discard`](crate::Inbox::discard) deletes a letter for a reason, and
//! [`purge_letters`](crate::Inbox::purge_letters) old ones.
//!
//! Where events and letters share a database, completing an event deletes its letter in the same step, and no letter of an
//! event that has been handled is left. Where they do not, a crash just then or a failing store may leave one behind. The
//! dedup store tells, for as long as it remembers the event (the retention): the next copy of the event resolves such a
//! letter, and so does redriving it, without the handler. Redriving a letter that is older than the retention must be asked
//! for [by name](crate::Inbox::redrive_beyond_retention).

mod file_dead_letters;
mod filter;
mod journal;
mod record;
mod recovered;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::{self, Debug};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::event::{EventKey, Place, SendarixEvent, Timestamp};
pub use crate::storage::{StoreError, StoreFuture};
use crate::verify::Signature;

pub use self::file_dead_letters::FileDeadLetters;
pub use self::filter::LetterFilter;
#[cfg(any(feature = "operator", feature = "redis"))]
pub(crate) use self::record::StoredLetter;

/// Keeps dead letters. What it has reported as kept must survive a power failure.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not keep dead letters",
    note = "`FileDeadLetters` does, and so do `SqliteStore`, `RedisStore` and `PostgresStore` by themselves; an `Arc` of one is one"
)]
pub trait DeadLetters: Debug + Send + Sync + 'static {
    /// Keeps a letter, in the place of an earlier one with the same key.
    ///
    /// What the earlier one knew stays, as [`DeadLetter::superseding`] says. So recording the same letter again changes
    /// nothing.
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, ()>;

    /// Forgets the letter with this key: its event has been handled.
    fn resolve<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()>;

    /// The letter with this key, if there is one.
    fn get<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, Option<DeadLetter>>;

    /// The letters of an endpoint in the order of their event ids' bytes, from the first id behind `after` on: at most
    /// `limit` of them, and none only if there are no more. A page may be shorter than that all the same.
    ///
    /// A letter that cannot be read is one entry of its page, and hides no other.
    fn list<'a>(
        &'a self,
        endpoint: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<ListedLetter>>;

    /// Deletes a letter as it was read, and says whether it did. A letter that has been recorded again since, with another
    /// `last_at` or more `attempts`, stays.
    fn discard<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, bool>;

    /// Counts an endpoint's letters by reason, and leaves out a reason without letters. `None`, as provided: the store cannot
    /// count without reading each letter.
    fn count<'a>(&'a self, endpoint: &'a str) -> Option<StoreFuture<'a, HashMap<DeadLetterReason, u64>>> {
        let _ = endpoint;
        None
    }

    /// The receiver waits this long for each step of the dead letters: see
    /// [`DedupStore::set_time_limit`](crate::store::DedupStore::set_time_limit).
    fn set_time_limit(&self, limit: Duration) {
        let _ = limit;
    }
}

/// Dead letters that are shared, such as by several receivers.
impl<T: DeadLetters + ?Sized> DeadLetters for Arc<T> {
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, ()> {
        (**self).record(letter)
    }

    fn resolve<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        (**self).resolve(key)
    }

    fn get<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, Option<DeadLetter>> {
        (**self).get(key)
    }

    fn list<'a>(
        &'a self,
        endpoint: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<ListedLetter>> {
        (**self).list(endpoint, after, limit)
    }

    fn discard<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, bool> {
        (**self).discard(letter)
    }

    fn count<'a>(&'a self, endpoint: &'a str) -> Option<StoreFuture<'a, HashMap<DeadLetterReason, u64>>> {
        (**self).count(endpoint)
    }

    fn set_time_limit(&self, limit: Duration) {
        (**self).set_time_limit(limit);
    }
}

/// An entry of a page of letters.
pub type ListedLetter = Result<DeadLetter, UnreadableLetter>;

/// The key of an entry, whether its letter can be read or not.
pub(crate) fn key_of(listed: &ListedLetter) -> &EventKey {
    match listed {
        Ok(letter) => &letter.key,
        Err(unreadable) => &unreadable.key,
    }
}

/// A letter that is there and cannot be read: changed by hand, or written by a newer version of the crate.
#[derive(Debug, thiserror::Error)]
#[error("the dead letter of `{}` cannot be read", key.event_id())]
#[non_exhaustive]
pub struct UnreadableLetter {
    /// The endpoint and the event's id.
    pub key: EventKey,
    /// What is wrong with it.
    pub source: StoreError,
}

impl UnreadableLetter {
    /// The letter of this key cannot be read, because of this error.
    pub fn new(key: EventKey, source: StoreError) -> Self {
        Self { key, source }
    }
}

/// An event that has not been handled, with all that is needed to handle it later.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The endpoint and the event's id; for a body that has none, the id derived from the body.
    pub key: EventKey,
    /// The exact bytes that were signed.
    pub body: Bytes,
    /// The signature that was verified; `None` for an event that the application delivered.
    pub signature: Option<Signature>,
    /// The timestamp header in Unix seconds; `None` where there was none, or the receiver ignores it. It is not covered by the signature.
    pub timestamp_header: Option<u64>,
    /// Why the event was not handled.
    pub reason: DeadLetterReason,
    /// The error in full, for an operator. It may hold anything that the handler put there.
    pub error: String,
    /// Where in the body decoding stopped.
    pub place: Option<Place>,
    /// How many attempts at handling the event have been counted.
    pub attempts: u32,
    /// When the event failed for the first time, by the inbox's clock, to the microsecond.
    pub first_at: Timestamp,
    /// When it failed for the last time, by the inbox's clock, to the microsecond.
    pub last_at: Timestamp,
}

impl DeadLetter {
    /// A letter of one attempt, without a signature and an error's text. The fields can then be set.
    pub fn new(key: EventKey, body: impl Into<Bytes>, reason: DeadLetterReason, at: Timestamp) -> Self {
        // As exact as every store keeps it.
        let at = at.to_microsecond();
        Self {
            key,
            body: body.into(),
            signature: None,
            timestamp_header: None,
            reason,
            error: String::new(),
            place: None,
            attempts: 1,
            first_at: at,
            last_at: at,
        }
    }

    /// The type of the event, as Sendarix names it. `None` for a body that is no event.
    #[must_use]
    pub fn event_type(&self) -> Option<String> {
        SendarixEvent::decode(self.body.clone()).ok().map(|event| event.type_name().to_owned())
    }

    /// Whether Sendarix was asked to deliver the event again.
    #[must_use]
    pub fn is_retrying(&self) -> bool {
        self.reason.is_retrying()
    }

    /// This letter in the place of an earlier one with the same key.
    ///
    /// It keeps the earlier `first_at` and the higher number of `attempts`. A letter that is dead stays so: a delivery
    /// that then reports a retried failure had lost its claim before, and the event does not come again.
    #[must_use]
    pub fn superseding(self, earlier: &Self) -> Self {
        self.after(&earlier.history())
    }

    pub(crate) fn history(&self) -> History {
        History { attempts: self.attempts, first_at: self.first_at, reason: self.reason.clone() }
    }

    pub(crate) fn after(mut self, earlier: &History) -> Self {
        self.attempts = self.attempts.max(earlier.attempts);
        self.first_at = self.first_at.min(earlier.first_at);
        if self.reason.is_retrying() {
            self.reason = earlier.reason.clone();
        }
        self
    }
}

/// What a letter hands on to the one that takes its place.
#[derive(Clone, Debug)]
pub(crate) struct History {
    attempts: u32,
    first_at: Timestamp,
    reason: DeadLetterReason,
}

/// Leaves out the body.
impl Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("key", &self.key)
            .field("reason", &self.reason)
            .field("error", &self.error)
            .field("attempts", &self.attempts)
            .field("first_at", &self.first_at)
            .field("last_at", &self.last_at)
            .finish_non_exhaustive()
    }
}

/// Why an event became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum DeadLetterReason {
    /// The handler failed or took no notice of the event, and Sendarix was asked to deliver it again.
    Failed,
    /// The handler said that it can never succeed.
    FailedPermanently,
    /// The body is authentic and no event.
    Malformed,
    /// The event is of a type that this version of the crate does not know.
    UnknownType,
    /// The event is too old to be told from a replay.
    Expired,
    /// A reason of this name, which a newer version of the crate has written.
    Other(String),
}

impl DeadLetterReason {
    /// All that this version writes.
    pub const ALL: &[Self] =
        &[Self::Failed, Self::FailedPermanently, Self::Malformed, Self::UnknownType, Self::Expired];

    /// The stable name, as in the files and tables of dead letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Failed => "failed",
            Self::FailedPermanently => "failed_permanently",
            Self::Malformed => "malformed",
            Self::UnknownType => "unknown_type",
            Self::Expired => "expired",
            Self::Other(name) => name,
        }
    }

    fn is_retrying(&self) -> bool {
        *self == Self::Failed
    }
}

/// The reason of this name.
impl From<String> for DeadLetterReason {
    fn from(name: String) -> Self {
        Self::ALL.iter().find(|reason| reason.as_str() == name).cloned().unwrap_or(Self::Other(name))
    }
}

impl FromStr for DeadLetterReason {
    type Err = Infallible;

    fn from_str(name: &str) -> Result<Self, Infallible> {
        Ok(name.to_owned().into())
    }
}

impl fmt::Display for DeadLetterReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<DeadLetterReason> for String {
    fn from(reason: DeadLetterReason) -> Self {
        reason.as_str().to_owned()
    }
}
