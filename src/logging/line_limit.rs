//! A limit on log lines that requests from outside can cause.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Admits a number of lines in each period, and counts those that it leaves out.
#[derive(Debug)]
pub(crate) struct LineLimit {
    lines: u32,
    period: Duration,
    now: Mutex<Period>,
}

#[derive(Debug, Default)]
struct Period {
    began: Option<Instant>,
    admitted: u32,
    suppressed: u64,
}

impl LineLimit {
    /// Enough to see what is going on, and little enough that an attack is not the log's to carry.
    pub(crate) fn five_a_second() -> Self {
        Self { lines: 5, period: Duration::from_secs(1), now: Mutex::default() }
    }

    /// For a condition that lasts.
    #[cfg(feature = "memory")]
    pub(crate) fn one_a_minute() -> Self {
        Self { lines: 1, period: Duration::from_secs(60), now: Mutex::default() }
    }

    /// How many lines have been left out since the last one, if this one may be written.
    pub(crate) fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut period = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if period.began.is_none_or(|began| now.duration_since(began) >= self.period) {
            (period.began, period.admitted) = (Some(now), 0);
        }
        if period.admitted == self.lines {
            period.suppressed += 1;
            return None;
        }
        period.admitted += 1;
        Some(std::mem::take(&mut period.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_writes_few_lines_a_second_and_says_what_it_left_out() {
        let (limit, start) = (LineLimit::five_a_second(), Instant::now());
        let admitted: Vec<u64> = (0..1000).filter_map(|_| limit.admit_at(start)).collect();
        assert_eq!(admitted, [0; 5]);
        assert_eq!(limit.admit_at(start + Duration::from_millis(999)), None);
        assert_eq!(limit.admit_at(start + Duration::from_secs(1)), Some(996));
        assert_eq!(limit.admit_at(start + Duration::from_secs(1)), Some(0));
    }

    #[cfg(feature = "memory")]
    #[test]
    fn a_condition_that_lasts_writes_one_line_a_minute() {
        let (limit, start) = (LineLimit::one_a_minute(), Instant::now());
        let admitted = (0..120).filter(|second| limit.admit_at(start + Duration::from_secs(*second)).is_some());
        assert_eq!(admitted.collect::<Vec<_>>(), [0, 60]);
    }
}
