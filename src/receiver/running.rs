//! Which deliveries are under way, so that a shutdown can wait for them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

use super::claim::Releases;

/// Counts the deliveries that are under way, and closes the door.
#[derive(Debug, Default)]
pub(super) struct Running {
    deliveries: AtomicUsize,
    draining: AtomicBool,
    /// Nobody waits any longer.
    given_up: AtomicBool,
    ended: Notify,
    releases: Arc<Releases>,
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

    /// For a part of a delivery that is under way: the door may be closed by now.
    pub(super) fn enter_part(self: &Arc<Self>) -> RunningGuard {
        RunningGuard::new(self)
    }

    /// Closes the door, and waits for the last delivery to end. After the limit it returns how many have not.
    pub(super) async fn drain(self: &Arc<Self>, limit: Duration) -> Result<(), usize> {
        self.draining.store(true, SeqCst);
        let mut watch = None;
        loop {
            let ended = self.ended.notified();
            let deliveries = self.deliveries.load(SeqCst);
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

    /// Wakes whoever drains after so long, unless what this returns is dropped before.
    ///
    /// It is a thread, because a handler that blocks its own may have stopped the timers of the runtime.
    fn give_up_after(self: &Arc<Self>, limit: Duration) -> mpsc::Sender<()> {
        let (sender, dropped) = mpsc::channel();
        let running = Arc::clone(self);
        let watch = move || {
            if dropped.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                running.given_up.store(true, SeqCst);
                running.ended.notify_waiters();
            }
        };
        // Where there can be no thread, there is no limit.
        let _ = thread::Builder::new().name("sendarix-drain".to_owned()).spawn(watch);
        sender
    }
}

impl RunningGuard {
    fn new(running: &Arc<Running>) -> Self {
        running.deliveries.fetch_add(1, SeqCst);
        Self(Arc::clone(running))
    }

    pub(super) fn releases(&self) -> Arc<Releases> {
        Arc::clone(&self.0.releases)
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
