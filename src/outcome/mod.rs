//! Outcomes of deliveries: one closed set, and the reasons of those that are refused.

mod refusal_kind;
mod settled;

use crate::closed_set::closed_set;

pub use self::refusal_kind::RefusalKind;
pub(crate) use self::settled::Settled;

closed_set! {
    /// What became of a delivery.
    ///
    /// Its [name](Self::as_str) is the field in the logs, and the key under which
    /// [`ReceiverBuilder::status`](crate::ReceiverBuilder::status) changes a status.
    pub enum Outcome {
        /// The handler succeeded; its own 2xx is the answer.
        Processed = "processed",
        /// The event has been handled before: 200.
        Duplicate = "duplicate",
        /// Another delivery of the same event is being handled: 503. A 200 would lose the event if that one fails.
        InFlight = "in_flight",
        /// The receiver is configured not to want this type of event: 200.
        Ignored = "ignored",
        /// The type of the event is not known. It is kept as a dead letter, since retrying cannot help: 200.
        UnknownType = "unknown_type",
        /// The body is authentic and no event. It is kept as a dead letter, since retrying cannot help: 200.
        Malformed = "malformed",
        /// The event is older than [`max_event_age`](crate::ReceiverBuilder::max_event_age), too old to be told from a
        /// replay. It is kept as a dead letter: 200.
        Expired = "expired",
        /// The handler said that it can never succeed. The event is kept as a dead letter: 200.
        FailedPermanently = "failed_permanently",
        /// A service inside of the layer answered 2xx, and no handler took the event: a fallback page, or a wrong route. It is
        /// kept as a dead letter that is retried: 500.
        NotTaken = "not_taken",
        /// The handler failed and Sendarix should deliver again: the handler's own status, else 503, and 500 after a panic.
        Failed = "failed",
        /// The handler is still running at the acknowledgement deadline, and goes on: 503.
        Slow = "slow",
        /// The method is not POST: 405.
        MethodNotAllowed = "method_not_allowed",
        /// The signature is missing, repeated, malformed or wrong: 401.
        Unauthenticated = "unauthenticated",
        /// The timestamp header is missing, repeated, malformed, too old or too far ahead: 401.
        Stale = "stale",
        /// The body is longer than the limit: 413.
        TooLarge = "too_large",
        /// The body did not arrive whole within its time limit: 408; or a layer outside could not decode it: 400.
        BodyTimeout = "body_timeout",
        /// The dedup store failed, or the dead-letter store where the outcome needs it: 503.
        StoreUnavailable = "store_unavailable",
        /// The receiver is shutting down and takes nothing new: 503.
        Draining = "draining",
    }
}

impl Outcome {
    /// The status that the receiver answers by itself, unless the application chose another.
    #[must_use]
    pub const fn default_status(self) -> u16 {
        match self {
            Self::Processed
            | Self::Duplicate
            | Self::Ignored
            | Self::UnknownType
            | Self::Malformed
            | Self::Expired
            | Self::FailedPermanently => 200,
            Self::Unauthenticated | Self::Stale => 401,
            Self::MethodNotAllowed => 405,
            Self::BodyTimeout => 408,
            Self::TooLarge => 413,
            Self::NotTaken => 500,
            Self::InFlight | Self::Failed | Self::Slow | Self::StoreUnavailable | Self::Draining => 503,
        }
    }

    /// Whether Sendarix should not deliver the event again: it has been handled, is not wanted, or is kept.
    #[must_use]
    pub const fn is_acknowledged(self) -> bool {
        match self {
            Self::Processed
            | Self::Duplicate
            | Self::Ignored
            | Self::UnknownType
            | Self::Malformed
            | Self::Expired
            | Self::FailedPermanently => true,
            Self::InFlight
            | Self::NotTaken
            | Self::Failed
            | Self::Slow
            | Self::MethodNotAllowed
            | Self::Unauthenticated
            | Self::Stale
            | Self::TooLarge
            | Self::BodyTimeout
            | Self::StoreUnavailable
            | Self::Draining => false,
        }
    }

    /// What the body of the receiver's own answer says; it names nothing of the inside.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Duplicate => "already processed",
            Self::InFlight => "another delivery of this event is being processed",
            Self::Ignored => "events of this type are not wanted here",
            Self::UnknownType | Self::Malformed | Self::Expired | Self::FailedPermanently => {
                "acknowledged without processing"
            }
            Self::NotTaken => "misconfigured",
            Self::Failed => "not processed; deliver again",
            Self::Slow => "still processing",
            Self::MethodNotAllowed => "only POST is allowed",
            Self::Unauthenticated => "the signature cannot be accepted",
            Self::Stale => "the timestamp cannot be accepted",
            Self::TooLarge => "the body is too large",
            Self::BodyTimeout => "the body did not arrive in time",
            Self::StoreUnavailable | Self::Draining => "unavailable; deliver again",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sendarix takes every 2xx as an acknowledgment.
    #[test]
    fn what_is_not_acknowledged_is_answered_with_an_error() {
        for &outcome in Outcome::ALL {
            assert_eq!(outcome.is_acknowledged(), outcome.default_status() < 300, "{outcome}");
        }
    }
}
