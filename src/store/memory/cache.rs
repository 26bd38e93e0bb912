//! The cache of pages, on moka: `new`, `insert` and `tidy` are all that the store calls.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::page::PageHandle;
use super::store::Shards;
use super::telemetry::MemoryTelemetry;

/// Closes a page when its lifetime is over. When all pages take more than the bound, it closes those that were inserted
/// longest ago.
pub(super) struct PageCache {
    tidier: Tidier,
    /// Dropping the sender stops the thread.
    thread: OnceLock<Option<Sender<Infallible>>>,
}

#[derive(Clone)]
struct Tidier {
    cache: Cache<u64, Arc<PageHandle>>,
    /// moka miscounts the size of an entry that two threads insert at the same time, or that it closes during an insert.
    alone: Arc<Mutex<()>>,
    shards: Arc<Shards>,
    telemetry: Arc<MemoryTelemetry>,
}

/// How often the thread tidies.
const INTERVAL: Duration = Duration::from_secs(1);

impl PageCache {
    pub(super) fn new(max_bytes: usize, shards: Arc<Shards>) -> Self {
        let telemetry = Arc::<MemoryTelemetry>::default();
        let closing = Arc::clone(&shards);
        // Nothing else is called here: moka holds its locks, and would never call a listener again that has panicked.
        let removed = move |_, page: Arc<PageHandle>, cause| match cause {
            RemovalCause::Size => closing.forget(&page),
            RemovalCause::Expired => closing.expire(&page),
            // The page itself was inserted again, or was closed already.
            RemovalCause::Replaced | RemovalCause::Explicit => {}
        };
        let cache = Cache::builder()
            .max_capacity(max_bytes as u64)
            .weigher(|_, page: &Arc<PageHandle>| u32::try_from(page.bytes()).unwrap_or(u32::MAX))
            // moka's default policy would refuse new pages when it is full.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(AtItsEnd)
            .eviction_listener(removed)
            .build();
        Self { tidier: Tidier { cache, alone: Arc::default(), shards, telemetry }, thread: OnceLock::new() }
    }

    /// Takes a new page, or weighs a page again. This may close others.
    pub(super) fn insert(&self, page: &Arc<PageHandle>) {
        {
            let _alone = self.tidier.alone();
            // moka may have closed the page before this.
            if !page.is_closed() {
                self.tidier.cache.insert(page.number, Arc::clone(page));
                self.tidier.cache.run_pending_tasks();
            }
        }
        if self.thread.get_or_init(|| self.tidier.clone().start_thread()).is_none() {
            self.tidier.tidy();
        }
    }

    /// Closes the pages that have expired, and returns how many bytes the others take.
    pub(super) fn tidy(&self) -> u64 {
        self.tidier.tidy()
    }
}

impl Tidier {
    fn alone(&self) -> MutexGuard<'_, ()> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tidy(&self) -> u64 {
        let bytes = {
            let _alone = self.alone();
            self.cache.run_pending_tasks();
            self.cache.weighted_size()
        };
        self.telemetry.tell(self.shards.forgotten.load(Ordering::Relaxed), bytes);
        bytes
    }

    /// Tidies while no events come. If the system refuses the thread, `insert` tidies instead.
    fn start_thread(self) -> Option<Sender<Infallible>> {
        let (sender, dropped): (_, Receiver<Infallible>) = channel();
        let tidy = move || {
            while dropped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                self.tidy();
            }
        };
        thread::Builder::new().name("sendarix-memory".to_owned()).spawn(tidy).ok().map(|_| sender)
    }
}

/// An update of an entry keeps its end.
struct AtItsEnd;

impl Expiry<u64, Arc<PageHandle>> for AtItsEnd {
    fn expire_after_create(&self, _: &u64, page: &Arc<PageHandle>, now: Instant) -> Option<Duration> {
        Some(page.expires.saturating_duration_since(now))
    }
}
