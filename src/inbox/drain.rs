//! The deliveries that are under way, and how a shutdown waits for them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

use super::release::Releases;

/// The endpoint is shutting down and takes nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the inbox is draining: the process is shutting down; try again at another instance")]
pub struct Draining;

/// Counts the deliveries that are under way, and closes the door.
#[derive(Debug, Default)]
pub(super) struct Drain {
    deliveries: AtomicUsize,
    draining: AtomicBool,
    /// The time limit of the drain is over.
    given_up: AtomicBool,
    ended: Notify,
    pub(super) releases: Releases,
}

/// Held by everything that a shutdown should wait for.
#[derive(Debug)]
pub(crate) struct DrainGuard(Arc<Drain>);

impl Drain {
    pub(super) fn enter(self: &Arc<Self>) -> Result<DrainGuard, Draining> {
        // Counted before it is checked, so that `drain` sees either the guard or no delivery at all.
        let guard = self.enter_part();
        if self.draining.load(SeqCst) { Err(Draining) } else { Ok(guard) }
    }

    /// For a part of a delivery that is under way: the door may be closed by now.
    pub(super) fn enter_part(self: &Arc<Self>) -> DrainGuard {
        self.deliveries.fetch_add(1, SeqCst);
        DrainGuard(Arc::clone(self))
    }

    pub(super) fn deliveries(&self) -> usize {
        self.deliveries.load(SeqCst)
    }

    /// Closes the door, and waits for the last delivery to end. After the limit it returns how many have not.
    pub(super) async fn drain(self: &Arc<Self>, limit: Duration) -> Result<(), usize> {
        self.draining.store(true, SeqCst);
        let mut watch = None;
        loop {
            let ended = self.ended.notified();
            let deliveries = self.deliveries();
            if deliveries == 0 {
                return Ok(());
            }
            if self.given_up.load(SeqCst) {
                return Err(deliveries);
            }
            watch.get_or_insert_with(|| self.give_up_after(limit));
            ended.await;
        }
    }

    /// Ends every drain after the limit, unless what this returns is dropped before.
    ///
    /// It is a thread, because a handler that blocks its own may have stopped the timers of the runtime.
    fn give_up_after(self: &Arc<Self>, limit: Duration) -> mpsc::Sender<()> {
        let (sender, dropped) = mpsc::channel();
        let drain = Arc::clone(self);
        let watch = move || {
            if dropped.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                drain.given_up.store(true, SeqCst);
                drain.ended.notify_waiters();
            }
        };
        // Where there can be no thread, there is no limit.
        let _ = thread::Builder::new().name("sendarix-drain".to_owned()).spawn(watch);
        sender
    }
}

impl DrainGuard {
    pub(super) fn drain(&self) -> &Arc<Drain> {
        &self.0
    }
}

impl Clone for DrainGuard {
    fn clone(&self) -> Self {
        self.0.enter_part()
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        if self.0.deliveries.fetch_sub(1, SeqCst) == 1 && self.0.draining.load(SeqCst) {
            self.0.ended.notify_waiters();
        }
    }
}
