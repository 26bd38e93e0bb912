//! What `sendarix_webhooks` takes from the standard library, as loom has it, with a clock that a test sets.

use std::cell::Cell;
use std::ops::Sub;
use std::time::Duration;

pub(super) use loom::sync::{Mutex, MutexGuard};

/// All ids in one, where their steps meet.
pub(super) const SHARDS: usize = 1;

/// The smallest table, so that a page grows with its fourth id.
pub(super) const FIRST_IDS: usize = 3;

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
