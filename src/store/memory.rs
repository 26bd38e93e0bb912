//! The dedup memory of one process.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::Guard;
use moka::Expiry;
use moka::sync::Cache;

use super::primitives::{ArcSwap, Instant, Mutex, MutexGuard, RandomState, SHARDS};
use super::{Claim, ClaimToken, DedupStore, EventKey, StoreFuture};

/// Remembers events in the memory of this process, for one instance that may forget on a restart.
///
/// What it forgets: after a restart, an event that was handled before is handled again if Sendarix or a load balancer
/// sends it again. Two instances do not see each other's events.
///
/// # Memory
///
/// A completed event takes 24 to 48 bytes, whatever the length of its id, and is kept for the retention and at most a
/// quarter longer. The number of them is not bounded: at the default retention of 24 h, 10,000 events a minute around
/// the clock come to 18,000,000 ids.
///
/// Ids are kept as 128-bit digests under a key that is random for each store, so nobody can choose two ids that
/// collide. The probability that any two of 18,000,000 ids do, and an event is taken for a duplicate, is below 10⁻²⁴
/// (n² / 2¹²⁹).
#[derive(Debug)]
pub struct MemoryStore {
    digester: Digester,
    /// Live claims, which nothing but their own end may remove. A step holds the lock of its id's shard throughout, and
    /// so is atomic over everything below as well.
    live: [Mutex<HashMap<Digest, Live, DigestState>>; SHARDS],
    /// The last attempt at each event that failed or was given up, and has not been claimed again.
    ended: Cache<Digest, Ended, DigestState>,
    /// Completed events: one memory for each retention that has been asked for, which is one a receiver.
    completed: ArcSwap<Vec<Arc<Completed>>>,
}

#[derive(Clone, Copy, Debug)]
struct Live {
    token: ClaimToken,
    attempt: u32,
    until: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    token: ClaimToken,
    attempt: u32,
    /// For how long the event counts as handled, if it was given up.
    given_up_for: Option<Duration>,
}

struct EndedExpiry;

impl Expiry<Digest, Ended> for EndedExpiry {
    fn expire_after_create(&self, _: &Digest, ended: &Ended, _: std::time::Instant) -> Option<Duration> {
        Some(ended.given_up_for.map_or(FAILED_FOR, |retention| retention.min(LONGEST)))
    }

    fn expire_after_update(
        &self,
        key: &Digest,
        ended: &Ended,
        now: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, ended, now)
    }
}

/// How long the number of a failed attempt is kept: a day, which is longer than the sender's schedule.
const FAILED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Longer times than this century would overflow a clock.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl MemoryStore {
    /// An empty memory.
    #[must_use]
    pub fn new() -> Self {
        Self {
            digester: Digester::default(),
            live: std::array::from_fn(|_| Mutex::default()),
            ended: Cache::builder().expire_after(EndedExpiry).build_with_hasher(DigestState::default()),
            completed: ArcSwap::default(),
        }
    }

    fn claim_now(&self, key: &EventKey, token: ClaimToken, lease: Duration) -> Claim {
        let digest = self.digester.digest(key);
        let mut live = lock_shard(&self.live, digest);
        let now = Instant::now();
        if self.completed_by(digest, now).is_some() {
            return Claim::Completed;
        }
        let attempt = match live.get(&digest) {
            Some(owner) if owner.token == token => owner.attempt,
            Some(owner) if owner.until > now => return Claim::InFlight { remaining: owner.until - now },
            Some(late) => late.attempt.saturating_add(1),
            None => match self.ended.get(&digest) {
                None => 1,
                Some(Ended { given_up_for: Some(_), .. }) => return Claim::GivenUp,
                Some(failed) => {
                    self.ended.remove(&digest);
                    failed.attempt.saturating_add(1)
                }
            },
        };
        live.insert(digest, Live { token, attempt, until: now + lease.min(LONGEST) });
        Claim::Granted { attempt }
    }

    fn complete_now(&self, key: &EventKey, token: ClaimToken, retention: Duration) -> bool {
        let digest = self.digester.digest(key);
        let mut live = lock_shard(&self.live, digest);
        let now = Instant::now();
        if live.get(&digest).is_some_and(|owner| owner.token == token) {
            live.remove(&digest);
            self.completed_for(retention).insert(digest, token, now);
            return true;
        }
        self.completed_by(digest, now) == Some(TokenTag::of(token))
    }

    /// Ends a claim without the event being handled: for the next delivery, or for good.
    fn end_now(&self, key: &EventKey, token: ClaimToken, given_up_for: Option<Duration>) -> bool {
        let digest = self.digester.digest(key);
        let mut live = lock_shard(&self.live, digest);
        match live.get(&digest) {
            Some(owner) if owner.token == token => {
                self.ended.insert(digest, Ended { token, attempt: owner.attempt, given_up_for });
                live.remove(&digest);
                true
            }
            Some(_) => false,
            None => self
                .ended
                .get(&digest)
                .is_some_and(|ended| ended.token == token && ended.given_up_for.is_some() == given_up_for.is_some()),
        }
    }

    fn reopen_now(&self, key: &EventKey) {
        let digest = self.digester.digest(key);
        let _live = lock_shard(&self.live, digest);
        if let Some(ended) = self.ended.get(&digest) {
            self.ended.insert(digest, Ended { given_up_for: None, ..ended });
        }
    }

    fn completed_by(&self, digest: Digest, now: Instant) -> Option<TokenTag> {
        self.completed.load().iter().find_map(|memory| memory.find(digest, now))
    }

    fn completed_for(&self, retention: Duration) -> Arc<Completed> {
        let find = |all: &[Arc<Completed>]| all.iter().find(|memory| memory.retention == retention).cloned();
        if let Some(memory) = find(&self.completed.load()) {
            return memory;
        }
        let new = Arc::new(Completed::new(retention));
        self.completed.rcu(|all| match find(all) {
            Some(_) => Arc::clone(all),
            None => Arc::new(all.iter().chain([&new]).cloned().collect()),
        });
        // Another thread's may have been first.
        find(&self.completed.load()).unwrap_or(new)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl DedupStore for MemoryStore {
    fn claim<'a>(&'a self, key: &'a EventKey, token: ClaimToken, lease: Duration) -> StoreFuture<'a, Claim> {
        Box::pin(async move { Ok(self.claim_now(key, token, lease)) })
    }

    fn complete<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        Box::pin(async move { Ok(self.complete_now(key, token, retention)) })
    }

    fn release<'a>(&'a self, key: &'a EventKey, token: ClaimToken) -> StoreFuture<'a, bool> {
        Box::pin(async move { Ok(self.end_now(key, token, None)) })
    }

    fn give_up<'a>(&'a self, key: &'a EventKey, token: ClaimToken, retention: Duration) -> StoreFuture<'a, bool> {
        Box::pin(async move { Ok(self.end_now(key, token, Some(retention))) })
    }

    fn reopen<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            self.reopen_now(key);
            Ok(())
        })
    }

    fn is_completed<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, bool> {
        Box::pin(async move { Ok(self.completed_by(self.digester.digest(key), Instant::now()).is_some()) })
    }
}

/// The events that were completed with one retention.
///
/// moka forgets them, a slice of time at once: an entry for each id would cost ten times the memory and most of the
/// time of a claim.
#[derive(Debug)]
struct Completed {
    retention: Duration,
    start: Instant,
    slice_width: Duration,
    slices: Cache<u128, Arc<Slice>>,
    /// The slices that a lookup visits. moka is asked for them once in the width of a slice, not for every event.
    recent: ArcSwap<Recent>,
}

/// The slice of now and those before it whose ids may still be within the retention, newest first.
#[derive(Debug)]
struct Recent {
    newest: u128,
    slices: Vec<Arc<Slice>>,
}

type Slice = [Mutex<HashMap<Digest, TokenTag, DigestState>>; SHARDS];

/// A retention spans this many slices, and touches one more. A lookup visits them all; an id is kept for at most one
/// longer than the retention.
const SLICES: u32 = 4;

impl Completed {
    fn new(retention: Duration) -> Self {
        let slice_width = (retention.min(LONGEST) / SLICES).max(Duration::from_millis(1));
        // A slice lives from its first moment to the end of the retention of its last id.
        let slices = Cache::builder().time_to_live(slice_width * (SLICES + 1)).build();
        let recent = ArcSwap::from_pointee(Recent::collect(&slices, 0));
        Self { retention, start: Instant::now(), slice_width, slices, recent }
    }

    fn insert(&self, digest: Digest, token: ClaimToken, now: Instant) {
        let recent = self.recent(now);
        if let Some(newest) = recent.slices.first() {
            lock_shard(newest, digest).insert(digest, TokenTag::of(token));
        }
    }

    /// Which claim completed the event, if it was within the retention.
    fn find(&self, digest: Digest, now: Instant) -> Option<TokenTag> {
        self.recent(now).slices.iter().find_map(|slice| lock_shard(slice, digest).get(&digest).copied())
    }

    fn recent(&self, now: Instant) -> Guard<Arc<Recent>> {
        let since_start = now.saturating_duration_since(self.start);
        let recent = self.recent.load();
        let newest = since_start.as_nanos() / self.slice_width.as_nanos();
        if newest <= recent.newest {
            return recent;
        }
        let next = Arc::new(Recent::collect(&self.slices, newest));
        self.recent.rcu(|current| if current.newest < newest { Arc::clone(&next) } else { Arc::clone(current) });
        self.recent.load()
    }
}

impl Recent {
    fn collect(slices: &Cache<u128, Arc<Slice>>, newest: u128) -> Self {
        let slice = slices.get_with(newest, || Arc::new(std::array::from_fn(|_| Mutex::default())));
        let before = (newest.saturating_sub(SLICES.into())..newest).rev().filter_map(|index| slices.get(&index));
        Self { newest, slices: std::iter::once(slice).chain(before).collect() }
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

fn lock_shard<V>(
    shards: &[Mutex<HashMap<Digest, V, DigestState>>; SHARDS],
    digest: Digest,
) -> MutexGuard<'_, HashMap<Digest, V, DigestState>> {
    #[expect(clippy::indexing_slicing, reason = "the remainder is below the length")]
    let shard = &shards[digest.0[0] as usize % SHARDS];
    // No step leaves a map half changed, so one that panicked has left nothing behind.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A digest of an [`EventKey`] under the store's own random key: words rather than one number, because the alignment
/// of a `u128` would pad every entry of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digest([u32; 4]);

/// Two independently keyed 64-bit hashes.
#[derive(Debug, Default)]
struct Digester(RandomState, RandomState);

impl Digester {
    #[expect(clippy::cast_possible_truncation, reason = "each hash is cut into its two halves")]
    fn digest(&self, key: &EventKey) -> Digest {
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

type DigestState = BuildHasherDefault<DigestHasher>;

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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> EventKey {
        EventKey::new("default", id)
    }

    fn complete(store: &MemoryStore, id: &str, retention: Duration) {
        let token = ClaimToken::random();
        assert_eq!(store.claim_now(&key(id), token, Duration::from_secs(60)), Claim::Granted { attempt: 1 });
        assert!(store.complete_now(&key(id), token, retention));
    }

    #[test]
    fn an_entry_of_a_slice_takes_twenty_bytes() {
        // A hash map holds between 7/16 and 7/8 of its slots, and adds one byte to each: 24 to 48 bytes an id.
        assert_eq!(size_of::<(Digest, TokenTag)>(), 20);
    }

    #[test]
    fn forgets_a_completed_event_after_the_retention_and_not_before() {
        let store = MemoryStore::new();
        let retention = Duration::from_millis(40);
        for round in 0..5 {
            let id = format!("evt_{round}");
            let before = std::time::Instant::now();
            complete(&store, &id, retention);
            while store.completed_by(store.digester.digest(&key(&id)), Instant::now()).is_some() {
                std::thread::sleep(Duration::from_millis(1));
                assert!(before.elapsed() < Duration::from_secs(60), "never forgotten");
            }
            assert!(before.elapsed() >= retention, "forgotten after {:?}", before.elapsed());
        }
        let slices = Arc::clone(&store.completed.load()[0]);
        slices.slices.run_pending_tasks();
        assert!(slices.slices.entry_count() <= u64::from(SLICES) + 2, "slices are dropped whole");
    }

    #[test]
    fn forgets_what_was_given_up_after_the_retention_and_not_before() {
        let (store, retention) = (MemoryStore::new(), Duration::from_millis(40));
        let token = ClaimToken::random();
        assert_eq!(store.claim_now(&key("a"), token, Duration::from_secs(60)), Claim::Granted { attempt: 1 });
        let before = std::time::Instant::now();
        assert!(store.end_now(&key("a"), token, Some(retention)));
        while store.claim_now(&key("a"), ClaimToken::random(), Duration::from_secs(60)) == Claim::GivenUp {
            std::thread::sleep(Duration::from_millis(1));
            assert!(before.elapsed() < Duration::from_secs(60), "never forgotten");
        }
        assert!(before.elapsed() >= retention, "forgotten after {:?}", before.elapsed());
    }

    #[test]
    fn receivers_with_different_retentions_share_a_store() {
        let store = MemoryStore::new();
        complete(&store, "a", Duration::from_secs(1000));
        complete(&store, "b", Duration::from_secs(2000));
        complete(&store, "c", Duration::MAX);
        assert_eq!(store.completed.load().len(), 3);
        for id in ["a", "b", "c"] {
            assert_eq!(store.claim_now(&key(id), ClaimToken::random(), Duration::MAX), Claim::Completed);
        }
    }
}
