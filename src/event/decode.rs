//! From the verified bytes to an event: the strict envelope around the lenient `data`.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::Timestamp;
use super::fields::Fields;

/// The longest `event_id`, in bytes, that is taken for one. It bounds what a dedup store keeps for an event.
pub(super) const MAX_EVENT_ID_BYTES: usize = 255;

/// Both envelopes in one, borrowed from the body: the simplified one names the type `event` and has neither `event_id`
/// nor `data`.
#[derive(Deserialize)]
pub(super) struct RawEnvelope<'a, D> {
    #[serde(default)]
    pub(super) event_id: Option<String>,
    #[serde(borrow, alias = "event")]
    pub(super) event_type: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: &'a RawValue,
    pub(super) message_id: String,
    pub(super) recipient: String,
    #[serde(default)]
    pub(super) data: D,
}

impl<'a> RawEnvelope<'a, Fields<'a>> {
    pub(super) fn read(body: &'a [u8]) -> Result<(Self, Timestamp), DecodeError> {
        let text = std::str::from_utf8(body).map_err(|error| DecodeError::not_utf8(body, error.valid_up_to()))?;
        let text = without_mark(text);
        // A derived struct would read an array as well, by position.
        if !text.trim_ascii_start().starts_with('{') {
            return Err(DecodeError::new(DecodeErrorKind::Envelope, "the body is not a JSON object"));
        }
        let envelope: Self = serde_json::from_str(text).or_else(|_| Self::read_without_data(text))?;
        let timestamp = Timestamp::from_json(envelope.timestamp.get())
            .map_err(|error| DecodeError::new(DecodeErrorKind::Envelope, format!("`timestamp` is {error}")))?;
        if envelope.event_id.as_ref().is_some_and(|id| id.len() > MAX_EVENT_ID_BYTES) {
            let message = format!("`event_id` is longer than {MAX_EVENT_ID_BYTES} bytes");
            return Err(DecodeError::new(DecodeErrorKind::Envelope, message));
        }
        Ok((envelope, timestamp))
    }

    /// Reads an envelope whose data is JSON by its grammar and yet cannot be read, such as half a surrogate pair. The
    /// event is worth more than its data.
    fn read_without_data(text: &'a str) -> Result<Self, DecodeError> {
        let RawEnvelope { event_id, event_type, timestamp, message_id, recipient, data: IgnoredAny } =
            serde_json::from_str(text).map_err(|error| DecodeError::json(&error))?;
        Ok(Self { event_id, event_type, timestamp, message_id, recipient, data: Fields::default() })
    }
}

/// The text of `data` alone, as sent.
pub(super) fn raw_data(body: &[u8]) -> Option<&str> {
    #[derive(Deserialize)]
    struct DataOnly<'a> {
        #[serde(borrow)]
        data: &'a RawValue,
    }

    let text = without_mark(std::str::from_utf8(body).ok()?);
    serde_json::from_str::<DataOnly<'_>>(text).ok().map(|envelope| envelope.data.get())
}

/// RFC 8259, section 8.1: a parser may ignore a byte-order mark. One would otherwise cost an authentic event.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Why an authentic body is no event.
///
/// Such a body is kept as a dead letter and acknowledged: sending it again cannot help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    kind: DecodeErrorKind,
    message: String,
    place: Option<Place>,
}

/// Where in the body a [`DecodeError`] was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The line, counted from 1.
    pub line: usize,
    /// The column in bytes, counted from 1; 0 where the line before it ended too early.
    pub column: usize,
}

/// What is wrong with a body that is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The bytes are not UTF-8: compressed, encrypted or another encoding.
    NotUtf8,
    /// The text is not JSON, or ends too early.
    NotJson,
    /// The JSON is not an event: a part of the envelope is missing, doubled or of another type.
    Envelope,
}

impl DecodeError {
    /// What is wrong, for a decision or a label.
    #[must_use]
    pub fn kind(&self) -> DecodeErrorKind {
        self.kind
    }

    /// Where it was noticed, if it was at one place.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    fn new(kind: DecodeErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), place: None }
    }

    pub(super) fn json(error: &serde_json::Error) -> Self {
        let kind = if error.is_data() { DecodeErrorKind::Envelope } else { DecodeErrorKind::NotJson };
        Self { place: Some(Place { line: error.line(), column: error.column() }), ..Self::new(kind, error.to_string()) }
    }

    fn not_utf8(body: &[u8], valid_up_to: usize) -> Self {
        let gzip = if body.starts_with(&[0x1f, 0x8b]) { "; it looks like gzip" } else { "" };
        Self::new(DecodeErrorKind::NotUtf8, format!("the body is not UTF-8 after its first {valid_up_to} bytes{gzip}"))
    }
}

/// May quote a number or a name from the body.
impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl fmt::Display for DecodeErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotUtf8 => "not UTF-8",
            Self::NotJson => "not JSON",
            Self::Envelope => "not an event",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}", self.line, self.column)
    }
}
