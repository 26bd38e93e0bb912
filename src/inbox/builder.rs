//! The settings of an inbox, each with its default and the reason for it.

use std::sync::Arc;

use super::letters::Letters;
use super::ready::Readiness;
use super::settings::Settings;
use super::{ConfigError, Inbox, Inner};
use crate::store::DedupStore;
use crate::telemetry::Telemetry;
use crate::verify::{Clock, SystemClock};

/// Builds an [`Inbox`]. Every setting but the dead letters has a default that suits production.
///
/// ```
/// # #[cfg(feature = "memory")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use sendarix_webhooks::dead_letter::FileDeadLetters;
/// use sendarix_webhooks::inbox::Inbox;
///
/// let inbox = Inbox::builder("default.jobs")
///     .dead_letters(FileDeadLetters::open("jobs.dead-letters.jsonl")?)
///     .lease(Duration::from_secs(120))
///     .handler_limit(Duration::from_secs(100))
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use]
pub struct InboxBuilder {
    pub(crate) settings: Settings,
    pub(crate) store: Option<Arc<dyn DedupStore>>,
    /// `None`: in the store of the events, if it keeps letters.
    pub(crate) letters: Option<Letters>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The settings that an inbox and a receiver have in common, as methods of a builder with an `inbox` method.
macro_rules! inbox_settings {
    () => {
        /// The endpoint's name, 1 to 64 ASCII letters, digits, `.`, `_` or `-`. Endpoints of different names share nothing,
        /// even in one store. Default of a receiver: `default`.
        pub fn endpoint(mut self, name: impl Into<std::sync::Arc<str>>) -> Self {
            self.inbox().settings.endpoint = name.into();
            self
        }

        /// The store of claims and completions. One that [keeps dead letters](crate::store::DedupStore::dead_letters) is all
        /// that is needed. An `Arc` of a store is a store that is shared. Default: a [`MemoryStore`](crate::store::MemoryStore), with the feature `memory`.
        pub fn store(mut self, store: impl crate::store::DedupStore) -> Self {
            self.inbox().store = Some(std::sync::Arc::new(store));
            self
        }

        /// Where events are kept that could not be handled. Default: the [store](Self::store), if it keeps dead letters; a
        /// [`MemoryStore`](crate::store::MemoryStore) does not. Do not set the letters of the store itself: each event would
        /// then cost a step more.
        pub fn dead_letters(mut self, letters: impl crate::dead_letter::DeadLetters) -> Self {
            self.inbox().letters = Some(crate::inbox::Letters::Apart(std::sync::Arc::new(letters)));
            self
        }

        /// Keeps no dead letters: an event that cannot be handled is logged at error level, without its body, and is lost
        /// if it was acknowledged or once Sendarix gives up on it. It is for tests.
        pub fn dangerously_without_dead_letters(mut self) -> Self {
            self.inbox().letters = Some(crate::inbox::Letters::Nowhere);
            self
        }

        /// Where the time of day comes from. Default: the operating system.
        pub fn clock(mut self, clock: impl crate::verify::Clock) -> Self {
            self.inbox().clock = std::sync::Arc::new(clock);
            self
        }

        /// How long a claim protects a running handler from a second delivery. Default: 60 s; at most
        /// [`MAX_LEASE`](crate::MAX_LEASE). A crashed process frees its events after this time, so longer means later;
        /// [`handler_limit`](Self::handler_limit) must fit into it.
        pub fn lease(mut self, lease: std::time::Duration) -> Self {
            self.inbox().settings.lease = lease;
            self
        }

        /// How long a handler may run before it is stopped and counts as failed. Default: 50 s. It must leave three
        /// [`store_timeout`](Self::store_timeout)s of the lease, in which the result is recorded.
        pub fn handler_limit(mut self, limit: std::time::Duration) -> Self {
            self.inbox().settings.handler_limit = limit;
            self
        }

        /// How long an event is remembered after it was handled. Default: 24 h, which Sendarix recommends. It must be at
        /// least [`RETRY_SCHEDULE`](crate::RETRY_SCHEDULE).
        pub fn retention(mut self, retention: std::time::Duration) -> Self {
            self.inbox().settings.retention = retention;
            self
        }

        /// How long the dedup store or the dead-letter store may take for one step. Default: 2 s, so that a store that
        /// hangs is answered 503 well before the acknowledgement deadline. The SQL stores are told, and give up a second
        /// later.
        pub fn store_timeout(mut self, limit: std::time::Duration) -> Self {
            self.inbox().settings.store_timeout = limit;
            self
        }

        /// The types of event that the handler wants; others are acknowledged and dropped. Default: all. Better still,
        /// choose them in the Sendarix dashboard, which saves the requests.
        pub fn events(mut self, wanted: impl IntoIterator<Item = crate::event::EventType>) -> Self {
            self.inbox().settings.wanted = Some(wanted.into_iter().collect());
            self
        }

        /// What to do with an event of unknown type. Default: keep it as a dead letter, since retrying cannot help.
        pub fn unknown_types(mut self, unknown_types: crate::inbox::UnknownTypes) -> Self {
            self.inbox().settings.unknown_types = unknown_types;
            self
        }
    };
}

pub(crate) use inbox_settings;

impl InboxBuilder {
    pub(crate) fn new() -> Self {
        Self { settings: Settings::default(), store: None, letters: None, clock: Arc::new(SystemClock) }
    }

    inbox_settings!();

    fn inbox(&mut self) -> &mut Self {
        self
    }

    /// Checks the settings against each other and against the contract.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the setting, what was found and what is allowed.
    pub fn build(self) -> Result<Inbox, ConfigError> {
        self.settings.check()?;
        let store = self.store.or_else(default_store).ok_or(ConfigError::NoStore)?;
        let letters = match self.letters {
            Some(letters) => letters,
            None => Letters::WithEvents(store.dead_letters().ok_or(ConfigError::NoDeadLetters)?),
        };
        store.set_time_limit(self.settings.store_timeout);
        if let Some(letters) = letters.get() {
            letters.set_time_limit(self.settings.store_timeout);
        }
        Ok(Inbox(Arc::new(Inner {
            store,
            letters,
            clock: self.clock,
            telemetry: Telemetry::new(Arc::clone(&self.settings.endpoint)),
            settings: self.settings,
            drain: Arc::default(),
            readiness: Readiness::default(),
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
