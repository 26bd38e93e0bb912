//! A sliding window.

use std::time::{Duration, UNIX_EPOCH};

use super::Rates;
use crate::event::Timestamp;

/// Counts in slices of time, of which the oldest is used again for the newest.
pub(super) struct Window {
    pub(super) length: Duration,
    slice: Duration,
    counts: [Slice; SLICES],
    /// Which thresholds are passed, in the order of the measures.
    pub(super) passed: [bool; 2],
}

#[derive(Clone, Copy, Default)]
struct Slice {
    /// Which slice of all time this is.
    number: u128,
    counted: Rates,
}

/// A window slides in steps of a sixtieth of itself.
const SLICES: usize = 60;

/// The shortest window: its slices are as fine as Sendarix's times.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

impl Window {
    pub(super) fn new(length: Duration) -> Self {
        let slice = length / 60;
        Self { length, slice, counts: [Slice::default(); SLICES], passed: [false; 2] }
    }

    fn number(&self, time: Timestamp) -> u128 {
        let since_epoch = Timestamp::from(UNIX_EPOCH).until(time).unwrap_or_default();
        since_epoch.as_nanos() / self.slice.as_nanos()
    }

    pub(super) fn add(&mut self, at: Timestamp, counted: Rates, now: Timestamp) {
        let (number, newest) = (self.number(at), self.number(now));
        let place = usize::try_from(number % SLICES as u128).unwrap_or_default();
        if let Some(slice) = self.counts.get_mut(place)
            && is_within(number, newest)
        {
            // What is not of this window is past, or from when the clock was wrong.
            if slice.number != number {
                *slice = Slice { number, counted: Rates::default() };
            }
            slice.counted.add(counted);
        }
    }

    pub(super) fn sum(&self, now: Timestamp) -> Rates {
        let newest = self.number(now);
        let mut sum = Rates::default();
        let slices = self.counts.iter().filter(|slice| is_within(slice.number, newest));
        slices.for_each(|slice| sum.add(slice.counted));
        sum
    }
}

/// Whether a slice is in the window that ends with the newest. No two of them have one place.
fn is_within(number: u128, newest: u128) -> bool {
    number <= newest && number + SLICES as u128 > newest
}
