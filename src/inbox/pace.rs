//! How fast dead letters are redriven, and how many.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::outcome::Outcome;

/// No pause gets longer than this by doubling.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

const A_YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[derive(Debug)]
pub(super) struct Pace {
    pub(super) interval: Duration,
    pub(super) left: u64,
    pub(super) pause: Duration,
    /// Letters that failed one after the other.
    failures: u32,
    /// `None` before the first letter.
    next_at: Option<Instant>,
}

/// As fast as it goes, without an end.
impl Default for Pace {
    fn default() -> Self {
        Self { interval: Duration::ZERO, left: u64::MAX, pause: Duration::ZERO, failures: 0, next_at: None }
    }
}

impl Pace {
    pub(super) fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Waits until the next letter may be redriven. It may be called again after it was cancelled.
    pub(super) async fn wait(&self) {
        if let Some(next_at) = self.next_at.filter(|next_at| *next_at > Instant::now()) {
            sleep_until(next_at).await;
        }
    }

    /// Counts a letter whose redriving begins now. Before it ends, so that a call that is dropped counts as well.
    pub(super) fn begin(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.next_at = after(self.interval);
    }

    /// Records how the letter ended, and lengthens the pause or ends it.
    pub(super) fn end(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Processed => self.failures = 0,
            outcome if is_failure(outcome) => {
                let doubled = self.pause.saturating_mul(2_u32.saturating_pow(self.failures));
                self.failures = self.failures.saturating_add(1);
                self.next_at = self.next_at.max(after(doubled.min(self.pause.max(LONGEST_PAUSE))));
            }
            _ => {}
        }
    }
}

/// The time after a pause, which is at most a year: no clock can add more without end.
fn after(pause: Duration) -> Option<Instant> {
    Instant::now().checked_add(pause.min(A_YEAR))
}

/// Whether the handler, or what it needs, is still broken.
fn is_failure(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Failed | Outcome::FailedPermanently | Outcome::NotTaken | Outcome::StoreUnavailable)
}
