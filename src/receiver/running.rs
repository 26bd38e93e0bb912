//! Which deliveries are under way, so that a shutdown can wait for them.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Counts the deliveries that are under way, and closes the door.
#[derive(Debug)]
pub(super) struct Running {
    deliveries: watch::Sender<()>,
    draining: AtomicBool,
}

/// Held by everything that a shutdown should wait for.
pub(super) type RunningGuard = watch::Receiver<()>;

impl Running {
    pub(super) fn new() -> Self {
        Self { deliveries: watch::Sender::new(()), draining: AtomicBool::new(false) }
    }

    /// `None` once the receiver is draining.
    pub(super) fn enter(&self) -> Option<RunningGuard> {
        // Counted before it is checked, so that `drain` sees either the guard or no delivery at all.
        let guard = self.deliveries.subscribe();
        (!self.draining.load(Ordering::SeqCst)).then_some(guard)
    }

    pub(super) async fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.deliveries.closed().await;
    }
}
