//! The settings of a receiver, each with its default and the reason for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::body::MAX_DISCARDS;
use super::settings::Settings;
use super::{Inner, Receiver};
use crate::inbox::{ConfigError, InboxBuilder, inbox_settings};
use crate::outcome::Outcome;
use crate::verify::SigningSecrets;

/// Builds a [`Receiver`]. Every setting but the dead letters has a default that suits production; the default store is that
/// of one process.
///
/// ```
/// # #[cfg(feature = "memory")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use sendarix_webhooks::dead_letter::FileDeadLetters;
/// use sendarix_webhooks::{EventType, Receiver, SigningSecrets};
///
/// let receiver = Receiver::builder(SigningSecrets::from_env()?)
///     .dead_letters(FileDeadLetters::open("sendarix.dead-letters.jsonl")?)
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
    settings: Settings,
    inbox: InboxBuilder,
}

/// 1 s before Sendarix stops listening.
const ACKNOWLEDGEMENT_DEADLINE: Duration = Duration::from_secs(9);

impl ReceiverBuilder {
    pub(super) fn new(secrets: SigningSecrets) -> Self {
        let mut inbox = InboxBuilder::new();
        inbox.settings.acknowledgement_deadline = Some(ACKNOWLEDGEMENT_DEADLINE);
        Self { secrets, settings: Settings::default(), inbox }
    }

    inbox_settings!();

    fn inbox(&mut self) -> &mut InboxBuilder {
        &mut self.inbox
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
    /// The header is not covered by the signature, so this gives up a filter rather than a defense. It is for senders
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
        self.inbox.settings.max_event_age = Some(age);
        self
    }

    /// When a delivery whose handler is still running is answered 503 while the handler goes on, counted from the
    /// arrival of the request. Default: 9 s, 1 s before Sendarix stops listening. It must be below
    /// [`SENDER_TIMEOUT`](crate::contract::SENDER_TIMEOUT).
    ///
    /// A handler that blocks its thread, instead of awaiting, delays this answer too: use `spawn_blocking`.
    pub fn acknowledgement_deadline(mut self, deadline: Duration) -> Self {
        self.inbox.settings.acknowledgement_deadline = Some(deadline);
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
        self.inbox.settings.deliver_in_tasks = in_tasks;
        self
    }

    /// Answers an outcome with another status than the default one.
    ///
    /// It does not touch a status that the handler chose, nor the 500 after a panic. An outcome that is not
    /// acknowledged cannot be given a 2xx: the event would be lost.
    pub fn status(mut self, outcome: Outcome, status: u16) -> Self {
        self.inbox.settings.statuses.push((outcome, status));
        self
    }

    /// Checks the settings against each other and against the contract.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] that names the setting, what was found and what is allowed.
    pub fn build(self) -> Result<Receiver, ConfigError> {
        let Self { secrets, settings, mut inbox } = self;
        inbox.settings.read_limit = settings.body_timeout;
        let deadline = inbox.settings.acknowledgement_deadline;
        let inbox = inbox.build()?;
        settings.check(deadline.unwrap_or(ACKNOWLEDGEMENT_DEADLINE))?;
        let discards = Arc::new(Semaphore::new(MAX_DISCARDS));
        Ok(Receiver(Arc::new(Inner { secrets, settings, inbox, discards })))
    }
}
