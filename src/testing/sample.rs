use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::event::{EventType, Timestamp};

/// An event to send to your own endpoint: of any type, with the documented fields filled in, of now, and with an id that
/// no other sample has.
///
/// ```
/// use sendarix_webhooks::testing::Sample;
/// use sendarix_webhooks::{EventKind, EventType, SendarixEvent};
///
/// let sample = Sample::new(EventType::Bounce).recipient("gone@example.com").data(r#"{"bounce_type":"soft"}"#);
/// let event = SendarixEvent::decode(sample.body())?;
/// assert!(matches!(&event.kind, EventKind::Bounce(bounce) if !bounce.is_permanent()));
/// # Ok::<(), sendarix_webhooks::DecodeError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Sample {
    event_id: String,
    event_type: String,
    timestamp: Timestamp,
    message_id: String,
    recipient: String,
    data: Value,
}

impl Sample {
    /// A sample of a documented type.
    pub fn new(event_type: EventType) -> Self {
        Self { data: data_of(event_type), ..Self::of_unknown_type(event_type.as_str()) }
    }

    /// A sample of any type, with empty `data`.
    pub fn of_unknown_type(event_type: impl Into<String>) -> Self {
        Self {
            event_id: format!("evt_{:016x}", rand::random::<u64>()),
            event_type: event_type.into(),
            timestamp: SystemTime::now().into(),
            message_id: format!("msg_{:08x}", rand::random::<u32>()),
            recipient: "user@example.com".to_owned(),
            data: json!({}),
        }
    }

    /// Gives it this id.
    pub fn event_id(self, event_id: impl Into<String>) -> Self {
        Self { event_id: event_id.into(), ..self }
    }

    /// Makes it an event of this time.
    pub fn timestamp(self, timestamp: impl Into<Timestamp>) -> Self {
        Self { timestamp: timestamp.into(), ..self }
    }

    /// Makes it an event of this message.
    pub fn message_id(self, message_id: impl Into<String>) -> Self {
        Self { message_id: message_id.into(), ..self }
    }

    /// Makes it an event of a message to this address.
    pub fn recipient(self, recipient: impl Into<String>) -> Self {
        Self { recipient: recipient.into(), ..self }
    }

    /// Gives it other data: JSON, or else a JSON string of this text.
    pub fn data(self, json: &str) -> Self {
        Self { data: serde_json::from_str(json).unwrap_or_else(|_| json.into()), ..self }
    }

    /// The body in the full envelope.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let body = json!({
            "event_id": self.event_id,
            "event_type": self.event_type,
            "timestamp": self.timestamp,
            "message_id": self.message_id,
            "recipient": self.recipient,
            "data": self.data,
        });
        body.to_string().into_bytes()
    }

    /// The body in the simplified envelope, which has no `event_id` and no `data`.
    #[must_use]
    pub fn simplified_body(&self) -> Vec<u8> {
        let body = json!({
            "event": self.event_type,
            "message_id": self.message_id,
            "recipient": self.recipient,
            "timestamp": self.timestamp.unix_seconds(),
        });
        body.to_string().into_bytes()
    }
}

fn data_of(event_type: EventType) -> Value {
    match event_type {
        EventType::Delivered => json!({
            "smtp_response": "250 2.0.0 queued",
            "server": "mx-out-1.example.net",
            "delivery_latency_ms": 840,
        }),
        EventType::Bounce => json!({
            "bounce_type": "hard",
            "bounce_category": "invalid_email",
            "smtp_code": 550,
            "smtp_message": "5.1.1 unknown user",
            "was_automatic": true,
        }),
        EventType::SoftBounce => json!({
            "bounce_type": "soft",
            "smtp_code": 452,
            "smtp_message": "4.2.2 mailbox full",
        }),
        EventType::Complaint => json!({
            "complaint_type": "abuse",
            "feedback_type": "auth-failure",
            "user_agent": "ExampleFeedback/1.0",
        }),
        EventType::Open => json!({
            "ip": "198.51.100.7",
            "user_agent": "Mozilla/5.0",
            "os": "Linux",
            "client": "Thunderbird",
        }),
        EventType::Click => json!({
            "link_id": "lnk_1",
            "url": "https://example.com/welcome",
            "ip": "198.51.100.7",
            "user_agent": "Mozilla/5.0",
            "os": "Linux",
        }),
        // Not documented.
        EventType::Accepted | EventType::Unsubscribe | EventType::Deferred => Value::Object(Map::new()),
    }
}
