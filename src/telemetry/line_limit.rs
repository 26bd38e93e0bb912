//! How many lines an attacker may write into the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Admits at most [`LINES_A_SECOND`] lines, and counts those that it leaves out.
#[derive(Debug, Default)]
pub(super) struct LineLimit(Mutex<Second>);

#[derive(Debug, Default)]
struct Second {
    began: Option<Instant>,
    admitted: u32,
    suppressed: u64,
}

/// Enough to see what is going on, and little enough that an attack is not the log's to carry.
const LINES_A_SECOND: u32 = 5;

impl LineLimit {
    /// How many lines have been left out since the last one, if this one may be written.
    pub(super) fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if second.began.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            (second.began, second.admitted) = (Some(now), 0);
        }
        if second.admitted == LINES_A_SECOND {
            second.suppressed += 1;
            return None;
        }
        second.admitted += 1;
        Some(std::mem::take(&mut second.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_writes_few_lines_a_second_and_says_what_it_left_out() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        let admitted: Vec<u64> = (0..1000).filter_map(|_| limit.admit_at(start)).collect();
        assert_eq!(admitted, [0; 5]);
        assert_eq!(limit.admit_at(start + Duration::from_millis(999)), None);
        assert_eq!(limit.admit_at(start + Duration::from_secs(1)), Some(996));
        assert_eq!(limit.admit_at(start + Duration::from_secs(1)), Some(0));
    }
}
