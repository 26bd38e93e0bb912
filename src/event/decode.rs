//! From the verified bytes to an event: the strict envelope around the lenient `data`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::Timestamp;
use super::fields::{Fields, Name, has_nul, text};

/// The longest `event_id`, in bytes, that is kept as it was sent. It bounds what a dedup store keeps for an event.
pub(super) const MAX_EVENT_ID_BYTES: usize = 255;

/// Both envelopes in one, borrowed from the body: the simplified one names the type `event` and has neither `event_id`
/// nor `data`.
pub(super) struct Envelope<'a> {
    /// `None` where the body itself has to name the event.
    pub(super) event_id: Option<String>,
    pub(super) event_type: Cow<'a, str>,
    pub(super) timestamp: Timestamp,
    pub(super) message_id: String,
    pub(super) recipient: String,
    pub(super) data: Fields<'a>,
    /// `data` is there, and neither an object nor `null`.
    pub(super) data_is_no_object: bool,
}

impl<'a> Envelope<'a> {
    pub(super) fn read(body: &'a [u8]) -> Result<Self, DecodeError> {
        let text = std::str::from_utf8(body).map_err(|error| DecodeError::not_utf8(body, error.valid_up_to()))?;
        let text = without_mark(text);
        if !text.trim_ascii_start().starts_with('{') {
            return Err(DecodeError::new(DecodeErrorKind::Envelope, "the body is not a JSON object"));
        }
        match serde_json::from_str(text) {
            Ok(members) => Self::new(members, false),
            // Only `data` that is no object can fail by itself, and costs nothing but itself.
            Err(_) => Self::new(Members::without_data(text)?, true),
        }
    }

    fn new(members: Members<'a, Fields<'a>>, data_is_no_object: bool) -> Result<Self, DecodeError> {
        if let Some(name) = members.twice {
            return Err(DecodeError::of_member(name, format_args!("is there twice")));
        }
        let event_type = match (unless_null(members.event_type), members.event) {
            (None, Some(json)) => required("event", Some(json))?,
            (json, _) => required("event_type", json)?,
        };
        let timestamp = unless_null(members.timestamp).ok_or_else(|| missing("timestamp"))?;
        let timestamp = Timestamp::from_json(timestamp)
            .map_err(|error| DecodeError::of_member("timestamp", format_args!("is {error}")))?;
        Ok(Self {
            event_id: members.event_id.map_or(Ok(None), event_id)?,
            event_type,
            timestamp,
            message_id: required("message_id", members.message_id)?.into_owned(),
            recipient: required("recipient", members.recipient)?.into_owned(),
            data: members.data.unwrap_or_default(),
            data_is_no_object,
        })
    }
}

/// The text of a member without which there is no event.
fn required<'a>(name: &'static str, json: Option<&'a str>) -> Result<Cow<'a, str>, DecodeError> {
    let json = unless_null(json).ok_or_else(|| missing(name))?;
    let text =
        text(json).ok_or_else(|| DecodeError::of_member(name, format_args!("is not a text that can be read")))?;
    without_nul(name, text)
}

/// A member that is `null` is missing.
fn unless_null(json: Option<&str>) -> Option<&str> {
    json.filter(|json| *json != "null")
}

fn missing(name: &'static str) -> DecodeError {
    DecodeError::of_member(name, format_args!("is missing"))
}

/// No address and no id has a NUL, and databases refuse it.
fn without_nul<'a>(name: &'static str, text: Cow<'a, str>) -> Result<Cow<'a, str>, DecodeError> {
    if has_nul(&text) {
        return Err(DecodeError::of_member(name, format_args!("has a NUL character in it")));
    }
    Ok(text)
}

/// The id that a member `event_id` gives: a text, or the text of a number. Anything else names no event.
fn event_id(json: &str) -> Result<Option<String>, DecodeError> {
    let is_number = json.starts_with(|first: char| first.is_ascii_digit() || first == '-');
    let Some(id) = text(json).or(is_number.then_some(Cow::Borrowed(json))) else { return Ok(None) };
    let id = without_nul("event_id", id)?;
    Ok(match id.len() {
        0 => None,
        // One that looks like a digest must not stand for another event's body.
        1..=MAX_EVENT_ID_BYTES if !id.starts_with(DIGEST_PREFIX) => Some(id.into_owned()),
        _ => Some(digest_id(id.as_bytes())),
    })
}

/// The id of a body that has none, or whose id is too long: a digest.
pub(crate) fn digest_id(bytes: &[u8]) -> String {
    format!("{DIGEST_PREFIX}{}", const_hex::encode(Sha256::digest(bytes)))
}

pub(crate) const DIGEST_PREFIX: &str = "sha256:";

/// The members of an envelope, as JSON texts that have not been read yet, but for `data`.
struct Members<'a, D> {
    event_id: Option<&'a str>,
    event_type: Option<&'a str>,
    event: Option<&'a str>,
    timestamp: Option<&'a str>,
    message_id: Option<&'a str>,
    recipient: Option<&'a str>,
    data: Option<D>,
    /// A member that is there twice, which is ambiguous: readers of JSON differ in which one counts.
    twice: Option<&'static str>,
}

impl<D> Default for Members<'_, D> {
    fn default() -> Self {
        let (event_id, event_type, event, timestamp) = (None, None, None, None);
        Self { event_id, event_type, event, timestamp, message_id: None, recipient: None, data: None, twice: None }
    }
}

impl<'a> Members<'a, Fields<'a>> {
    /// Leaves out `data`, which is no object.
    fn without_data(text: &'a str) -> Result<Self, DecodeError> {
        let Members { event_id, event_type, event, timestamp, message_id, recipient, twice, .. } =
            serde_json::from_str::<Members<'_, &RawValue>>(text).map_err(|error| DecodeError::json(&error))?;
        Ok(Self { event_id, event_type, event, timestamp, message_id, recipient, data: None, twice })
    }
}

impl<'de: 'a, 'a, D: Deserialize<'de>> Deserialize<'de> for Members<'a, D> {
    fn deserialize<De: Deserializer<'de>>(deserializer: De) -> Result<Self, De::Error> {
        struct MembersVisitor<D>(PhantomData<D>);

        impl<'de, D: Deserialize<'de>> Visitor<'de> for MembersVisitor<D> {
            type Value = Members<'de, D>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::default();
                while let Some(Name(name)) = map.next_key()? {
                    if *name == *b"data" {
                        if members.data.replace(map.next_value()?).is_some() {
                            members.twice = Some("data");
                        }
                        continue;
                    }
                    let json = map.next_value::<&RawValue>()?.get();
                    let (name, place) = match &*name {
                        b"event_id" => ("event_id", &mut members.event_id),
                        b"event_type" => ("event_type", &mut members.event_type),
                        b"event" => ("event", &mut members.event),
                        b"timestamp" => ("timestamp", &mut members.timestamp),
                        b"message_id" => ("message_id", &mut members.message_id),
                        b"recipient" => ("recipient", &mut members.recipient),
                        _ => continue,
                    };
                    if place.replace(json).is_some() {
                        members.twice = Some(name);
                    }
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(MembersVisitor(PhantomData))
    }
}

/// The text of `data` alone, as sent.
pub(super) fn raw_data(body: &[u8]) -> Option<&str> {
    serde_json::from_str::<Members<'_, &RawValue>>(json(body)?).ok()?.data.map(RawValue::get)
}

/// The JSON that a body is.
pub(super) fn json(body: &[u8]) -> Option<&str> {
    std::str::from_utf8(body).ok().map(without_mark)
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
    member: Option<&'static str>,
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

    /// The member of the envelope that is missing or wrong, if it is one. Then the text of the error quotes nothing of the
    /// body.
    #[must_use]
    pub fn member(&self) -> Option<&'static str> {
        self.member
    }

    fn new(kind: DecodeErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), place: None, member: None }
    }

    fn of_member(name: &'static str, what: fmt::Arguments<'_>) -> Self {
        Self { member: Some(name), ..Self::new(DecodeErrorKind::Envelope, format!("`{name}` {what}")) }
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
