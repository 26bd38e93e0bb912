//! The freshness of a request, by its timestamp header.
//!
//! The timestamp header is not covered by the signature, so this is a filter against old requests, not a defense
//! against replay: a signed body that was captured can be sent with any timestamp. The dedup memory is that defense.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::outcome::RefusalKind;

/// Reads a header of decimal Unix seconds, and nothing else: no sign, no fraction, no white space.
pub(super) fn parse_timestamp(header: &[u8]) -> Result<u64, RefusalKind> {
    if header.is_empty() || !header.iter().all(u8::is_ascii_digit) {
        return Err(RefusalKind::TimestampMalformed);
    }
    // Only a number beyond u64 can still fail.
    str::from_utf8(header).ok().and_then(|digits| digits.parse().ok()).ok_or(RefusalKind::TimestampMalformed)
}

/// Judges a time against now, to the millisecond, with the same tolerance in both directions.
pub(super) fn check_fresh(unix_seconds: u64, now: SystemTime, tolerance: Duration) -> Result<(), RefusalKind> {
    let now_ms = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let sent_ms = u128::from(unix_seconds) * 1000;
    if sent_ms.abs_diff(now_ms) <= tolerance.as_millis() {
        Ok(())
    } else if sent_ms < now_ms {
        Err(RefusalKind::TimestampTooOld)
    } else {
        Err(RefusalKind::TimestampTooNew)
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
            assert_eq!(parse_timestamp(header), Err(RefusalKind::TimestampMalformed), "{header:?}");
        }
    }

    #[test]
    fn tolerates_exactly_the_tolerance_in_both_directions() {
        let tolerance = Duration::from_secs(300);
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let a_millisecond = Duration::from_millis(1);
        assert_eq!(check_fresh(999_700, now, tolerance), Ok(()));
        assert_eq!(check_fresh(1_000_300, now, tolerance), Ok(()));
        assert_eq!(check_fresh(999_700, now + a_millisecond, tolerance), Err(RefusalKind::TimestampTooOld));
        assert_eq!(check_fresh(1_000_300, now - a_millisecond, tolerance), Err(RefusalKind::TimestampTooNew));
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(check_fresh(u64::MAX, UNIX_EPOCH, Duration::from_secs(300)), Err(RefusalKind::TimestampTooNew));
        assert_eq!(check_fresh(0, UNIX_EPOCH - Duration::from_secs(1), Duration::ZERO), Ok(()));
        assert_eq!(check_fresh(u64::MAX, UNIX_EPOCH, Duration::MAX), Ok(()));
    }
}
