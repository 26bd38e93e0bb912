//! What a mail state can be told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::address::bounded;
use super::erasure::ErasureKey;
use super::record::{Record, SoftBounceRule};
use super::{Changes, MailStore};
use crate::event::{SendarixEvent, Timestamp};
use crate::storage::StoreConfigError;
use crate::verify::{Clock, SystemClock};

/// Keeps the suppression list, the state of each message, the timeline of each recipient, and rates, in a store.
///
/// Clones share everything.
///
/// ```
/// # #[cfg(feature = "testing")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use sendarix_webhooks::mail::{Mail, MemoryMail, SuppressionEntry, SuppressionReason};
/// use std::time::SystemTime;
///
/// let mail = Mail::new(MemoryMail::default());
/// mail.suppress(&[SuppressionEntry::new("Ann@example.com", SuppressionReason::Manual, SystemTime::now())]).await?;
/// assert!(mail.is_suppressed("ann@example.com").await?);
/// # Ok(()) }
/// # #[cfg(not(feature = "testing"))] fn main() {}
/// ```
#[derive(Clone)]
pub struct Mail<S> {
    pub(super) store: S,
    pub(super) settings: Arc<Settings>,
}

pub(super) struct Settings {
    soft_bounces: Option<SoftBounceRule>,
    key: Option<CountingKey>,
    pub(super) erasure_key: Option<ErasureKey>,
    pub(super) changes: Changes,
    clock: Box<dyn Clock>,
}

type CountingKey = Box<dyn Fn(&SendarixEvent) -> Option<String> + Send + Sync>;

/// Sets up a [`Mail`].
#[must_use]
pub struct MailBuilder<S> {
    store: S,
    settings: Settings,
    erasure_key: Option<Vec<u8>>,
}

/// As long as an event's id may be.
const LONGEST_KEY: usize = 255;

/// As long as the output of its hash (RFC 2104, 3).
const SHORTEST_ERASURE_KEY: usize = 32;

impl<S: MailStore> Mail<S> {
    /// A mail state in this store, with every default. Does not connect yet.
    pub fn new(store: S) -> Self {
        Self::from_builder(Self::builder(store))
    }

    /// Starts a mail state in this store.
    pub fn builder(store: S) -> MailBuilder<S> {
        let (changes, clock) = (Changes::new(false), Box::new(SystemClock));
        let settings = Settings { soft_bounces: None, key: None, erasure_key: None, changes, clock };
        MailBuilder { store, settings, erasure_key: None }
    }

    fn from_builder(MailBuilder { store, settings, .. }: MailBuilder<S>) -> Self {
        store.prepare();
        Self { store, settings: Arc::new(settings) }
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    pub(crate) fn record_of<'a>(&self, event: &'a SendarixEvent) -> Record<'a> {
        let key = self.settings.key.as_ref().and_then(|key| key(event));
        let counted = key.map(|key| (counting_key(&key), event.timestamp.min(self.now())));
        Record::new(event, counted, self.settings.erasure_key.as_ref())
    }

    pub(crate) fn soft_bounces(&self) -> Option<SoftBounceRule> {
        self.settings.soft_bounces
    }

    pub(crate) fn changes_sink(&self) -> &Changes {
        &self.settings.changes
    }

    pub(super) fn now(&self) -> Timestamp {
        self.settings.clock.now().into()
    }
}

impl<S: MailStore> MailBuilder<S> {
    /// Suppresses an address after `count` soft bounces within this time, with no delivery between them. A later delivery
    /// takes it off the list again. Default: soft bounces suppress nothing.
    pub fn soft_bounces(mut self, count: u16, within: Duration) -> Self {
        self.settings.soft_bounces = Some(SoftBounceRule { count, within });
        self
    }

    /// What an event counts under for [`rates`](Mail::rates), such as a campaign or an account. `None`: it is not counted.
    /// Default: no event is.
    ///
    /// A key is kept for as long as [`purge`](Mail::purge) lets it. One of more than 255 bytes is replaced by its digest.
    pub fn count_by(mut self, key: impl Fn(&SendarixEvent) -> Option<String> + Send + Sync + 'static) -> Self {
        self.settings.key = Some(Box::new(key));
        self
    }

    /// The secret for [`erase`](Mail::erase): at least 32 random bytes. Keep it outside of the database, and keep it: once an
    /// address was erased, the list cannot be asked without it, or with another one.
    ///
    /// If it is lost, nothing tells which addresses were erased. To go on all the same, and to mail them again, delete the
    /// rows of `sendarix_suppressions` whose address begins with `erased:`.
    pub fn erasure_key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.erasure_key = Some(key.into());
        self
    }

    /// Tells other processes of each change of status, for [`changes`](Mail::changes). On PostgreSQL alone, by `NOTIFY`, which
    /// makes commits wait for each other for a moment. Default: off.
    pub fn announce_changes(mut self) -> Self {
        self.settings.changes = Changes::new(true);
        self
    }

    /// Where the time of day comes from, which dates releases and ends the windows of [`rates`](Mail::rates). Default: the
    /// operating system.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.settings.clock = Box::new(clock);
        self
    }

    /// Checks the settings. Does not connect yet.
    ///
    /// # Errors
    ///
    /// The rule for soft bounces has a count of 0, or the erasure key has fewer than 32 bytes.
    pub fn build(mut self) -> Result<Mail<S>, StoreConfigError> {
        if self.settings.soft_bounces.is_some_and(|rule| rule.count == 0) {
            let message = "`soft_bounces` has a count of 0, which would suppress every address; use at least 1";
            return Err(StoreConfigError::new(message, None));
        }
        if let Some(length) = self.erasure_key.as_ref().map(Vec::len).filter(|length| *length < SHORTEST_ERASURE_KEY) {
            let message =
                format!("`erasure_key` has {length} bytes; it needs at least {SHORTEST_ERASURE_KEY} random ones");
            return Err(StoreConfigError::new(message, None));
        }
        self.settings.erasure_key = self.erasure_key.as_deref().map(ErasureKey::new);
        Ok(Mail::from_builder(self))
    }
}

pub(super) fn counting_key(key: &str) -> String {
    bounded(key.to_owned(), LONGEST_KEY)
}

impl<S> fmt::Debug for Mail<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mail").field("soft_bounces", &self.settings.soft_bounces).finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for MailBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailBuilder").field("soft_bounces", &self.settings.soft_bounces).finish_non_exhaustive()
    }
}
