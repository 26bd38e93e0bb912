//! The signature header, parsed once into the 32 bytes that it stands for.

use std::fmt;
use std::ops::BitAnd;

use subtle::{Choice, ConstantTimeEq};

/// The value of an `X-Sendarix-Signature` header: HMAC-SHA256 of the raw body, as 64 hex digits.
///
/// It exists only in full length: comparing a shorter one can never succeed by accident.
#[derive(Clone, Copy, Eq)]
pub struct Signature(pub(super) [u8; 32]);

/// Takes the same time wherever the two differ.
impl PartialEq for Signature {
    fn eq(&self, other: &Self) -> bool {
        self.equals(other).into()
    }
}

impl Signature {
    /// Compares in constant time, by words: subtle puts a barrier after each comparison.
    pub(super) fn equals(&self, other: &Self) -> Choice {
        let (ours, theirs) = (self.0.as_chunks().0, other.0.as_chunks().0);
        let words = ours.iter().zip(theirs).map(|(a, b)| u64::from_ne_bytes(*a).ct_eq(&u64::from_ne_bytes(*b)));
        words.fold(Choice::from(1), BitAnd::bitand)
    }

    /// Reads a header's value. Upper-case digits are taken as well; Sendarix sends lower-case ones.
    ///
    /// # Errors
    ///
    /// The value is anything but 64 hex digits; the error says what it looks like instead.
    pub fn parse(header: &[u8]) -> Result<Self, SignatureError> {
        // The decoder skips a `0x` prefix, which in this length leaves it too few digits.
        if header.len() != 64 {
            return Err(SignatureError::diagnose(header));
        }
        const_hex::decode_to_array(header).map(Self).map_err(|_| SignatureError::diagnose(header))
    }
}

/// The signature as Sendarix writes it: 64 lower-case hex digits.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(const_hex::Buffer::<32>::new().format(&self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

/// Why a header's value is no [`Signature`]. It says what to look for, and goes to the log, never to the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// There is nothing in the header.
    #[error("the header is empty")]
    Empty,
    /// Two headers were folded into one on the way, or several signatures were sent.
    #[error("the header holds a list; a proxy may have joined two headers")]
    List,
    /// The value names its algorithm first, as other providers do.
    #[error("the header has a `sha256=` prefix; Sendarix sends the bare hex digits, so look for what adds it")]
    Prefixed,
    /// There is white space around the value. HTTP/1 takes it off; in HTTP/2 it is a part of the value.
    #[error("the header has white space around its value; look for what adds it")]
    WhiteSpace,
    /// The value is 43 or 44 characters of base64 or base64url, as other providers send.
    #[error("the header holds base64; Sendarix sends hex, so look for what re-encodes it")]
    Base64,
    /// The value has another length than 64.
    #[error("the header has {0} bytes instead of 64; {hint}", hint = if *_0 < 64 { "it may have been cut" } else { "look for what adds to it" })]
    Length(usize),
    /// A character is no hex digit.
    #[error("the header holds a character that is no hex digit")]
    NotHex,
}

impl SignatureError {
    fn diagnose(header: &[u8]) -> Self {
        let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(byte);
        if header.is_empty() {
            Self::Empty
        } else if header.trim_ascii() != header {
            Self::WhiteSpace
        } else if header.contains(&b',') {
            Self::List
        } else if header.get(..7).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"sha256=")) {
            Self::Prefixed
        } else if matches!(header.len(), 43 | 44) && header.iter().all(is_base64) {
            Self::Base64
        } else if header.len() != 64 {
            Self::Length(header.len())
        } else {
            Self::NotHex
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "00ff0123456789abcdef00ff0123456789abcdef00ff0123456789abcdef0a0b";

    #[test]
    fn reads_64_hex_digits_of_either_case() {
        let signature = Signature::parse(HEX.as_bytes()).unwrap();
        assert_eq!(signature.to_string(), HEX);
        assert_eq!(Signature::parse(HEX.to_uppercase().as_bytes()), Ok(signature));
        assert_ne!(Signature::parse(HEX.replace('f', "e").as_bytes()), Ok(signature));
        assert_eq!(format!("{signature:?}"), format!("Signature({HEX})"));
    }

    #[test]
    fn says_what_a_wrong_value_looks_like() {
        let base64 = "3q2+7wEjRWeJq83vASNFZ4mrze8BI0VniavN7wEjRWc=";
        let base64url = "3q2-7wEjRWeJq83vASNFZ4mrze8BI0VniavN7wEjRWc";
        let cases: [(&[u8], SignatureError); 11] = [
            (b"", SignatureError::Empty),
            (&HEX.as_bytes()[1..], SignatureError::Length(63)),
            (b"v1,", SignatureError::List),
            (base64.as_bytes(), SignatureError::Base64),
            (base64url.as_bytes(), SignatureError::Base64),
            (&[0xff; 64], SignatureError::NotHex),
            (&[b'g'; 64], SignatureError::NotHex),
            (&[b'0'; 65], SignatureError::Length(65)),
            (b" ", SignatureError::WhiteSpace),
            (&[HEX.as_bytes(), b"\t"].concat(), SignatureError::WhiteSpace),
            (b"SHA256=00", SignatureError::Prefixed),
        ];
        for (header, error) in cases {
            assert_eq!(Signature::parse(header), Err(error), "{header:?}");
        }
        assert!(SignatureError::Length(63).to_string().contains("cut"));
        assert!(SignatureError::Length(65).to_string().contains("adds to it"));
        // A `0x` prefix in the full length, which hex decoders like to strip.
        assert_eq!(Signature::parse(format!("0x{}", &HEX[2..]).as_bytes()), Err(SignatureError::NotHex));
    }
}
