//! What is known of a message: the sum of its events, whatever their order.
//!
//! Sendarix delivers events in no order and more than once: a complaint may come before the `delivered` of its message, and
//! a `deferred` long after it. [`MessageState`] comes to the same result all the same.

use serde::{Deserialize, Serialize};

use super::Address;
use crate::closed_set::closed_set;
use crate::event::{Envelope, EventKind, SendarixEvent, Timestamp};

/// What is known of one message, folded from its events.
///
/// The result depends on the set of events alone: any order, duplicates, and parts that were folded elsewhere and
/// [merged](Self::merge) come to the same state.
///
/// A [`Mail`](super::Mail) keeps one for each message and recipient. To keep it by yourself, read, apply and write it under a
/// lock: the result is independent of the order only then. Two events of a message that are handled at the same time
/// would otherwise read the same state, and the second write would lose what the first has added.
///
/// ```
/// use sendarix_webhooks::mail::{MessageState, MessageStatus};
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
    pub(crate) accepted: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deferred: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) soft_bounce: Option<Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delivered: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bounce: Option<Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) complaint: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unsubscribe: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) open: Option<Seen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) click: Option<Seen>,
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
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
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

/// What is known of one message to one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The message's id. For one of more than 255 bytes, `sha256:` and its digest.
    pub message_id: String,
    /// The recipient, as addresses are compared.
    pub address: Address,
    /// The recipient as Sendarix sent it first.
    pub recipient: String,
    /// The sum of its events, with times to the microsecond.
    pub state: MessageState,
    /// How many `open` events there were.
    pub opens: u64,
    /// How many `click` events there were.
    pub clicks: u64,
    /// When the newest of its events happened.
    pub last_event_at: Timestamp,
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
        Self::of_fact(Fact::of(event), event.timestamp, failure(event))
    }
}

impl MessageState {
    pub(super) fn of_fact(fact: Option<Fact>, at: Timestamp, failure: Option<Failure>) -> Self {
        let (time, seen) = (Some(at), Some(Seen { first: at, last: at }));
        let nothing = Self::default();
        let Some(fact) = fact else { return nothing };
        match fact {
            Fact::Accepted => Self { accepted: time, ..nothing },
            Fact::Deferred => Self { deferred: time, ..nothing },
            Fact::SoftBounced => Self { soft_bounce: failure, ..nothing },
            Fact::Delivered => Self { delivered: time, ..nothing },
            Fact::Bounced => Self { bounce: failure, ..nothing },
            Fact::Complained => Self { complaint: time, ..nothing },
            Fact::Unsubscribed => Self { unsubscribe: time, ..nothing },
            Fact::Opened => Self { open: seen, ..nothing },
            Fact::Clicked => Self { click: seen, ..nothing },
        }
    }
}

/// What an event says of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    Accepted,
    Deferred,
    SoftBounced,
    Delivered,
    Bounced,
    Complained,
    Unsubscribed,
    Opened,
    Clicked,
}

impl Fact {
    /// `None` for an event of a type that is not documented.
    pub(crate) fn of(event: &Envelope) -> Option<Self> {
        Some(match &event.kind {
            EventKind::Accepted(_) => Self::Accepted,
            EventKind::Deferred(_) => Self::Deferred,
            EventKind::SoftBounce(_) => Self::SoftBounced,
            EventKind::Delivered(_) => Self::Delivered,
            EventKind::Bounce(bounce) if bounce.is_permanent() => Self::Bounced,
            EventKind::Bounce(_) => Self::SoftBounced,
            EventKind::Complaint(_) => Self::Complained,
            EventKind::Unsubscribe(_) => Self::Unsubscribed,
            EventKind::Open(_) => Self::Opened,
            EventKind::Click(_) => Self::Clicked,
            EventKind::Unknown(_) => return None,
        })
    }

    /// Its name in a column.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Deferred => "deferred",
            Self::SoftBounced => "soft_bounced",
            Self::Delivered => "delivered",
            Self::Bounced => "bounced",
            Self::Complained => "complained",
            Self::Unsubscribed => "unsubscribed",
            Self::Opened => "opened",
            Self::Clicked => "clicked",
        }
    }
}

/// How a delivery failed, if the event says that one did.
pub(super) fn failure(event: &Envelope) -> Option<Failure> {
    let (category, smtp_code, smtp_message) = match &event.kind {
        EventKind::SoftBounce(bounce) => (&bounce.bounce_category, bounce.smtp_code, &bounce.smtp_message),
        EventKind::Bounce(bounce) => (&bounce.bounce_category, bounce.smtp_code, &bounce.smtp_message),
        _ => return None,
    };
    let category = category.as_ref().map(ToString::to_string);
    Some(Failure { at: event.timestamp, category, smtp_code, smtp_message: smtp_message.clone() })
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
