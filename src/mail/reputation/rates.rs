//! What was counted, and the rates that follow.

use super::Measure;
use crate::mail::Fact;

/// What was counted in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rates {
    /// `delivered` events.
    pub delivered: u64,
    /// `bounce` events that are not soft.
    pub bounced: u64,
    /// `complaint` events.
    pub complained: u64,
}

impl Rates {
    /// Bounces, of all messages that were delivered or bounced; `None` if there are none.
    #[must_use]
    pub fn bounce_rate(&self) -> Option<f64> {
        share(self.bounced, self.delivered + self.bounced)
    }

    /// Complaints, of all messages that were delivered; `None` if there are neither. It is 1 where the deliveries were longer
    /// ago than the window: a complaint counts without its delivery.
    #[must_use]
    pub fn complaint_rate(&self) -> Option<f64> {
        share(self.complained, self.delivered.max(self.complained))
    }

    /// How many messages were counted at least. A complaint without a delivery is of a message too.
    pub(super) fn messages(&self) -> u64 {
        self.delivered.max(self.complained) + self.bounced
    }

    /// What one event adds.
    pub(in crate::mail) fn of_fact(fact: Option<Fact>) -> Self {
        match fact {
            Some(Fact::Delivered) => Self { delivered: 1, ..Self::default() },
            Some(Fact::Bounced) => Self { bounced: 1, ..Self::default() },
            Some(Fact::Complained) => Self { complained: 1, ..Self::default() },
            _ => Self::default(),
        }
    }

    pub(super) fn of(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Bounces => self.bounce_rate(),
            Measure::Complaints => self.complaint_rate(),
        }
    }

    pub(in crate::mail) fn add(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.bounced += other.bounced;
        self.complained += other.complained;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
