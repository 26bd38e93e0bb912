//! Digests of event keys, and a hash map by digest.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use super::EventKey;

/// The digest of an [`EventKey`]: words rather than one number, because the alignment of a `u128` would pad every entry of a
/// map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest([u32; 4]);

impl Digest {
    #[expect(clippy::cast_possible_truncation, reason = "it is cut into its words")]
    pub(super) fn of(key: &EventKey) -> Self {
        let digest = key.digest();
        Self([0, 32, 64, 96].map(|bits| (digest >> bits) as u32))
    }

    /// The index of the shard that the event belongs to.
    pub(super) fn shard(self, shards: usize) -> usize {
        self.0[0] as usize % shards
    }
}

/// A digest is its own hash. The first word has already chosen the shard.
impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [_, _, low, high] = self.0;
        state.write_u64(u64::from(high) << 32 | u64::from(low));
    }
}

pub(super) type DigestMap<V> = HashMap<Digest, V, BuildHasherDefault<DigestHasher>>;

#[derive(Default)]
pub(super) struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
