//! `MemoryStore` as it was at 624c1b7, without moka and without a bound, but for the digests of keys,
//! which both stores find in the key. `--bench memory` compares the store of today with it.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sendarix_webhooks::store::{Claim, ClaimToken, DedupStore, EventKey, StoreFuture};

/// Remembers events in the memory of this process, for one instance that may forget on a restart.
///
/// What it forgets: after a restart, an event that was handled before is handled again if Sendarix or a load balancer
/// sends it again. Two instances do not see each other's events.
///
/// # Memory
///
/// A completed event takes 24 to 48 bytes, whatever the length of its id; one that failed and does not come again takes
/// twice that. It is remembered for the retention and at most a quarter longer, and the events that come after that give
/// its memory back. The number of them is not bounded: at the default retention of 24 h, 10,000 events a minute around
/// the clock come to 18,000,000 ids.
///
/// Ids are kept as 128-bit digests under keys that are random for each process, so no sender can choose two ids that
/// collide. The probability that any two of 18,000,000 ids do, and an event is taken for a duplicate, is below 10⁻²⁴
/// (n² / 2¹²⁹).
const SHARDS: usize = 64;

pub struct MemoryStore {
    shards: [Mutex<Shard>; SHARDS],
}

/// All that is known of a part of the ids. Every step holds the lock of its id's shard throughout, and so is atomic.
#[derive(Default)]
struct Shard {
    /// Live claims, which nothing but their own end may remove.
    live: DigestMap<Live>,
    completed: Memory<TokenTag>,
    /// The last attempt at each event that failed or was given up, and has not been claimed again.
    ended: Memory<Ended>,
}

#[derive(Clone, Copy)]
struct Live {
    token: ClaimToken,
    attempt: u32,
    until: Instant,
}

#[derive(Clone, Copy)]
struct Ended {
    token: ClaimToken,
    attempt: u32,
    how: HowEnded,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HowEnded {
    Failed,
    GivenUp,
}

/// How long the number of a failed attempt is kept: a day, which is longer than the sender's schedule.
const FAILED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Longer times than this century would overflow a clock.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl MemoryStore {
    /// An empty memory.
    #[must_use]
    pub fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }

    /// The digest of an event's key, and its shard.
    fn lock(&self, key: &EventKey) -> (Digest, MutexGuard<'_, Shard>) {
        let digest = Digest::of(key);
        #[expect(clippy::indexing_slicing, reason = "the remainder is below the length")]
        let shard = &self.shards[digest.0[0] as usize % SHARDS];
        // No step leaves a map half changed, so one that panicked has left nothing behind.
        (digest, shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn claim_now(&self, key: &EventKey, token: ClaimToken, lease: Duration) -> Claim {
        let (digest, mut shard) = self.lock(key);
        let now = Instant::now();
        if shard.completed.get(digest, now).is_some() {
            return Claim::Completed;
        }
        let attempt = match shard.live.get(&digest) {
            Some(owner) if owner.token == token => owner.attempt,
            Some(owner) if owner.until > now => return Claim::InFlight { remaining: owner.until - now },
            Some(late) => late.attempt.saturating_add(1),
            None => match shard.ended.get(digest, now) {
                None => 1,
                Some(Ended { how: HowEnded::GivenUp, .. }) => return Claim::GivenUp,
                Some(Ended { how: HowEnded::Failed, attempt, .. }) => {
                    shard.ended.forget(digest);
                    attempt.saturating_add(1)
                }
            },
        };
        shard.live.insert(digest, Live { token, attempt, until: now + lease.min(LONGEST) });
        Claim::Granted { attempt }
    }

    fn complete_now(&self, key: &EventKey, token: ClaimToken, retention: Duration) -> bool {
        let (digest, mut shard) = self.lock(key);
        let now = Instant::now();
        if shard.live.get(&digest).is_some_and(|owner| owner.token == token) {
            shard.live.remove(&digest);
            shard.completed.insert(digest, TokenTag::of(token), retention, now);
            return true;
        }
        shard.completed.get(digest, now) == Some(TokenTag::of(token))
    }

    /// Ends a claim without the event being handled: for the next delivery, or for good.
    fn end_now(&self, key: &EventKey, token: ClaimToken, how: HowEnded, retention: Duration) -> bool {
        let (digest, mut shard) = self.lock(key);
        let now = Instant::now();
        match shard.live.get(&digest) {
            Some(owner) if owner.token == token => {
                let ended = Ended { token, attempt: owner.attempt, how };
                shard.ended.insert(digest, ended, retention, now);
                shard.live.remove(&digest);
                true
            }
            Some(_) => false,
            None => shard.ended.get(digest, now).is_some_and(|ended| ended.token == token && ended.how == how),
        }
    }

    fn reopen_now(&self, key: &EventKey) {
        let (digest, mut shard) = self.lock(key);
        let now = Instant::now();
        if let Some(ended) = shard.ended.get(digest, now) {
            shard.ended.forget(digest);
            shard.ended.insert(digest, Ended { how: HowEnded::Failed, ..ended }, FAILED_FOR, now);
        }
    }

    fn is_completed_now(&self, key: &EventKey) -> bool {
        let (digest, mut shard) = self.lock(key);
        shard.completed.get(digest, Instant::now()).is_some()
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl DedupStore for MemoryStore {
    fn claim<'a>(&'a self, key: &'a EventKey, token: ClaimToken, lease: Duration) -> StoreFuture<'a, Claim> {
        StoreFuture::ready(Ok(self.claim_now(key, token, lease)))
    }

    fn complete<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::ready(Ok(self.complete_now(key, token, retention)))
    }

    fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool> {
        StoreFuture::ready(Ok(self.end_now(key, token, HowEnded::Failed, FAILED_FOR)))
    }

    fn give_up<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        StoreFuture::ready(Ok(self.end_now(key, token, HowEnded::GivenUp, retention)))
    }

    fn reopen<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        self.reopen_now(key);
        StoreFuture::ready(Ok(()))
    }

    fn is_completed<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, bool> {
        StoreFuture::ready(Ok(self.is_completed_now(key)))
    }
}

/// Shows nothing of what may be millions of ids.
impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

/// Remembers something of each id for a while, in slices of time that are forgotten whole: an expiry for each id would take
/// as much memory as the id. Every lookup forgets first, so that memory does not wait for the next success to be given back.
struct Memory<V>(Vec<Slice<V>>);

/// The ids of a span of time that are remembered equally long, which is the retention of a receiver.
struct Slice<V> {
    retention: Duration,
    /// It takes ids for as long as this leaves each its whole retention.
    forgotten_at: Instant,
    ids: DigestMap<V>,
}

/// A retention spans this many slices, and touches one more. A lookup visits them all; an id is kept for at most one
/// longer than the retention.
const SLICES: u32 = 4;

impl<V: Copy> Memory<V> {
    fn get(&mut self, digest: Digest, now: Instant) -> Option<V> {
        self.0.retain(|slice| now < slice.forgotten_at);
        self.0.iter().find_map(|slice| slice.ids.get(&digest).copied())
    }

    fn insert(&mut self, digest: Digest, value: V, retention: Duration, now: Instant) {
        let retention = retention.min(LONGEST);
        let until = now + retention;
        match self.0.iter_mut().find(|slice| slice.retention == retention && until <= slice.forgotten_at) {
            Some(slice) => {
                slice.ids.insert(digest, value);
            }
            None => {
                let ids = HashMap::from_iter([(digest, value)]);
                self.0.push(Slice { retention, forgotten_at: until + retention / SLICES, ids });
            }
        }
    }

    fn forget(&mut self, digest: Digest) {
        self.0.retain_mut(|slice| {
            slice.ids.remove(&digest);
            !slice.ids.is_empty()
        });
    }
}

impl<V> Default for Memory<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// What is kept of the token that completed an event: enough to know a repeated completion from a late one. The
/// chance to take one for the other is 2⁻³², and all that follows is a takeover that is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TokenTag(u32);

impl TokenTag {
    fn of(token: ClaimToken) -> Self {
        let [a, b, c, d, ..] = token.to_bytes();
        Self(u32::from_be_bytes([a, b, c, d]))
    }
}

/// The digest of an [`EventKey`]: words rather than one number, because the alignment of a `u128` would pad every entry of a
/// map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digest([u32; 4]);

impl Digest {
    #[expect(clippy::cast_possible_truncation, reason = "it is cut into its words")]
    fn of(key: &EventKey) -> Self {
        let digest = key.digest();
        Self([0, 32, 64, 96].map(|bits| (digest >> bits) as u32))
    }
}

/// A digest is its own hash. The first word has already chosen the shard.
impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [_, _, low, high] = self.0;
        state.write_u64(u64::from(high) << 32 | u64::from(low));
    }
}

type DigestMap<V> = HashMap<Digest, V, BuildHasherDefault<DigestHasher>>;

#[derive(Default)]
struct DigestHasher(u64);

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
