//! The typed event, read from bytes whose signature has been proven.
//!
//! The envelope is strict: without type, timestamp, message id and recipient there is no event, only a
//! [`DecodeError`]. The `data` inside is lenient: see [`EventKind`].

mod cloud_event;
mod decode;
mod fields;
mod key;
mod kind;
mod suppression;
mod timestamp;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[cfg(feature = "mail")]
pub(crate) use self::decode::DIGEST_PREFIX;
pub(crate) use self::decode::digest_id;

pub use self::cloud_event::CloudEvent;
pub use self::decode::{DecodeError, DecodeErrorKind, Place};
pub use self::key::EventKey;
pub use self::kind::{
    Accepted, Bounce, BounceCategory, BounceType, Click, Complaint, ComplaintType, Deferred, Delivered, EventKind,
    EventType, FeedbackType, Open, SoftBounce, Unknown, Unsubscribe,
};
pub use self::suppression::Suppression;
pub use self::timestamp::{Timestamp, TimestampError};

/// One Sendarix event. Cheap to clone: all clones share one allocation and the request's own body.
///
/// Its fields are those of [`Envelope`], to which it dereferences.
///
/// ```
/// use sendarix_webhooks::{EventKind, SendarixEvent};
///
/// let event = SendarixEvent::decode(
///     br#"{"event_id":"evt_1","event_type":"bounce","timestamp":"2026-04-19T14:30:45Z",
///          "message_id":"msg_1","recipient":"gone@example.com","data":{"bounce_type":"hard"}}"#
///         .as_slice(),
/// )?;
/// assert_eq!(event.recipient, "gone@example.com");
/// assert!(matches!(&event.kind, EventKind::Bounce(bounce) if bounce.is_permanent()));
/// # Ok::<(), sendarix_webhooks::DecodeError>(())
/// ```
///
/// # In a queue
///
/// It serializes to `{"body": "…"}`, the exact text that was signed, and is decoded again when it is deserialized. So
/// nothing is lost on the way, in any format, and what one version of this crate wrote every later one reads.
#[derive(Clone, Debug, PartialEq)]
pub struct SendarixEvent(Arc<Envelope>);

/// What every event has in common, and its [`kind`](Self::kind).
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Envelope {
    /// Names this event among all events of all types; the key of deduplication.
    ///
    /// An event without one (the simplified envelope, an empty id, or one that is neither a text nor a number) gets
    /// `sha256:` and the hex digest of its signed body. Then two events that do not differ in any byte are one. An id of
    /// more than 255 bytes, or that begins with `sha256:`, becomes `sha256:` and its own digest.
    pub event_id: String,
    /// When it happened, as signed by the sender.
    pub timestamp: Timestamp,
    /// Names the message. Keep state by it, and do not rely on the order in which events arrive.
    pub message_id: String,
    /// The address that the message was sent to, as Sendarix sent it: compare it without case. Personal data.
    pub recipient: String,
    /// What happened.
    pub kind: EventKind,
    data_is_no_object: bool,
    body: Bytes,
}

impl SendarixEvent {
    /// Reads an event from the bytes of a request body.
    ///
    /// This proves nothing about who sent them. The receiver calls it once the signature is proven; call it yourself
    /// for bytes that you trust, such as those of a dead letter.
    ///
    /// # Errors
    ///
    /// The bytes are not UTF-8 or not JSON; the envelope lacks its type, `timestamp`, `message_id` or `recipient`, has a
    /// member twice, or a NUL in one of its texts.
    pub fn decode(body: impl Into<Bytes>) -> Result<Self, DecodeError> {
        let body = body.into();
        let raw = decode::Envelope::read(&body)?;
        let kind = EventKind::read(&raw.event_type, &raw.data);
        let event_id = raw.event_id.unwrap_or_else(|| digest_id(&body));
        let decode::Envelope { timestamp, message_id, recipient, data_is_no_object, .. } = raw;
        Ok(Self(Arc::new(Envelope { event_id, timestamp, message_id, recipient, kind, data_is_no_object, body })))
    }
}

/// The id, or its digest where it has anything but graphic ASCII: for systems that take nothing else.
#[cfg(any(feature = "apalis", feature = "nats"))]
pub(crate) fn printable_id(event_id: &str) -> std::borrow::Cow<'_, str> {
    if event_id.bytes().all(|byte| byte.is_ascii_graphic()) {
        event_id.into()
    } else {
        digest_id(event_id.as_bytes()).into()
    }
}

impl Envelope {
    /// The name of the event's type on the wire, such as `soft_bounce`, known or unknown.
    #[must_use]
    pub fn type_name(&self) -> &str {
        match &self.kind {
            EventKind::Unknown(unknown) => &unknown.event_type,
            known => known.event_type().map_or("", EventType::as_str),
        }
    }

    /// Whether `data` is there, and neither an object nor `null`, so that nothing could be read from it.
    pub(crate) fn data_is_no_object(&self) -> bool {
        self.data_is_no_object
    }

    /// Whether delivery to this address failed for good: see [`Bounce::is_permanent`].
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(&self.kind, EventKind::Bounce(bounce) if bounce.is_permanent())
    }

    /// Why the recipient should not be mailed again, if this event says so.
    #[must_use]
    pub fn suppression(&self) -> Option<Suppression> {
        match &self.kind {
            EventKind::Bounce(bounce) if bounce.is_permanent() => Some(Suppression::PermanentBounce),
            EventKind::Complaint(_) => Some(Suppression::Complaint),
            EventKind::Unsubscribe(_) => Some(Suppression::Unsubscribe),
            _ => None,
        }
    }

    /// The exact bytes that the sender signed.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The JSON text of `data` as sent, with every field that this crate does not know; `None` if there was none. It is
    /// looked up in the body each time.
    #[must_use]
    pub fn data(&self) -> Option<&str> {
        decode::raw_data(&self.body)
    }

    /// Reads `data` into a type of your own, for fields that this crate does not know.
    ///
    /// # Errors
    ///
    /// `data` does not fit the type. Where there is none, it is read as `null`.
    pub fn data_as<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        serde_json::from_str(self.data().unwrap_or("null")).map_err(|error| DecodeError::json(&error))
    }
}

impl Deref for SendarixEvent {
    type Target = Envelope;

    fn deref(&self) -> &Envelope {
        &self.0
    }
}

/// Shows the event with its recipient, and leaves out the body that it was read from.
impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("event_id", &self.event_id)
            .field("timestamp", &self.timestamp)
            .field("message_id", &self.message_id)
            .field("recipient", &self.recipient)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// The serialized form. Fields may be added; `body` keeps its name and meaning for ever.
#[derive(Serialize, Deserialize)]
struct Serialized<T> {
    body: T,
}

impl Serialize for SendarixEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let body = std::str::from_utf8(&self.body).map_err(serde::ser::Error::custom)?;
        Serialized { body }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SendarixEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Serialized { body } = Serialized::<String>::deserialize(deserializer)?;
        Self::decode(body).map_err(serde::de::Error::custom)
    }
}
