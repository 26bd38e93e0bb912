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
//! [`FileDeadLetters`] keeps them in a file of JSON lines, for one process; [`SqliteDeadLetters`], [`RedisDeadLetters`] and
//! [`PostgresDeadLetters`] beside the events of the store of that name. A receiver without any dead letters logs these
//! events at error level and acknowledges them all the same: then a log line without the body is all that is left of them.
//!
//! [`Receiver::redrive`](crate::Receiver::redrive) delivers a letter again, and
//! [`redrive_all`](crate::Receiver::redrive_all) all of them.
//!
//! Where events and letters share a database, completing an event deletes its letter in the same step, and no letter of an
//! event that has been handled is left. Where they do not, a crash just then or a failing store may leave one behind. The
//! dedup store tells, for as long as it remembers the event (the retention): the next copy of the event resolves such a
//! letter, and so does redriving it, without the handler. Redriving a letter that is older than the retention must be asked
//! for [by name](crate::Receiver::redrive_beyond_retention).

mod file;
mod journal;
#[cfg(feature = "postgres")]
mod postgres;
mod record;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod sql;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::error::Error;
use std::fmt::{self, Debug};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use crate::event::{Place, Timestamp};
use crate::store::{DatabaseId, EventKey};
use crate::verify::Signature;

pub use self::file::FileDeadLetters;
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use self::postgres::PostgresDeadLetters;
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use self::redis::RedisDeadLetters;
#[cfg(feature = "postgres")]
pub(crate) use self::sql::Row;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use self::sqlite::SqliteDeadLetters;

/// Keeps dead letters. What it has reported as kept must survive a power failure.
pub trait DeadLetters: Debug + Send + Sync + 'static {
    /// Keeps a letter, in the place of an earlier one with the same key.
    ///
    /// What the earlier one knew stays, as [`DeadLetter::superseding`] says. So recording the same letter again changes
    /// nothing.
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> DeadLetterFuture<'a, ()>;

    /// Forgets the letter with this key: its event has been handled.
    fn resolve<'a>(&'a self, key: &'a EventKey) -> DeadLetterFuture<'a, ()>;

    /// The letter with this key, if there is one.
    fn get<'a>(&'a self, key: &'a EventKey) -> DeadLetterFuture<'a, Option<DeadLetter>>;

    /// The letters of an endpoint in the order of their event ids' bytes, from the first id behind `after` on: at most
    /// `limit` of them, and none only if there are no more. A page may be shorter than that all the same.
    ///
    /// A letter that cannot be read is one entry of its page, and hides no other.
    fn list<'a>(
        &'a self,
        endpoint: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> DeadLetterFuture<'a, Vec<ListedLetter>>;

    /// Where the letters are kept, if completing an event in the dedup store of the [same
    /// database](crate::store::DatabaseId) deletes its letter in the same step. Default: `None`.
    ///
    /// The receiver resolves the letter of every event that has succeeded, unless both are in one database.
    fn database(&self) -> Option<DatabaseId> {
        None
    }

    /// The receiver waits this long for each step of the dead letters: see
    /// [`DedupStore::set_time_limit`](crate::store::DedupStore::set_time_limit).
    fn set_time_limit(&self, limit: Duration) {
        let _ = limit;
    }

    /// Whether there may be a letter with this key, as far as this can be told without waiting. Default: yes.
    ///
    /// `false` saves a call of [`resolve`](Self::resolve).
    fn may_hold(&self, key: &EventKey) -> bool {
        let _ = key;
        true
    }
}

/// What [`DeadLetters`] return: boxed, so that stores can be exchanged behind `dyn`.
pub type DeadLetterFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, DeadLetterError>> + Send + 'a>>;

/// An entry of a page of letters.
pub type ListedLetter = Result<DeadLetter, UnreadableLetter>;

/// A letter that is there and cannot be read: changed by hand, or written by a newer version of the crate.
#[derive(Debug, thiserror::Error)]
#[error("the dead letter of `{}` cannot be read", key.event_id())]
#[non_exhaustive]
pub struct UnreadableLetter {
    /// The endpoint and the event's id.
    pub key: EventKey,
    /// What is wrong with it.
    pub source: DeadLetterError,
}

impl UnreadableLetter {
    /// The letter of this key cannot be read, because of this error.
    pub fn new(key: EventKey, source: DeadLetterError) -> Self {
        Self { key, source }
    }
}

/// An authentic request whose event has not been handled, with all that is needed to handle it later.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The endpoint and the event's id; for a body that has none, the id derived from the body.
    pub key: EventKey,
    /// The exact bytes that were signed.
    pub body: Bytes,
    /// The signature that was verified.
    pub signature: Signature,
    /// The timestamp header in Unix seconds; `None` where the receiver ignores it. It is not covered by the signature.
    pub timestamp_header: Option<u64>,
    /// Why the event was not handled.
    pub reason: DeadLetterReason,
    /// The error in full, for an operator. It may hold anything that the handler put there.
    pub error: String,
    /// Where in the body decoding stopped.
    pub place: Option<Place>,
    /// How many attempts at handling the event have been counted.
    pub attempts: u32,
    /// When the event failed for the first time, by the receiver's clock.
    pub first_at: Timestamp,
    /// When it failed for the last time, by the receiver's clock.
    pub last_at: Timestamp,
}

impl DeadLetter {
    /// A letter of one attempt, without an error's text. The fields can then be set.
    pub fn new(
        key: EventKey,
        body: impl Into<Bytes>,
        signature: Signature,
        reason: DeadLetterReason,
        at: Timestamp,
    ) -> Self {
        Self {
            key,
            body: body.into(),
            signature,
            timestamp_header: None,
            reason,
            error: String::new(),
            place: None,
            attempts: 1,
            first_at: at,
            last_at: at,
        }
    }

    /// Whether Sendarix was asked to deliver the event again.
    #[must_use]
    pub fn is_retrying(&self) -> bool {
        self.reason.is_retrying()
    }

    /// This letter in the place of an earlier one with the same key.
    ///
    /// It keeps the earlier `first_at` and the higher number of `attempts`. A letter that is dead stays so: whoever then
    /// reports a failure that is retried had lost the claim before, and nobody will deliver the event again.
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
    /// A reason of this label, which a newer version of the crate has written.
    Other(String),
}

impl DeadLetterReason {
    /// All that this version writes.
    pub const ALL: [Self; 5] =
        [Self::Failed, Self::FailedPermanently, Self::Malformed, Self::UnknownType, Self::Expired];

    /// The stable name, as in the files and tables of dead letters.
    #[must_use]
    pub fn label(&self) -> &str {
        match self {
            Self::Failed => "failed",
            Self::FailedPermanently => "failed_permanently",
            Self::Malformed => "malformed",
            Self::UnknownType => "unknown_type",
            Self::Expired => "expired",
            Self::Other(label) => label,
        }
    }

    fn is_retrying(&self) -> bool {
        *self == Self::Failed
    }
}

/// The reason of this label.
impl From<String> for DeadLetterReason {
    fn from(label: String) -> Self {
        Self::ALL.into_iter().find(|reason| reason.label() == label).unwrap_or(Self::Other(label))
    }
}

impl From<DeadLetterReason> for String {
    fn from(reason: DeadLetterReason) -> Self {
        reason.label().to_owned()
    }
}

/// Dead letters could not be read or kept. The cause is its [`source`](Error::source).
#[derive(Debug)]
pub struct DeadLetterError(Box<dyn Error + Send + Sync>);

impl DeadLetterError {
    /// Keeps the store's own error.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

impl fmt::Display for DeadLetterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the dead-letter store failed")
    }
}

impl Error for DeadLetterError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.0.as_ref())
    }
}
