//! How a receiver is configured: every setting with its default and the reason for it.

use std::sync::Arc;
use std::time::Duration;

use super::body::Discards;
use super::settings::{ConfigError, Settings, UnknownTypes};
use super::{Inner, Receiver};
use crate::dead_letter::DeadLetters;
use crate::event::EventType;
use crate::outcome::Outcome;
use crate::store::DedupStore;
use crate::telemetry::Telemetry;
use crate::verify::{Clock, SigningSecrets, SystemClock};

/// Builds a [`Receiver`]. Every setting has a default that suits production; the stores are the exception, which are
/// those of one process until you choose others.
///
/// ```
/// # #[cfg(feature = "memory")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use sendarix_webhooks::{EventType, Receiver, SigningSecret};
///
/// let receiver = Receiver::builder(SigningSecret::new("a secret from the dashboard")?)
///     .endpoint("production")
///     .events([EventType::Bounce, EventType::Complaint, EventType::Unsubscribe])
///     .lease(Duration::from_secs(120))
///     .handler_limit(Duration::from_secs(100))
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use]
pub struct ReceiverBuilder {
    secrets: SigningSecrets,
    store: Option<Arc<dyn DedupStore>>,
    dead_letters: Option<Arc<dyn DeadLetters>>,
    clock: Arc<dyn Clock>,
    settings: Settings,
}

impl ReceiverBuilder {
    pub(super) fn new(secrets: SigningSecrets) -> Self {
        Self { secrets, store: None, dead_letters: None, clock: Arc::new(SystemClock), settings: Settings::default() }
    }

    /// The name of this endpoint, 1 to 64 ASCII letters, digits, `.`, `_` or `-`. Receivers of different names share
    /// nothing, even in one store. Default: `default`.
    pub fn endpoint(mut self, name: impl Into<Arc<str>>) -> Self {
        self.settings.endpoint = name.into();
        self
    }

    /// Where it is remembered which events have been handled. Default: a [`MemoryStore`](crate::store::MemoryStore) of
    /// this receiver's own, with the feature `memory`.
    pub fn store(mut self, store: impl DedupStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Like [`store`](Self::store), for a store that is shared.
    pub fn shared_store(mut self, store: Arc<dyn DedupStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Where events are kept that could not be handled. Default: nowhere. Then such an event is logged at error level,
    /// without its body, and is lost if it was acknowledged or once Sendarix gives up on it.
    pub fn dead_letters(mut self, dead_letters: impl DeadLetters) -> Self {
        self.dead_letters = Some(Arc::new(dead_letters));
        self
    }

    /// Like [`dead_letters`](Self::dead_letters), for a store that is shared.
    pub fn shared_dead_letters(mut self, dead_letters: Arc<dyn DeadLetters>) -> Self {
        self.dead_letters = Some(dead_letters);
        self
    }

    /// Where the time of day comes from. Default: the operating system.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The longest body that is read, in bytes. Default: 262,144 (256 KiB), hundreds of times the documented events.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.settings.body_limit = bytes;
        self
    }

    /// How long the whole body may take to arrive. Default: 5 s, half of what Sendarix waits for an answer.
    pub fn body_timeout(mut self, limit: Duration) -> Self {
        self.settings.body_timeout = limit;
        self
    }

    /// How far the timestamp header may be from now, in either direction. Default: 5 min, which Sendarix recommends.
    pub fn timestamp_tolerance(mut self, tolerance: Duration) -> Self {
        self.settings.timestamp_tolerance = Some(tolerance);
        self
    }

    /// Accepts a request whatever its timestamp header says, or without one.
    ///
    /// The header is not covered by the signature, so this gives up a filter rather than a defence. It is for senders
    /// that do not set it, and for replaying captured requests.
    pub fn dangerously_ignore_timestamps(mut self) -> Self {
        self.settings.timestamp_tolerance = None;
        self
    }

    /// Keeps an event as a dead letter, instead of handling it, if the time *inside its signed body* is longer ago than
    /// this, or more than 5 min ahead. Default: off.
    ///
    /// With it, a captured request is useless for as long as the dedup store forgets nothing before its time: while the
    /// event is young enough to be taken, it is remembered. Without it, a request that was captured can be played again
    /// once the [`retention`](Self::retention) is over.
    ///
    /// It must be at least [`RETRY_SCHEDULE`](crate::RETRY_SCHEDULE), or a late retry would not be taken, and at most the
    /// retention less 5 min.
    pub fn max_event_age(mut self, age: Duration) -> Self {
        self.settings.max_event_age = Some(age);
        self
    }

    /// How long a claim protects a running handler from a second delivery. Default: 60 s; at most
    /// [`MAX_LEASE`](crate::MAX_LEASE). A crashed process frees its events after this time, so longer means later;
    /// [`handler_limit`](Self::handler_limit) must fit into it.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How long a handler may run before it is stopped and counts as failed. Default: 50 s. It must leave three
    /// [`store_timeout`](Self::store_timeout)s of the lease, in which the result is recorded.
    pub fn handler_limit(mut self, limit: Duration) -> Self {
        self.settings.handler_limit = limit;
        self
    }

    /// How long an event is remembered after it was handled. Default: 24 h, which Sendarix recommends. It must be at
    /// least [`RETRY_SCHEDULE`](crate::RETRY_SCHEDULE).
    pub fn retention(mut self, retention: Duration) -> Self {
        self.settings.retention = retention;
        self
    }

    /// When a delivery whose handler is still running is answered 503 while the handler goes on, counted from the
    /// arrival of the request. Default: 9 s, 1 s before Sendarix stops listening. It must be below
    /// [`SENDER_TIMEOUT`](crate::contract::SENDER_TIMEOUT).
    ///
    /// A handler that blocks its thread, instead of awaiting, delays this answer too: use `spawn_blocking`.
    pub fn acknowledgement_deadline(mut self, deadline: Duration) -> Self {
        self.settings.acknowledgement_deadline = deadline;
        self
    }

    /// How long the dedup store or the dead-letter store may take for one step. Default: 2 s, so that a store that
    /// hangs is answered 503 well before the acknowledgement deadline. The SQL stores are told, and give up by themselves a
    /// second later.
    pub fn store_timeout(mut self, limit: Duration) -> Self {
        self.settings.store_timeout = limit;
        self
    }

    /// Runs every delivery in a task from the start. Default: `false`, the connection's own task polls it, which is cheaper.
    ///
    /// A delivery that outlives its connection, or the acknowledgement deadline, moves into a task in any case. There the
    /// *task-locals* of the application are gone (`tokio::task_local!`, and what is built on them), and a handler that reads
    /// one panics in the middle of its work. With this switch they are missing from the first test on, and not for slow
    /// deliveries alone. Middleware that sets task-locals for the handler belongs *inside* of the layer, where it runs again
    /// around every handler; whatever it sets is there then, with or without this switch.
    pub fn deliver_in_tasks(mut self, in_tasks: bool) -> Self {
        self.settings.deliver_in_tasks = in_tasks;
        self
    }

    /// The types of event that the handler wants; others are acknowledged and dropped. Default: all. Better still,
    /// choose them in the Sendarix dashboard, which saves the requests.
    pub fn events(mut self, wanted: impl IntoIterator<Item = EventType>) -> Self {
        self.settings.wanted = Some(wanted.into_iter().collect());
        self
    }

    /// What to do with an event of unknown type. Default: keep it as a dead letter, since retrying cannot help.
    pub fn unknown_types(mut self, unknown_types: UnknownTypes) -> Self {
        self.settings.unknown_types = unknown_types;
        self
    }

    /// Answers an outcome with another status than the default one.
    ///
    /// It does not touch a status that the handler chose, nor the 500 after a panic. An outcome that is not
    /// acknowledged cannot be given a 2xx: the event would be lost.
    pub fn status(mut self, outcome: Outcome, status: u16) -> Self {
        self.settings.statuses.push((outcome, status));
        self
    }

    /// Checks the settings against each other and against the contract.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the setting, what was found and what is allowed.
    pub fn build(self) -> Result<Receiver, ConfigError> {
        self.settings.check()?;
        let store = self.store.or_else(default_store).ok_or(ConfigError::NoStore)?;
        store.set_time_limit(self.settings.store_timeout);
        if let Some(dead_letters) = &self.dead_letters {
            dead_letters.set_time_limit(self.settings.store_timeout);
        }
        Ok(Receiver(Arc::new(Inner {
            secrets: self.secrets,
            store,
            dead_letters: self.dead_letters,
            clock: self.clock,
            telemetry: Telemetry::new(Arc::clone(&self.settings.endpoint)),
            settings: self.settings,
            running: Arc::default(),
            discards: Discards::default(),
        })))
    }
}

#[cfg(feature = "memory")]
fn default_store() -> Option<Arc<dyn DedupStore>> {
    Some(Arc::new(crate::store::MemoryStore::new()))
}

#[cfg(not(feature = "memory"))]
fn default_store() -> Option<Arc<dyn DedupStore>> {
    None
}
