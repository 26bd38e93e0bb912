//! An event in the format of `CloudEvents` 1.0.

use serde::Serialize;
use serde_json::value::RawValue;

use super::decode::json;
use super::{SendarixEvent, Timestamp};

/// An event as a [`CloudEvent`](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md) 1.0.
///
/// | attribute | value |
/// |---|---|
/// | `id` | the event's id |
/// | `source` | as given, a URI reference such as `https://app.example/webhooks/sendarix` |
/// | `type` | `com.sendarix.` and the event's type |
/// | `subject` | the message's id, unless it is empty |
/// | `time` | when it happened |
/// | `datacontenttype` | `application/json` |
/// | data | the exact JSON that Sendarix signed, envelope and all |
///
/// ```
/// use sendarix_webhooks::{EventType, SendarixEvent, testing::Sample};
///
/// let event = SendarixEvent::decode(Sample::new(EventType::Bounce).event_id("evt_1").body())?;
/// let cloud_event = event.to_cloud_event("/webhooks/sendarix");
/// assert!(cloud_event.structured().starts_with(r#"{"specversion":"1.0","id":"evt_1","source":"/webhooks/sendarix","#));
/// assert!(cloud_event.binary_headers().contains(&("ce-type", "com.sendarix.bounce".to_owned())));
/// # Ok::<(), sendarix_webhooks::DecodeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct CloudEvent<'a> {
    event: &'a SendarixEvent,
    source: &'a str,
}

impl SendarixEvent {
    /// This event as a `CloudEvent` of this source, a URI reference.
    #[must_use]
    pub fn to_cloud_event<'a>(&'a self, source: &'a str) -> CloudEvent<'a> {
        CloudEvent { event: self, source }
    }
}

impl CloudEvent<'_> {
    /// The media type of the [structured](Self::structured) mode.
    pub const STRUCTURED: &'static str = "application/cloudevents+json";

    /// The structured mode: one JSON document, with the media type [`STRUCTURED`](Self::STRUCTURED).
    #[must_use]
    pub fn structured(&self) -> String {
        #[derive(Serialize)]
        struct Structured<'a> {
            specversion: &'a str,
            id: &'a str,
            source: &'a str,
            r#type: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            subject: Option<&'a str>,
            time: Timestamp,
            datacontenttype: &'a str,
            data: Option<&'a RawValue>,
        }
        let event = self.event;
        let document = Structured {
            specversion: SPEC_VERSION,
            id: &event.event_id,
            source: self.source,
            r#type: self.r#type(),
            subject: self.subject(),
            time: event.timestamp,
            datacontenttype: JSON,
            data: json(event.body()).and_then(|text| serde_json::from_str(text).ok()),
        };
        // Texts, and what was JSON when the event was decoded.
        serde_json::to_string(&document).unwrap_or_default()
    }

    /// The binary mode: the headers that go with the [data](Self::data), percent-encoded as the HTTP binding, 3.1.3.2, wants it. The
    /// bindings for NATS and Kafka use the same names.
    #[must_use]
    pub fn binary_headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("ce-specversion", SPEC_VERSION.to_owned()),
            ("ce-id", encoded(&self.event.event_id)),
            ("ce-source", encoded(self.source)),
            ("ce-type", encoded(&self.r#type())),
            ("ce-time", self.event.timestamp.to_string()),
            ("content-type", JSON.to_owned()),
        ];
        headers.extend(self.subject().map(|subject| ("ce-subject", encoded(subject))));
        headers
    }

    /// The data: the exact bytes that Sendarix signed.
    #[must_use]
    pub fn data(&self) -> &bytes::Bytes {
        self.event.body()
    }

    /// The specification allows no empty one.
    fn subject(&self) -> Option<&str> {
        Some(&*self.event.message_id).filter(|subject| !subject.is_empty())
    }

    fn r#type(&self) -> String {
        format!("com.sendarix.{}", self.event.type_name())
    }
}

const SPEC_VERSION: &str = "1.0";
const JSON: &str = "application/json";

/// Percent-encodes everything but printable ASCII, and of that the blank, the double quote and the percent sign.
fn encoded(value: &str) -> String {
    value.bytes().fold(String::with_capacity(value.len()), |mut encoded, byte| {
        if byte.is_ascii_graphic() && byte != b'"' && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        encoded
    })
}
