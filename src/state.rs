//! What is known of a message: the sum of its events, whatever their order.
//!
//! Sendarix delivers events in no order and more than once: a complaint may come before the `delivered` of its message, and
//! a `deferred` long after it. [`MessageState`] comes to the same result all the same, so an application can keep one for
//! each message and needs neither a queue in order nor a memory of what it has seen.

use serde::{Deserialize, Serialize};

use crate::closed_set::closed_set;
use crate::event::{Envelope, EventKind, SendarixEvent, Timestamp};

/// What is known of one message, folded from its events.
///
/// The result depends on the set of events alone: any order, duplicates, and parts that were folded elsewhere and
/// [merged](Self::merge) come to the same state. Keep it by `message_id` and
/// `recipient`, and read, apply and write it under a lock: two events of a message that are handled at the same time would else
/// lose one of them. [The guide](crate::guide) has the code.
///
/// ```
/// use sendarix_webhooks::state::{MessageState, MessageStatus};
/// use sendarix_webhooks::{EventType, SendarixEvent, testing::Sample};
///
/// let event = |event_type| SendarixEvent::decode(Sample::new(event_type).body());
/// let mut state = MessageState::default();
/// for event_type in [EventType::Complaint, EventType::Delivered, EventType::Deferred] {
///     state.apply(&event(event_type)?);
/// }
/// assert_eq!(state.status(), Some(MessageStatus::Delivered));
/// assert!(state.complained_at().is_some());
/// # Ok::<(), sendarix_webhooks::DecodeError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MessageState {
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deferred: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    soft_bounce: Option<Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bounce: Option<Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    complaint: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsubscribe: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open: Option<Seen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    click: Option<Seen>,
}

closed_set! {
    /// How far a message has come. A later one in this list is never undone by an earlier one.
    #[derive(PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum MessageStatus {
        /// Sendarix has it.
        Accepted = "accepted",
        /// Delivery is delayed; Sendarix tries again by itself.
        Deferred = "deferred",
        /// The recipient's mail server refused it for now, by a `soft_bounce` or by a `bounce` that is called soft.
        SoftBounced = "soft_bounced",
        /// The recipient's mail server took it. A message that was opened, clicked, complained about or unsubscribed from was delivered too.
        Delivered = "delivered",
        /// It failed for good. A server may take a message and send it back later, so this stands above delivery.
        Bounced = "bounced",
    }
}

/// A delivery that failed, for good or for now.
// In the order of their fields: the time, and where that is the same, anything that does not depend on the order of arrival.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// When it failed.
    pub at: Timestamp,
    /// Why, in Sendarix's own words.
    pub category: Option<String>,
    /// The SMTP reply code, such as 550.
    pub smtp_code: Option<u16>,
    /// The SMTP reply text.
    pub smtp_message: Option<String>,
}

/// When something happened for the first and for the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    first: Timestamp,
    last: Timestamp,
}

impl Seen {
    /// The first time.
    #[must_use]
    pub fn first(&self) -> Timestamp {
        self.first
    }

    /// The last time.
    #[must_use]
    pub fn last(&self) -> Timestamp {
        self.last
    }
}

impl MessageState {
    /// Adds what an event says. It must be one of this message; an event of unknown type says nothing.
    pub fn apply(&mut self, event: &SendarixEvent) {
        self.merge(&Self::from(event));
    }

    /// Adds what is known elsewhere of the same message.
    pub fn merge(&mut self, other: &Self) {
        let Self { accepted, deferred, soft_bounce, delivered, bounce, complaint, unsubscribe, open, click } = other;
        // What begins something counts from its first time, what is over with the next from its last.
        keep(&mut self.accepted, accepted.as_ref(), Ord::min);
        keep(&mut self.deferred, deferred.as_ref(), Ord::max);
        keep(&mut self.soft_bounce, soft_bounce.as_ref(), Ord::max);
        keep(&mut self.delivered, delivered.as_ref(), Ord::min);
        keep(&mut self.bounce, bounce.as_ref(), Ord::min);
        keep(&mut self.complaint, complaint.as_ref(), Ord::min);
        keep(&mut self.unsubscribe, unsubscribe.as_ref(), Ord::min);
        let both = |a: Seen, b: Seen| Seen { first: a.first.min(b.first), last: a.last.max(b.last) };
        keep(&mut self.open, open.as_ref(), both);
        keep(&mut self.click, click.as_ref(), both);
    }

    /// How far the message has come; `None` if nothing is known of it.
    #[must_use]
    pub fn status(&self) -> Option<MessageStatus> {
        let received = self.delivered.is_some()
            || self.open.is_some()
            || self.click.is_some()
            || self.complaint.is_some()
            || self.unsubscribe.is_some();
        [
            (self.bounce.is_some(), MessageStatus::Bounced),
            (received, MessageStatus::Delivered),
            (self.soft_bounce.is_some(), MessageStatus::SoftBounced),
            (self.deferred.is_some(), MessageStatus::Deferred),
            (self.accepted.is_some(), MessageStatus::Accepted),
        ]
        .into_iter()
        .find_map(|(known, status)| known.then_some(status))
    }

    /// When Sendarix accepted it.
    #[must_use]
    pub fn accepted_at(&self) -> Option<Timestamp> {
        self.accepted
    }

    /// When its delivery was delayed for the last time.
    #[must_use]
    pub fn deferred_at(&self) -> Option<Timestamp> {
        self.deferred
    }

    /// When the recipient's mail server took it; `None` too if only the recipient's own doing tells.
    #[must_use]
    pub fn delivered_at(&self) -> Option<Timestamp> {
        self.delivered
    }

    /// The last failure that was not final.
    #[must_use]
    pub fn soft_bounce(&self) -> Option<&Failure> {
        self.soft_bounce.as_ref()
    }

    /// The failure that is final: do not mail the address again.
    #[must_use]
    pub fn bounce(&self) -> Option<&Failure> {
        self.bounce.as_ref()
    }

    /// When the recipient called it spam.
    #[must_use]
    pub fn complained_at(&self) -> Option<Timestamp> {
        self.complaint
    }

    /// When the recipient unsubscribed.
    #[must_use]
    pub fn unsubscribed_at(&self) -> Option<Timestamp> {
        self.unsubscribe
    }

    /// When it was opened, by a person or by a mail scanner.
    #[must_use]
    pub fn opened(&self) -> Option<Seen> {
        self.open
    }

    /// When a link in it was clicked, by a person or by a mail scanner.
    #[must_use]
    pub fn clicked(&self) -> Option<Seen> {
        self.click
    }
}

/// Keeps one of two, or the only one that there is.
fn keep<T: Clone>(mine: &mut Option<T>, theirs: Option<&T>, choose: impl FnOnce(T, T) -> T) {
    *mine = match (mine.take(), theirs.cloned()) {
        (Some(mine), Some(theirs)) => Some(choose(mine, theirs)),
        (mine, theirs) => mine.or(theirs),
    };
}

/// What one event says of its message.
impl From<&SendarixEvent> for MessageState {
    fn from(event: &SendarixEvent) -> Self {
        let Envelope { timestamp: at, kind, .. } = &**event;
        let (at, seen) = (Some(*at), Some(Seen { first: *at, last: *at }));
        let nothing = Self::default();
        match kind {
            EventKind::Accepted(_) => Self { accepted: at, ..nothing },
            EventKind::Deferred(_) => Self { deferred: at, ..nothing },
            EventKind::Delivered(_) => Self { delivered: at, ..nothing },
            EventKind::Complaint(_) => Self { complaint: at, ..nothing },
            EventKind::Unsubscribe(_) => Self { unsubscribe: at, ..nothing },
            EventKind::Open(_) => Self { open: seen, ..nothing },
            EventKind::Click(_) => Self { click: seen, ..nothing },
            EventKind::SoftBounce(bounce) => {
                let category = bounce.bounce_category.as_ref().map(ToString::to_string);
                let failure = failure(event, category, bounce.smtp_code, bounce.smtp_message.as_ref());
                Self { soft_bounce: Some(failure), ..nothing }
            }
            EventKind::Bounce(bounce) => {
                let category = bounce.bounce_category.as_ref().map(ToString::to_string);
                let failure = Some(failure(event, category, bounce.smtp_code, bounce.smtp_message.as_ref()));
                if bounce.is_permanent() {
                    Self { bounce: failure, ..nothing }
                } else {
                    Self { soft_bounce: failure, ..nothing }
                }
            }
            EventKind::Unknown(_) => nothing,
        }
    }
}

fn failure(
    event: &Envelope,
    category: Option<String>,
    smtp_code: Option<u16>,
    smtp_message: Option<&String>,
) -> Failure {
    Failure { at: event.timestamp, category, smtp_code, smtp_message: smtp_message.cloned() }
}

impl<'a> FromIterator<&'a SendarixEvent> for MessageState {
    fn from_iter<I: IntoIterator<Item = &'a SendarixEvent>>(events: I) -> Self {
        let mut state = Self::default();
        state.extend(events);
        state
    }
}

impl<'a> Extend<&'a SendarixEvent> for MessageState {
    fn extend<I: IntoIterator<Item = &'a SendarixEvent>>(&mut self, events: I) {
        for event in events {
            self.apply(event);
        }
    }
}
