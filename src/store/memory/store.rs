//! The steps of the memory: claim, complete, release, give up, reopen.

use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::cache::PageCache;
use super::digest::{Digest, DigestMap};
use super::page::{LONGEST, PageHandle, PagePlan, Remembered};
use super::platform::{Instant, Mutex, MutexGuard, SHARDS};
use super::{Claim, ClaimToken, DedupStore, EventKey, StoreFuture};

/// Remembers events in the memory of this process, for one instance that may forget on a restart.
///
/// What it forgets: after a restart, an event that was handled before is handled again if Sendarix or a load balancer
/// sends it again. Two instances do not see each other's events.
///
/// # Memory
///
/// A completed event takes 24 to 48 bytes, whatever the length of its id, beside up to 1 MiB for each retention in use. An
/// event that failed and does not come again takes twice that. The store remembers it for the retention and at most a
/// quarter and some seconds longer. Then a thread that sleeps beside the store gives the memory back, also while no events
/// come. The thread starts with the first event that ends, and stops with the store.
///
/// All remembered events take at most 512 MiB, or what [`builder`](Self::builder) says. That is 11 to 22 million ids: with
/// the default retention of 24 h, which can be 30 h, 6,100 to 12,200 events a minute around the clock. A full store forgets
/// the oldest ids early. It says so in the log, in [`forgotten`](Self::forgotten) and in the metrics. A forgotten event that
/// comes again is handled again. Events that are being handled are never forgotten, and do not count toward the bound.
///
/// Ids are kept as 128-bit digests under keys that are random for each process, so that an attacker cannot choose two ids
/// that collide. The probability that any two of 22,000,000 ids do, and an event is taken for a duplicate, is below 10⁻²³
/// (n² / 2¹²⁹).
pub struct MemoryStore {
    pub(super) shards: Arc<Shards>,
    plan: PagePlan,
    cache: PageCache,
}

/// What is known of all ids. The cache closes their pages.
pub(super) struct Shards {
    shards: [Mutex<Shard>; SHARDS],
    /// How many ids were in the pages that have expired, and in those that were forgotten for want of memory.
    pub(super) expired: AtomicU64,
    pub(super) forgotten: AtomicU64,
}

/// All that is known of a part of the ids. Every step holds the lock of its shard throughout, and so is atomic. No other
/// lock is taken under it.
#[derive(Default)]
struct Shard {
    /// Live claims. They are removed only when they end.
    live: DigestMap<Live>,
    completed: Remembered<TokenTag>,
    /// The last attempt at each event that failed or was given up, and has not been claimed again.
    ended: Remembered<Ended>,
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

/// About half of the memory of the smallest servers.
pub(super) const DEFAULT_MAX_BYTES: usize = 512 * 1024 * 1024;

impl MemoryStore {
    /// An empty memory of at most 512 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::of_bytes(DEFAULT_MAX_BYTES)
    }

    pub(super) fn of_bytes(max_bytes: usize) -> Self {
        let shards = Arc::<Shards>::default();
        let cache = PageCache::new(max_bytes, Arc::clone(&shards));
        Self { shards, plan: PagePlan::new(max_bytes), cache }
    }

    /// How many ids were forgotten early, because the memory was full. Some of them may have been past their retention.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.shards.forgotten.load(Ordering::Relaxed)
    }

    /// How many bytes the remembered ids take, after giving back what has expired. This is computed from the sizes of their
    /// tables, and is what the bound limits; live claims are not part of it.
    #[must_use]
    pub fn remembered_bytes(&self) -> u64 {
        self.cache.tidy()
    }

    /// Begins a step.
    fn step(&self, key: &EventKey) -> Step<'_> {
        let digest = Digest::of(key);
        let index = digest.shard(SHARDS);
        let shard = self.shards.lock(index);
        // After the wait for the lock, or a lease could seem longer than it is.
        Step { digest, index, shard, now: Instant::now(), store: self }
    }

    fn claim_now(&self, key: &EventKey, token: ClaimToken, lease: Duration) -> Claim {
        let Step { digest, mut shard, now, .. } = self.step(key);
        let Shard { live, completed, ended } = &mut *shard;
        if completed.get(digest).is_some() {
            return Claim::Completed;
        }
        let live = live.entry(digest);
        let attempt = match &live {
            Entry::Occupied(owner) => match owner.get() {
                owner if owner.token == token => owner.attempt,
                owner if owner.until > now => return Claim::InFlight { remaining: owner.until - now },
                late => late.attempt.saturating_add(1),
            },
            Entry::Vacant(_) => match ended.get(digest) {
                None => 1,
                Some(Ended { how: HowEnded::GivenUp, .. }) => return Claim::GivenUp,
                Some(Ended { how: HowEnded::Failed, attempt, .. }) => {
                    ended.take(digest);
                    attempt.saturating_add(1)
                }
            },
        };
        live.insert_entry(Live { token, attempt, until: now + lease.min(LONGEST) });
        Claim::Granted { attempt }
    }

    fn complete_now(&self, key: &EventKey, token: ClaimToken, retention: Duration) -> bool {
        let mut step = self.step(key);
        if let Entry::Occupied(owner) = step.shard.live.entry(step.digest)
            && owner.get().token == token
        {
            owner.remove();
            step.remember(|shard| &mut shard.completed, TokenTag::of(token), retention);
            return true;
        }
        step.shard.completed.get(step.digest) == Some(TokenTag::of(token))
    }

    /// Ends a claim without the event being handled: for the next delivery, or for good.
    fn end_now(&self, key: &EventKey, token: ClaimToken, how: HowEnded, retention: Duration) -> bool {
        let mut step = self.step(key);
        match step.shard.live.entry(step.digest) {
            Entry::Occupied(owner) if owner.get().token == token => {
                let attempt = owner.remove().attempt;
                step.remember(|shard| &mut shard.ended, Ended { token, attempt, how }, retention);
                true
            }
            Entry::Occupied(_) => false,
            Entry::Vacant(_) => {
                step.shard.ended.get(step.digest).is_some_and(|ended| ended.token == token && ended.how == how)
            }
        }
    }

    fn reopen_now(&self, key: &EventKey) {
        let mut step = self.step(key);
        if let Some(ended) = step.shard.ended.take(step.digest) {
            step.remember(|shard| &mut shard.ended, Ended { how: HowEnded::Failed, ..ended }, FAILED_FOR);
        }
    }

    fn is_completed_now(&self, key: &EventKey) -> bool {
        let step = self.step(key);
        step.shard.completed.get(step.digest).is_some()
    }
}

/// One step at one event, in its shard.
struct Step<'a> {
    digest: Digest,
    index: usize,
    shard: MutexGuard<'a, Shard>,
    now: Instant,
    store: &'a MemoryStore,
}

impl Step<'_> {
    /// Ends the step with the event in a page.
    fn remember<V>(mut self, pages: impl FnOnce(&mut Shard) -> &mut Remembered<V>, value: V, retention: Duration) {
        let Self { digest, index, now, store, .. } = self;
        let changed = pages(&mut self.shard).insert(digest, value, retention, now, index, &store.plan);
        // The cache closes pages, in any shard.
        drop(self.shard);
        if let Some(page) = changed {
            store.cache.insert(&page);
        }
    }
}

impl Shards {
    fn lock(&self, index: usize) -> MutexGuard<'_, Shard> {
        #[expect(clippy::indexing_slicing, reason = "a digest's shard and that of a page are below the length")]
        let shard = &self.shards[index];
        // No step leaves a map half changed, so one that panicked has left nothing behind.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes a page whose lifetime is over.
    pub(super) fn expire(&self, page: &PageHandle) {
        self.expired.fetch_add(self.close(page), Ordering::Relaxed);
    }

    /// Closes a page because memory is full.
    pub(super) fn forget(&self, page: &PageHandle) {
        self.forgotten.fetch_add(self.close(page), Ordering::Relaxed);
    }

    /// Returns how many ids were in the page.
    fn close(&self, page: &PageHandle) -> u64 {
        // The lock is released before the tables are freed.
        let (completed, ended) = {
            let mut shard = self.lock(page.shard);
            (shard.completed.close(page), shard.ended.close(page))
        };
        (completed.map_or(0, |ids| ids.len()) + ended.map_or(0, |ids| ids.len())) as u64
    }
}

impl Default for Shards {
    fn default() -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { shards, expired: AtomicU64::new(0), forgotten: AtomicU64::new(0) }
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

/// Leaves out the ids, of which there may be millions.
impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("forgotten", &self.forgotten()).finish_non_exhaustive()
    }
}

/// The part of a token that is kept after the completion, to tell a repeated completion from a late one. The chance to
/// mistake one for the other is 2⁻³². All that follows is a takeover that is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenTag(u32);

impl TokenTag {
    fn of(token: ClaimToken) -> Self {
        let [a, b, c, d, ..] = token.to_bytes();
        Self(u32::from_be_bytes([a, b, c, d]))
    }
}
