//! The name of an event in a store.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::LazyLock;

/// What names an event in a store: the endpoint that received it, and its id.
///
/// The endpoint is the receiver's own name for itself, so that staging and production share nothing in one store. A
/// secret or an unsigned header is never part of it.
#[derive(Clone, PartialEq, Eq)]
pub struct EventKey {
    /// The endpoint and the id as one text: one piece of memory, and one to hash.
    text: Box<str>,
    endpoint_length: usize,
    /// Computed once, since a store in memory needs it at the claim and at its end.
    digest: [u64; 2],
}

impl EventKey {
    /// The key of that endpoint's event.
    pub fn new(endpoint: impl AsRef<str>, event_id: impl AsRef<str>) -> Self {
        let (endpoint, event_id) = (endpoint.as_ref(), event_id.as_ref());
        /// Two 64-bit hashes under different keys.
        static HASHERS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);
        let (text, endpoint_length): (Box<str>, _) = ([endpoint, event_id].concat().into(), endpoint.len());
        // Of ("ab", "c") and ("a", "bc"), the lengths differ.
        let digest = HASHERS.each_ref().map(|hasher| hasher.hash_one((text.as_bytes(), endpoint_length)));
        Self { text, endpoint_length, digest }
    }

    /// The receiver's name: 1 to 64 letters, digits, `.`, `_` or `-`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.parts().0
    }

    /// The event's id: 1 to 255 bytes of UTF-8, without a NUL.
    #[must_use]
    pub fn event_id(&self) -> &str {
        self.parts().1
    }

    /// A digest of both under keys that are random for each process: what a store in memory can keep in their place.
    ///
    /// An attacker cannot choose two events that share one. That any two of n events do has a probability of n² / 2¹²⁹.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let [high, low] = self.digest;
        u128::from(high) << 64 | u128::from(low)
    }

    fn parts(&self) -> (&str, &str) {
        self.text.split_at(self.endpoint_length)
    }
}

/// The text needs no mark of its end: the number that follows it has a fixed size.
impl Hash for EventKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.text.as_bytes());
        state.write_usize(self.endpoint_length);
    }
}

/// By endpoint, then by id.
impl Ord for EventKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl PartialOrd for EventKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoint, event_id) = self.parts();
        f.debug_struct("EventKey").field("endpoint", &endpoint).field("event_id", &event_id).finish()
    }
}
