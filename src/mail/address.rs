//! Addresses and message ids in the form in which they are compared.

use std::borrow::Cow;
use std::fmt;

use idna::AsciiDenyList;

use crate::event::{DIGEST_PREFIX, digest_id};

/// An e-mail address in the form in which addresses are compared.
///
/// Case, outer blanks and a display name are left out, and the domain is in its ASCII form. Every text has such a form: what
/// is no address is compared as the text that it is.
///
/// ```
/// use sendarix_webhooks::mail::Address;
///
/// assert_eq!(Address::new("Ann <Ann@Müller.example> "), Address::new("ann@xn--mller-kva.example"));
/// ```
///
/// The part before the `@` is compared as it is written otherwise: `ann+news@…` and `"ann"@…` are other addresses than
/// `ann@…`. An address of more than 320 bytes, the longest of RFC 5321, becomes `sha256:` and the digest of its form. So does a text
/// that begins with `sha256:`, or with `erased:`, as only addresses do that were erased. A NUL, which no database can hold, becomes
/// U+FFFD.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(String);

/// RFC 5321, 4.5.3.1: 64 for the local part, 255 for the domain, and the `@`.
const LONGEST_ADDRESS: usize = 320;

/// What the form of an erased address begins with, and no other one.
pub(crate) const ERASED: &str = "erased:";

/// What comes behind every erased address in the order of bytes: in ASCII, `;` comes after `:`.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) const ERASED_END: &str = "erased;";

/// As long as an event's id may be.
const LONGEST_ID: usize = 255;

/// No domain is longer (RFC 1035, 2.3.4), in Unicode neither: a longer text is compared as it is.
const LONGEST_DOMAIN: usize = 1024;

impl Address {
    /// The form of this address.
    pub fn new(address: impl AsRef<str>) -> Self {
        let address = without_display_name(address.as_ref().trim());
        let lowercase = address.to_lowercase();
        let compared = match address.rsplit_once('@') {
            // An ASCII domain is its own ASCII form, unless a label of it is encoded.
            Some((local, domain)) if !address.is_ascii() || lowercase.contains("xn--") => {
                format!("{}@{}", local.to_lowercase(), ascii_domain(domain))
            }
            _ => lowercase,
        };
        let longest = if compared.starts_with(ERASED) { 0 } else { LONGEST_ADDRESS };
        Self(bounded(compared, longest))
    }

    /// A form that was kept.
    pub(crate) fn kept(form: String) -> Self {
        Self(form)
    }

    /// The form as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A message's id, or the digest of one that is longer than an event's may be.
pub(crate) fn message_key(message_id: &str) -> String {
    bounded(message_id.to_owned(), LONGEST_ID)
}

/// A text that fits an index of every database.
pub(super) fn bounded(text: String, longest: usize) -> String {
    let text = if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text };
    // One that looks like a digest must not stand for another text.
    if text.len() > longest || text.starts_with(DIGEST_PREFIX) { digest_id(text.as_bytes()) } else { text }
}

/// `ann@example.com` of `Ann <ann@example.com>`.
fn without_display_name(address: &str) -> &str {
    let within = address.strip_suffix('>').and_then(|rest| rest.rsplit_once('<'));
    within.map_or(address, |(_, address)| address.trim())
}

fn ascii_domain(domain: &str) -> String {
    let ascii = if domain.len() <= LONGEST_DOMAIN {
        idna::domain_to_ascii_cow(domain.as_bytes(), AsciiDenyList::EMPTY).ok()
    } else {
        None
    };
    ascii.map_or_else(|| domain.to_lowercase(), Cow::into_owned)
}

impl<T: AsRef<str>> From<T> for Address {
    fn from(address: T) -> Self {
        Self::new(address)
    }
}

impl From<&Address> for Address {
    fn from(address: &Address) -> Self {
        address.clone()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ascii_domain_is_its_own_ascii_form() {
        for byte in 0..128 {
            for domain in [format!("A{}b.Example", char::from(byte)), format!("{}", char::from(byte))] {
                assert_eq!(ascii_domain(&domain), domain.to_lowercase(), "{domain:?}");
            }
        }
    }
}
