//! Pages: the ids of a span of time, which are forgotten together.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::digest::{Digest, DigestMap};
use super::platform::{FIRST_IDS, Instant, SHARDS};

/// The ids of one shard with a value each, in pages from old to new. An id is in at most one page.
pub(super) struct Remembered<V>(Vec<Page<V>>);

/// Ids with one retention, which is that of a receiver. They expire together: an expiry for each id would take more memory
/// than the id.
struct Page<V> {
    ids: DigestMap<V>,
    retention: Duration,
    /// Until then the expiry of the page leaves each id its whole retention.
    takes_until: Instant,
    handle: Arc<PageHandle>,
    /// For how many ids the table has room, and how many pages had begun, when the cache last heard of the page.
    cached: (usize, u64),
}

/// The part of a page that the cache holds, to weigh and close it.
pub(super) struct PageHandle {
    pub(super) shard: usize,
    pub(super) number: u64,
    pub(super) expires: Instant,
    /// What the page takes of memory, or 0 once it is closed. It changes under the lock of the shard.
    bytes: AtomicUsize,
}

impl PageHandle {
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.bytes() == 0
    }
}

/// Where pages begin and end.
pub(super) struct PagePlan {
    /// The largest size of a page.
    page_bytes: usize,
    /// How many pages have begun.
    begun: AtomicU64,
}

/// How many pages a shard has at least when memory is full. The ids of a page are forgotten at once.
const PAGES_OF_A_FULL_SHARD: usize = 8;

impl PagePlan {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { page_bytes: max_bytes / SHARDS / PAGES_OF_A_FULL_SHARD, begun: AtomicU64::new(0) }
    }
}

/// The retention is divided by this number to give the time for which a page takes ids. A lookup visits one page more than
/// this, and more where pages are full. An id is kept for the retention and at most this part of it longer.
const PAGES_OF_A_RETENTION: u32 = 4;

/// The longest retention, 100 years: a longer one would overflow the clock.
pub(super) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl<V: Copy> Remembered<V> {
    pub(super) fn get(&self, digest: Digest) -> Option<V> {
        self.0.iter().find_map(|page| page.ids.get(&digest).copied())
    }

    /// Removes the id, and returns its value.
    pub(super) fn take(&mut self, digest: Digest) -> Option<V> {
        self.0.iter_mut().find_map(|page| page.ids.remove(&digest))
    }
}

impl<V> Remembered<V> {
    /// Returns the page if the cache must hear of it, once the lock of the shard is released.
    #[must_use]
    pub(super) fn insert(
        &mut self,
        digest: Digest,
        value: V,
        retention: Duration,
        now: Instant,
        shard: usize,
        plan: &PagePlan,
    ) -> Option<Arc<PageHandle>> {
        let retention = retention.min(LONGEST);
        let mut takes_for = retention / PAGES_OF_A_RETENTION;
        let newest = self.0.iter_mut().rev().find(|page| page.retention == retention);
        let is_first = newest.is_none();
        if let Some(page) = newest
            && now < page.takes_until
            && page.has_room(plan)
        {
            return page.insert(digest, value, plan);
        }
        let number = plan.begun.fetch_add(1, Ordering::Relaxed);
        if is_first {
            // The pages of different shards then end at different times, and are not freed in one step.
            takes_for = takes_for.mul_f64((number % SHARDS as u64 + 1) as f64 / SHARDS as f64);
        }
        let mut page = Page::new(shard, number, retention, now, takes_for);
        let handle = page.insert(digest, value, plan);
        self.0.push(page);
        handle
    }

    /// Takes a page out. Its ids are forgotten.
    pub(super) fn close(&mut self, handle: &PageHandle) -> Option<DigestMap<V>> {
        let index = self.0.iter().position(|page| page.handle.number == handle.number)?;
        handle.bytes.store(0, Ordering::Relaxed);
        Some(self.0.remove(index).ids)
    }
}

impl<V> Default for Remembered<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// An estimate of what a page takes beside its table, here and in the cache.
const PAGE_OVERHEAD: usize = 512;

impl<V> Page<V> {
    fn new(shard: usize, number: u64, retention: Duration, now: Instant, takes_for: Duration) -> Self {
        let takes_until = now + takes_for;
        let handle = PageHandle { shard, number, expires: takes_until + retention, bytes: AtomicUsize::new(0) };
        Self {
            ids: HashMap::with_capacity_and_hasher(FIRST_IDS, BuildHasherDefault::default()),
            retention,
            takes_until,
            handle: Arc::new(handle),
            cached: (0, 0),
        }
    }

    /// Whether another id may go in. The table of a page does not double beyond the largest size.
    fn has_room(&self, plan: &PagePlan) -> bool {
        self.ids.len() < self.ids.capacity() || self.handle.bytes() * 2 <= plan.page_bytes
    }

    /// Returns the page if it has grown, or if more than `SHARDS` pages have begun since the cache last heard of it: it would
    /// seem to be old.
    fn insert(&mut self, digest: Digest, value: V, plan: &PagePlan) -> Option<Arc<PageHandle>> {
        self.ids.insert(digest, value);
        let (capacity, begun) = (self.ids.capacity(), plan.begun.load(Ordering::Relaxed));
        if capacity <= self.cached.0 && begun - self.cached.1 <= SHARDS as u64 {
            return None;
        }
        // A table keeps its size when ids are removed, although it may then say that it has less room.
        self.cached = (capacity.max(self.cached.0), begun);
        self.handle.bytes.store(PAGE_OVERHEAD + bytes_of_table::<V>(self.cached.0), Ordering::Relaxed);
        Some(Arc::clone(&self.handle))
    }
}

/// The size of a hash map of the standard library: a power of two of slots, at most 7/8 of them filled, each with its entry
/// and one byte.
fn bytes_of_table<V>(capacity: usize) -> usize {
    (capacity * 8 / 7).next_power_of_two() * (size_of::<(Digest, V)>() + 1)
}
