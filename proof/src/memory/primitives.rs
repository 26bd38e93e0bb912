//! What `sendarix_webhooks` takes from the standard library and `arc-swap`, as loom has it, with a clock that a test sets.

use std::cell::Cell;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::ops::Sub;
use std::sync::Arc;
use std::time::Duration;

use loom::sync::atomic::{AtomicUsize, Ordering};
pub(super) use loom::sync::{Mutex, MutexGuard};

/// Without chance: every run of a test must take the same steps.
pub(super) type RandomState = BuildHasherDefault<DefaultHasher>;

/// Few, as loom keeps track of each; and enough for the ids of a test to be apart.
pub(super) const SHARDS: usize = 16;

/// A moment of the clock of this test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

thread_local! {
    // loom runs all threads of a test in one thread of the system.
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

impl Instant {
    pub(super) fn now() -> Self {
        Self(NOW.get())
    }

    pub fn set(since_start: Duration) {
        NOW.set(since_start);
    }

    pub(super) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}

/// Before each use of the pointer, other threads may run.
#[derive(Debug)]
pub(super) struct ArcSwap<T>(arc_swap::ArcSwap<T>, AtomicUsize);

impl<T> ArcSwap<T> {
    pub(super) fn from_pointee(value: T) -> Self {
        Self(arc_swap::ArcSwap::from_pointee(value), AtomicUsize::new(0))
    }

    pub(super) fn load(&self) -> arc_swap::Guard<Arc<T>> {
        self.others_may_run();
        self.0.load()
    }

    pub(super) fn rcu(&self, mut change: impl FnMut(&Arc<T>) -> Arc<T>) {
        loop {
            let current = self.load();
            let changed = change(&current);
            self.others_may_run();
            if Arc::ptr_eq(&current, &self.0.compare_and_swap(&*current, changed)) {
                return;
            }
        }
    }

    fn others_may_run(&self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

impl<T: Default> Default for ArcSwap<T> {
    fn default() -> Self {
        Self::from_pointee(T::default())
    }
}
