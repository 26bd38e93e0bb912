//! Where the receiver takes the time from.

use std::fmt::Debug;
use std::time::SystemTime;

/// The time of day, by which the receiver judges freshness and dates dead letters.
///
/// Leases and retention do not depend on it: they follow the clock of the dedup store, so that instances whose clocks
/// differ agree. Replace it in tests with `testing::ManualClock`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a clock",
    note = "the clocks are `SystemClock` and, for tests, `testing::ManualClock`"
)]
pub trait Clock: Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> SystemTime;
}

/// The clock of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
