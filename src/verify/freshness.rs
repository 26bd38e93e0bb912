//! Is the delivery attempt of now?
//!
//! The timestamp header is not covered by the signature, so this is a filter against old requests, not a defence
//! against replay: whoever holds a signed body can send it with any timestamp. The dedup memory is that defence.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What is wrong with a timestamp header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimestampFault {
    Malformed,
    TooOld,
    TooNew,
}

/// Reads a header of decimal Unix seconds, and nothing else: no sign, no fraction, no white space.
pub(crate) fn parse_timestamp(header: &[u8]) -> Result<u64, TimestampFault> {
    if header.is_empty() || !header.iter().all(u8::is_ascii_digit) {
        return Err(TimestampFault::Malformed);
    }
    // Only a number beyond u64 can still fail.
    str::from_utf8(header).ok().and_then(|digits| digits.parse().ok()).ok_or(TimestampFault::Malformed)
}

/// Judges a time against now, to the millisecond, with the same tolerance in both directions.
pub(crate) fn check_fresh(unix_seconds: u64, now: SystemTime, tolerance: Duration) -> Result<(), TimestampFault> {
    let now_ms = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let sent_ms = u128::from(unix_seconds) * 1000;
    if sent_ms.abs_diff(now_ms) <= tolerance.as_millis() {
        Ok(())
    } else if sent_ms < now_ms {
        Err(TimestampFault::TooOld)
    } else {
        Err(TimestampFault::TooNew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_digits_and_nothing_else() {
        assert_eq!(parse_timestamp(b"1710000000"), Ok(1_710_000_000));
        assert_eq!(parse_timestamp(b"0001710000000"), Ok(1_710_000_000));
        assert_eq!(parse_timestamp(b"18446744073709551615"), Ok(u64::MAX));
        let malformed: [&[u8]; 13] = [
            b"",
            b" ",
            b"+1710000000",
            b"-1710000000",
            b"1710000000.0",
            b"1710000000 ",
            b" 1710000000",
            b"1.71e9",
            b"0x65ec8780",
            b"NaN",
            b"18446744073709551616",
            b"99999999999999999999999999999999999999999999999999",
            "１７１００００００".as_bytes(),
        ];
        for header in malformed {
            assert_eq!(parse_timestamp(header), Err(TimestampFault::Malformed), "{header:?}");
        }
    }

    #[test]
    fn tolerates_exactly_the_tolerance_in_both_directions() {
        let tolerance = Duration::from_secs(300);
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let a_millisecond = Duration::from_millis(1);
        assert_eq!(check_fresh(999_700, now, tolerance), Ok(()));
        assert_eq!(check_fresh(1_000_300, now, tolerance), Ok(()));
        assert_eq!(check_fresh(999_700, now + a_millisecond, tolerance), Err(TimestampFault::TooOld));
        assert_eq!(check_fresh(1_000_300, now - a_millisecond, tolerance), Err(TimestampFault::TooNew));
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(check_fresh(u64::MAX, UNIX_EPOCH, Duration::from_secs(300)), Err(TimestampFault::TooNew));
        assert_eq!(check_fresh(0, UNIX_EPOCH - Duration::from_secs(1), Duration::ZERO), Ok(()));
        assert_eq!(check_fresh(u64::MAX, UNIX_EPOCH, Duration::MAX), Ok(()));
    }
}
