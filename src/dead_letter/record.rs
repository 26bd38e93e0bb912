//! The lines of a [journal](super::journal), as JSON.

use std::borrow::Cow;
use std::io;

use serde::{Deserialize, Serialize};

use super::{DeadLetter, DeadLetterReason, History};
use crate::event::{EventKey, Place, Timestamp};
use crate::verify::Signature;

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on its way to a line or from one")]
pub(super) enum Record<'a> {
    #[serde(borrow)]
    Letter(StoredLetter<'a>),
    Resolved {
        #[serde(borrow)]
        endpoint: Cow<'a, str>,
        #[serde(borrow)]
        event_id: Cow<'a, str>,
    },
}

/// Nothing here is flattened: an application may switch on `serde_json`'s `arbitrary_precision`, which breaks that.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredLetter<'a> {
    #[serde(borrow)]
    endpoint: Cow<'a, str>,
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    reason: DeadLetterReason,
    #[serde(borrow)]
    error: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    attempts: u32,
    first_at: Timestamp,
    last_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp_header: Option<u64>,
    /// The body if it is text, so that it can be read in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The body if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_hex: Option<String>,
}

impl<'a> Record<'a> {
    /// The first bytes of every line.
    pub(super) const STARTS: [&'static [u8]; 2] = [b"{\"letter\":", b"{\"resolved\":"];

    pub(super) fn read(line: &'a [u8]) -> io::Result<Self> {
        from_json(line)
    }

    pub(super) fn append_to(&self, text: &mut Vec<u8>) -> serde_json::Result<()> {
        serde_json::to_writer(&mut *text, self)?;
        text.push(b'\n');
        Ok(())
    }
}

/// Fails with the place alone: `serde_json`'s own text may quote a recipient, and this one is logged.
fn from_json<'a, T: Deserialize<'a>>(json: &'a [u8]) -> io::Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        io::Error::other(format!("the JSON is not a letter: line {} column {}", error.line(), error.column()))
    })
}

impl<'a> StoredLetter<'a> {
    #[cfg(feature = "redis")]
    pub(crate) fn read(json: &'a [u8]) -> io::Result<Self> {
        from_json(json)
    }

    pub(crate) fn new(letter: &'a DeadLetter) -> Self {
        let (body, body_hex) = match std::str::from_utf8(&letter.body) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(const_hex::encode(&letter.body))),
        };
        Self {
            endpoint: letter.key.endpoint().into(),
            event_id: letter.key.event_id().into(),
            reason: letter.reason.clone(),
            error: letter.error.as_str().into(),
            line: letter.place.map(|place| place.line),
            column: letter.place.map(|place| place.column),
            attempts: letter.attempts,
            first_at: letter.first_at,
            last_at: letter.last_at,
            signature: letter.signature.map(|signature| signature.to_string()),
            timestamp_header: letter.timestamp_header,
            body,
            body_hex,
        }
    }

    pub(super) fn history(&self) -> History {
        History { attempts: self.attempts, first_at: self.first_at, reason: self.reason.clone() }
    }

    pub(super) fn key(&self) -> EventKey {
        EventKey::new(self.endpoint.as_ref(), self.event_id.as_ref())
    }
}

impl TryFrom<StoredLetter<'_>> for DeadLetter {
    type Error = io::Error;

    fn try_from(stored: StoredLetter<'_>) -> io::Result<Self> {
        let signature = stored.signature.as_deref().map(|text| Signature::parse(text.as_bytes())).transpose();
        Ok(Self {
            key: stored.key(),
            body: match (stored.body, stored.body_hex) {
                (Some(text), _) => text.into(),
                (None, Some(hex)) => const_hex::decode(hex).map_err(io::Error::other)?.into(),
                (None, None) => return Err(io::Error::other("the letter has no body")),
            },
            signature: signature.map_err(io::Error::other)?,
            timestamp_header: stored.timestamp_header,
            reason: stored.reason,
            error: stored.error.into_owned(),
            place: stored.line.zip(stored.column).map(|(line, column)| Place { line, column }),
            attempts: stored.attempts,
            first_at: stored.first_at,
            last_at: stored.last_at,
        })
    }
}
