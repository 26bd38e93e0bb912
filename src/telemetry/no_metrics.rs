//! Counts nothing.

use std::collections::HashMap;
use std::time::Duration;

use super::{DeliveryKind, FailedStore};
use crate::dead_letter::DeadLetterReason;
use crate::event::SendarixEvent;
use crate::outcome::{Outcome, RefusalKind};

/// As [`Meter`](super::Meter) with the feature `metrics`.
#[derive(Debug)]
pub(super) struct Meter;

/// Holds nothing.
pub(super) struct Handling;

impl Drop for Handling {
    fn drop(&mut self) {}
}

impl Meter {
    pub(super) fn new(_: &str) -> Self {
        Self
    }

    pub(super) fn secret_matched(&self, _: &str) {}

    pub(super) fn new_event(&self, _: &SendarixEvent, _: impl FnOnce() -> Duration) {}

    pub(super) fn unreadable_data(&self) {}

    pub(super) fn abandoned(&self) {}

    pub(super) fn handling(&self) -> Handling {
        Handling
    }

    pub(super) fn settled(&self, _: Outcome, _: impl FnOnce() -> Duration, _: DeliveryKind) {}

    pub(super) fn refused(&self, _: RefusalKind) {}

    pub(super) fn taken_over(&self) {}

    pub(super) fn store_failed(&self, _: FailedStore) {}

    pub(super) fn letter_kept(&self, _: &DeadLetterReason, _: u32) {}

    pub(super) fn letter_discarded(&self) {}

    pub(super) fn letters_counted(&self, _: &HashMap<DeadLetterReason, u64>) {}
}
