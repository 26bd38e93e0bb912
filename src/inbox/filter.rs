//! Which events are for the handler, and what is said of those that have come.

use super::UnknownTypes;
use super::attempt::{Attempt, Source};
use super::handler::UNKNOWN_TYPE;
use super::settings::MAX_EVENT_AHEAD;
use crate::dead_letter::DeadLetterReason;
use crate::event::{SendarixEvent, Timestamp};
use crate::outcome::Outcome;

impl Attempt {
    /// Whether the handler wants events of this type.
    pub(super) fn is_wanted(&self, event: &SendarixEvent) -> bool {
        let Some(wanted) = &self.inbox.settings().wanted else { return true };
        event.kind.event_type().is_none_or(|event_type| wanted.contains(&event_type))
    }

    /// Why a claimed event is not for the handler, if that is so.
    pub(super) fn unfit(&self, event: &SendarixEvent) -> Option<(Outcome, DeadLetterReason, &'static str)> {
        if event.kind.event_type().is_none() && self.inbox.settings().unknown_types == UnknownTypes::DeadLetter {
            return Some((Outcome::UnknownType, DeadLetterReason::UnknownType, UNKNOWN_TYPE));
        }
        // The store does not remember it, and may have forgotten it.
        let error = "the event is too old, or too far ahead, to be told from a replay";
        self.is_expired(event.timestamp).then_some((Outcome::Expired, DeadLetterReason::Expired, error))
    }

    fn is_expired(&self, signed_at: Timestamp) -> bool {
        // An event that the application delivers again may be old.
        let max_age = self.inbox.settings().max_event_age.filter(|_| self.is_request());
        let Some(max_age) = max_age else { return false };
        let now = self.inbox.now();
        match signed_at.until(now) {
            Some(age) => age > max_age,
            None => now.until(signed_at).is_some_and(|ahead| ahead > MAX_EVENT_AHEAD),
        }
    }

    pub(super) fn log_receipt(&self, event: &SendarixEvent) {
        let telemetry = self.inbox.telemetry();
        match &self.source {
            Source::Request(secret) => telemetry.received(event, "sendarix", Some(secret)),
            Source::Letter(_) => telemetry.received(event, "dead letter", None),
            Source::Application(_) => telemetry.received(event, "application", None),
            // The delivery of which it is a part has been logged.
            Source::Part(_) => {}
        }
    }

    /// Counts an event on its first claim.
    pub(super) fn count(&self, event: &SendarixEvent) {
        if self.is_request() {
            let lag = || event.timestamp.until(self.inbox.now()).unwrap_or_default();
            self.inbox.telemetry().new_event(event, lag);
            if event.data_is_no_object() {
                self.inbox.telemetry().unreadable_data();
            }
        }
    }
}
