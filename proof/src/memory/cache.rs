//! The cache of pages, on locks of loom instead of moka: it closes pages whose lifetime is over. When a test says that the
//! bound is reached, it closes the page that was inserted longest ago.

use std::cell::Cell;
use std::sync::{Arc, PoisonError};

use super::page::PageHandle;
use super::platform::{Instant, Mutex};
use super::store::Shards;

pub(super) struct PageCache {
    shards: Arc<Shards>,
    /// From the page that was inserted longest ago to the last one. Like moka, this closes pages under its own lock.
    kept: Mutex<Vec<Arc<PageHandle>>>,
}

thread_local! {
    static FULL: Cell<bool> = const { Cell::new(false) };
}

/// The next call of the cache finds the bound reached.
pub fn reach_the_bound() {
    FULL.set(true);
}

impl PageCache {
    pub(super) fn new(_: usize, shards: Arc<Shards>) -> Self {
        FULL.set(false);
        Self { shards, kept: Mutex::new(Vec::new()) }
    }

    pub(super) fn insert(&self, page: &Arc<PageHandle>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|kept| kept.number != page.number);
        kept.push(Arc::clone(page));
        self.close(&mut kept);
        // As in the crate: a page that was closed before this does not stay.
        kept.retain(|page| !page.is_closed());
    }

    pub(super) fn tidy(&self) -> u64 {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        self.close(&mut kept);
        kept.iter().map(|page| page.bytes() as u64).sum()
    }

    fn close(&self, kept: &mut Vec<Arc<PageHandle>>) {
        kept.retain(|page| {
            let is_over = Instant::now() >= page.expires;
            if is_over {
                self.shards.expire(page);
            }
            !is_over
        });
        if FULL.replace(false) && !kept.is_empty() {
            self.shards.forget(&kept.remove(0));
        }
    }
}
