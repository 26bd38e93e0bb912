//! Which dead letters to redrive, discard or list.

use super::{DeadLetter, DeadLetterReason, ListedLetter};
use crate::event::Timestamp;

/// A filter of dead letters, by reason, event type, error and age. Without a condition it takes all of them; with several,
/// those that meet each.
///
/// ```
/// use sendarix_webhooks::dead_letter::{DeadLetterReason, LetterFilter};
/// use std::time::{Duration, SystemTime};
///
/// let timeouts_of_today = LetterFilter::new()
///     .reason(DeadLetterReason::Failed)
///     .event_type("bounce")
///     .error_contains("timed out")
///     .failed_since(SystemTime::now() - Duration::from_secs(24 * 60 * 60));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct LetterFilter {
    pub(crate) reasons: Vec<DeadLetterReason>,
    pub(crate) event_types: Vec<String>,
    pub(crate) error: Option<String>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) before: Option<Timestamp>,
}

impl LetterFilter {
    /// Every letter.
    pub fn new() -> Self {
        Self::default()
    }

    /// Letters with this reason. Called again, letters with either reason.
    pub fn reason(mut self, reason: DeadLetterReason) -> Self {
        self.reasons.push(reason);
        self
    }

    /// Letters of this event type, as Sendarix names it. Called again, letters of either type. A body that is no event has
    /// no type, and never matches.
    pub fn event_type(mut self, name: impl Into<String>) -> Self {
        self.event_types.push(name.into());
        self
    }

    /// Letters whose error has this text in it, upper and lower case told apart.
    pub fn error_contains(mut self, text: impl Into<String>) -> Self {
        self.error = Some(text.into());
        self
    }

    /// Letters that failed last at this time or later.
    pub fn failed_since(mut self, time: impl Into<Timestamp>) -> Self {
        self.since = Some(time.into());
        self
    }

    /// Letters that failed last before this time.
    pub fn failed_before(mut self, time: impl Into<Timestamp>) -> Self {
        self.before = Some(time.into());
        self
    }

    /// Whether this letter is one of them.
    #[must_use]
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        (self.reasons.is_empty() || self.reasons.contains(&letter.reason))
            && self.since.is_none_or(|since| letter.last_at >= since)
            && self.before.is_none_or(|before| letter.last_at < before)
            && self.error.as_ref().is_none_or(|text| letter.error.contains(text))
            // Last, because it reads the body.
            && (self.event_types.is_empty() || self.has_event_type(letter))
    }

    fn has_event_type(&self, letter: &DeadLetter) -> bool {
        letter.event_type().is_some_and(|event_type| self.event_types.contains(&event_type))
    }

    /// An unreadable letter matches only a filter without conditions.
    pub(crate) fn matches_listed(&self, listed: &ListedLetter) -> bool {
        match listed {
            Ok(letter) => self.matches(letter),
            Err(_) => *self == Self::new(),
        }
    }
}
