//! The part of a request that is judged before its body is read.

use std::fmt;

use super::Signature;
use crate::contract::{SIGNATURE_HEADER, TIMESTAMP_HEADER};
use crate::outcome::{Outcome, RefusalKind};

/// What the receiver reads of a request's head, whatever the framework.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    pub(crate) method: &'a str,
    pub(super) signature: Header<'a>,
    pub(super) timestamp: Header<'a>,
    content_length: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Header<'a> {
    Missing,
    Once(&'a [u8]),
    Repeated,
}

impl<'a> Head<'a> {
    /// Takes the method and all headers, in any case and order; a header that stands twice must come twice.
    pub fn new(method: &'a str, headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut head = Self { method, signature: Header::Missing, timestamp: Header::Missing, content_length: None };
        for (name, value) in headers {
            if name.eq_ignore_ascii_case(SIGNATURE_HEADER) {
                head.signature.add(value);
            } else if name.eq_ignore_ascii_case(TIMESTAMP_HEADER) {
                head.timestamp.add(value);
            } else if name.eq_ignore_ascii_case("content-length") {
                head.content_length = Some(value);
            }
        }
        head
    }

    /// What the head says of the body's length. The server judges one that cannot be read; the body itself is counted.
    pub(crate) fn content_length(&self) -> Option<u64> {
        str::from_utf8(self.content_length?).ok()?.parse().ok()
    }
}

/// What the log says beside the reason of a refusal. It is made only where the line is written: requests that cost nothing
/// to send must cost little to refuse.
#[derive(Debug)]
pub(crate) enum Detail<'a> {
    /// What the header looks like instead of a signature.
    Signature(&'a [u8]),
    /// Beside the time of the line, it shows by how much a clock is wrong.
    Timestamp(Header<'a>),
}

impl Head<'_> {
    /// The detail of a refusal by a header.
    pub(crate) fn detail(&self, refusal: RefusalKind) -> Option<Detail<'_>> {
        match (refusal.outcome(), self.signature) {
            (Outcome::Stale, _) => Some(Detail::Timestamp(self.timestamp)),
            (_, Header::Once(value)) => Some(Detail::Signature(value)),
            (_, Header::Missing | Header::Repeated) => None,
        }
    }
}

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature(value) => Signature::parse(value).err().map_or(Ok(()), |error| error.fmt(f)),
            Self::Timestamp(header) => header.fmt(f),
        }
    }
}

impl<'a> Header<'a> {
    fn add(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::Missing => Self::Once(value),
            Self::Once(_) | Self::Repeated => Self::Repeated,
        };
    }

    pub(super) fn single(self, missing: RefusalKind, repeated: RefusalKind) -> Result<&'a [u8], RefusalKind> {
        match self {
            Self::Once(value) => Ok(value),
            Self::Missing => Err(missing),
            Self::Repeated => Err(repeated),
        }
    }
}

impl fmt::Display for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Once(value) => f.write_str(&String::from_utf8_lossy(value)),
            Self::Repeated => f.write_str("repeated"),
        }
    }
}
