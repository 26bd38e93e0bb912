//! Digests of event keys, and a hash map by digest.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

use super::EventKey;
use super::platform::RandomState;

/// A digest of an [`EventKey`] under random keys of the store: words rather than one number, because the alignment of a
/// `u128` would pad every entry of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest([u32; 4]);

impl Digest {
    /// The index of the shard that the event belongs to.
    pub(super) fn shard(self, shards: usize) -> usize {
        self.0[0] as usize % shards
    }
}

/// Two 64-bit hashes under different keys.
#[derive(Debug, Default)]
pub(super) struct Digester(RandomState, RandomState);

impl Digester {
    #[expect(clippy::cast_possible_truncation, reason = "each hash is cut into its two halves")]
    pub(super) fn digest(&self, key: &EventKey) -> Digest {
        let (a, b) = (self.0.hash_one(key), self.1.hash_one(key));
        Digest([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32])
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
