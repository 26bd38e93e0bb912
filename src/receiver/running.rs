//! Which deliveries are under way, so that a shutdown can wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;

/// Counts the deliveries that are under way, and closes the door.
#[derive(Debug, Default)]
pub(super) struct Running {
    deliveries: AtomicUsize,
    draining: AtomicBool,
    ended: Notify,
}

/// Held by everything that a shutdown should wait for.
#[derive(Debug)]
pub(super) struct RunningGuard(Arc<Running>);

impl Running {
    /// `None` once the receiver is draining.
    pub(super) fn enter(self: &Arc<Self>) -> Option<RunningGuard> {
        // Counted before it is checked, so that `drain` sees either the guard or no delivery at all.
        let guard = RunningGuard::new(self);
        (!self.draining.load(SeqCst)).then_some(guard)
    }

    pub(super) fn count(&self) -> usize {
        self.deliveries.load(SeqCst)
    }

    pub(super) async fn drain(&self) {
        self.draining.store(true, SeqCst);
        loop {
            let ended = self.ended.notified();
            if self.count() == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl RunningGuard {
    fn new(running: &Arc<Running>) -> Self {
        running.deliveries.fetch_add(1, SeqCst);
        Self(Arc::clone(running))
    }
}

impl Clone for RunningGuard {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        if self.0.deliveries.fetch_sub(1, SeqCst) == 1 && self.0.draining.load(SeqCst) {
            self.0.ended.notify_waiters();
        }
    }
}
