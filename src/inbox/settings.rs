//! The settings of an inbox, and why some are refused.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::closed_set::closed_set;
use crate::contract::{MAX_LEASE, RETRY_SCHEDULE, SENDER_TIMEOUT};
use crate::event::EventType;
use crate::outcome::Outcome;

/// How far ahead of the clock an event's signed time may be, when its age is checked.
pub(super) const MAX_EVENT_AHEAD: Duration = Duration::from_secs(5 * 60);

closed_set! {
    /// What to do with an event of a type that this version of the crate does not know.
    #[derive(Default)]
    pub enum UnknownTypes {
        /// Keep it as a dead letter and acknowledge it.
        #[default]
        DeadLetter = "dead_letter",
        /// Give it to the handler as [`EventKind::Unknown`](crate::EventKind::Unknown).
        Deliver = "deliver",
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) endpoint: Arc<str>,
    pub(crate) max_event_age: Option<Duration>,
    /// How long a request may take before it comes to the inbox.
    pub(crate) read_limit: Duration,
    pub(crate) lease: Duration,
    pub(crate) handler_limit: Duration,
    pub(crate) retention: Duration,
    /// When the sender of a request must be answered; `None` where there are no requests.
    pub(crate) acknowledgement_deadline: Option<Duration>,
    pub(crate) store_timeout: Duration,
    pub(crate) deliver_in_tasks: bool,
    pub(crate) unknown_types: UnknownTypes,
    pub(crate) wanted: Option<Vec<EventType>>,
    pub(crate) statuses: Vec<(Outcome, u16)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoint: "default".into(),
            max_event_age: None,
            read_limit: Duration::ZERO,
            lease: Duration::from_secs(60),
            handler_limit: Duration::from_secs(50),
            retention: Duration::from_secs(24 * 60 * 60),
            acknowledgement_deadline: None,
            store_timeout: Duration::from_secs(2),
            deliver_in_tasks: false,
            unknown_types: UnknownTypes::DeadLetter,
            wanted: None,
            statuses: Vec::new(),
        }
    }
}

/// Refuses a time that is not shorter than another.
pub(crate) fn less(
    setting: &'static str,
    found: Duration,
    limit: &'static str,
    than: Duration,
) -> Result<(), ConfigError> {
    if found < than { Ok(()) } else { Err(ConfigError::TooLong { setting, found, limit, than }) }
}

/// Whether this can be the name of an endpoint, or of a part of one.
pub(super) fn check_name(name: &str) -> Result<(), ConfigError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(ConfigError::EndpointName { found: name.to_owned() })
    }
}

impl Settings {
    /// The status that was chosen for an outcome, or the default.
    pub(super) fn status(&self, outcome: Outcome, default: u16) -> u16 {
        self.statuses.iter().rev().find(|(of, _)| *of == outcome).map_or(default, |(_, status)| *status)
    }

    /// Holds the settings against each other and against the contract.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check_name(&self.endpoint)?;
        let nonzero = [
            ("lease", self.lease),
            ("handler_limit", self.handler_limit),
            ("acknowledgement_deadline", self.acknowledgement_deadline.unwrap_or(Duration::MAX)),
            ("store_timeout", self.store_timeout),
        ];
        if let Some((setting, _)) = nonzero.into_iter().find(|(_, time)| time.is_zero()) {
            return Err(ConfigError::Zero { setting });
        }
        if self.lease > MAX_LEASE {
            return Err(ConfigError::LeaseTooLong { found: self.lease });
        }
        if let Some(deadline) = self.acknowledgement_deadline {
            less("store_timeout", self.store_timeout, "acknowledgement_deadline", deadline)?;
        }
        // Within one lease lie the claim's own reply, the handler, a dead letter and the completion.
        let for_handler = self.lease.saturating_sub(self.store_timeout.saturating_mul(3));
        less("handler_limit", self.handler_limit, "the lease less three store timeouts", for_handler)?;
        if let Some(deadline) = self.acknowledgement_deadline {
            less("acknowledgement_deadline", deadline, "what Sendarix waits", SENDER_TIMEOUT)?;
        }
        if self.retention < RETRY_SCHEDULE {
            return Err(ConfigError::RetentionTooShort { found: self.retention });
        }
        if let Some(found) = self
            .max_event_age
            .filter(|age| *age < RETRY_SCHEDULE || *age > self.retention.saturating_sub(MAX_EVENT_AHEAD))
        {
            return Err(ConfigError::MaxEventAge { found, retention: self.retention });
        }
        if self.wanted.as_ref().is_some_and(Vec::is_empty) {
            return Err(ConfigError::NoEvents);
        }
        for &(outcome, status) in &self.statuses {
            let success = (200..300).contains(&status);
            if !(200..=599).contains(&status) || (success && !outcome.is_acknowledged()) {
                return Err(ConfigError::Status { outcome, status });
            }
            if outcome == Outcome::Processed {
                return Err(ConfigError::HandlersStatus);
            }
        }
        Ok(())
    }
}

/// Why a receiver or an inbox cannot be built.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No store was given, and the feature `memory` with the default one is off.
    #[error("no dedup store: call `store` on the builder, or switch on the feature `memory`")]
    NoStore,
    /// Events that cannot be handled would be lost.
    #[error(
        "no dead letters: what fails would be lost; call `dead_letters(FileDeadLetters::open(\"dead-letters.jsonl\")?)` on the \
         builder, or give it a store that keeps them, such as a PostgresStore; a test may call \
         `dangerously_without_dead_letters()`"
    )]
    NoDeadLetters,
    /// The endpoint's name could not be used as part of a key.
    #[error("endpoint is {found:?}; it must have 1 to 64 ASCII letters, digits, `.`, `_` or `-`")]
    EndpointName {
        /// The name that was given.
        found: String,
    },
    /// A limit of zero would let nothing through.
    #[error("{setting} is zero; nothing could get through")]
    Zero {
        /// The builder's method.
        setting: &'static str,
    },
    /// A time must be shorter than another.
    #[error("{setting} is {found:?}; it must be shorter than {limit}, {than:?}")]
    TooLong {
        /// The builder's method.
        setting: &'static str,
        /// The time that was given.
        found: Duration,
        /// What it must be shorter than.
        limit: &'static str,
        /// How long that is.
        than: Duration,
    },
    /// A crash could keep an event in flight for all six attempts.
    #[error(
        "lease is {found:?}; it must be at most {MAX_LEASE:?} (5 min 30 s), or a crash may keep an event in flight until \
         Sendarix has given up; work that takes longer belongs into a queue"
    )]
    LeaseTooLong {
        /// The time that was given.
        found: Duration,
    },
    /// Events would be forgotten while Sendarix may still deliver them again.
    #[error(
        "retention is {found:?}; it must be at least {RETRY_SCHEDULE:?} (7 h 35 min 30 s), as long as Sendarix goes on \
         delivering"
    )]
    RetentionTooShort {
        /// The time that was given.
        found: Duration,
    },
    /// Late retries would not be taken, or replays would.
    #[error(
        "max_event_age is {found:?}; it must be at least {RETRY_SCHEDULE:?} (7 h 35 min 30 s), as long as Sendarix goes \
         on delivering, and at most the retention, {retention:?}, less 5 min"
    )]
    MaxEventAge {
        /// The age that was given.
        found: Duration,
        /// The retention.
        retention: Duration,
    },
    /// Every event would be dropped.
    #[error("events is empty, so that every event would be dropped; leave it out to take all types")]
    NoEvents,
    /// The status is not an HTTP status, or acknowledges what is not kept.
    #[error(
        "status {status} for the outcome {outcome}: it must be between 200 and 599, and not a 2xx unless the outcome is \
         acknowledged, or the event would be lost"
    )]
    Status {
        /// The outcome.
        outcome: Outcome,
        /// The status that was given.
        status: u16,
    },
    /// The status of `processed` is the handler's own.
    #[error("the status of `processed` cannot be set: it is the one that the handler returns")]
    HandlersStatus,
}

/// The text of the error, which is what a `main` that returns it prints.
impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
