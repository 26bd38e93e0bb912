//! A point in time, as Sendarix writes it: RFC 3339 in the full envelope, Unix seconds in the simplified one.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::fields::{Decimal, text};

/// A point in time in UTC, between the years 0 and 9999, with nanoseconds.
///
/// It is this crate's own type so that no date library's version becomes part of your code. Convert it with
/// [`unix_seconds`](Self::unix_seconds) and `SystemTime::from`, or switch on the feature of the library you use:
/// `time-03`, `chrono-04` or `jiff-02`.
///
/// ```
/// use sendarix_webhooks::Timestamp;
///
/// let sent: Timestamp = "2026-04-19T16:32:01+02:00".parse()?;
/// assert_eq!(sent.to_string(), "2026-04-19T14:32:01Z");
/// assert_eq!(sent.unix_seconds(), 1_776_609_121);
/// # Ok::<(), sendarix_webhooks::TimestampError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// The point in time that many seconds after 1970-01-01T00:00:00Z; `None` outside the years 0 to 9999.
    #[must_use]
    pub fn from_unix_seconds(seconds: i64) -> Option<Self> {
        OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(Self::checked)
    }

    /// The point in time that a JSON value stands for: an RFC 3339 text, or Unix seconds as a number or as a text.
    ///
    /// A text may have a blank for the `T`, and an offset without its colon. One without an offset is ambiguous, and so
    /// are milliseconds, which come out beyond the year 9999.
    pub(super) fn from_json(json: &str) -> Result<Self, TimestampError> {
        let Some(text) = text(json) else { return Self::from_decimal(json).ok_or(TimestampError(())) };
        let text = text.trim();
        text.parse().or_else(|_| Self::from_decimal(text).map_or_else(|| as_rfc_3339(text).parse(), Ok))
    }

    fn from_decimal(seconds: &str) -> Option<Self> {
        let nanos = seconds.parse::<Decimal>().ok()?.scaled(9)?;
        OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().and_then(Self::checked)
    }

    /// Whole seconds since 1970-01-01T00:00:00Z, negative before it.
    #[must_use]
    pub fn unix_seconds(self) -> i64 {
        self.0.unix_timestamp()
    }

    /// How long before `later` this was; `None` if it was after it.
    pub(crate) fn until(self, later: Self) -> Option<Duration> {
        (later.0 - self.0).try_into().ok()
    }

    /// Without what is shorter than a microsecond.
    pub(crate) fn to_microsecond(self) -> Self {
        let microsecond = self.0.nanosecond() / 1000 * 1000;
        Self(self.0.replace_nanosecond(microsecond).unwrap_or(self.0))
    }

    /// This much earlier, or the first point in time.
    #[cfg(feature = "mail")]
    pub(crate) fn before(self, duration: Duration) -> Self {
        let nanos = i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
        Self::nearest(self.0.unix_timestamp_nanos().saturating_sub(nanos))
    }

    /// Microseconds since 1970, negative before it.
    #[cfg(all(feature = "mail", any(feature = "postgres", feature = "sqlite")))]
    pub(crate) fn unix_micros(self) -> i64 {
        i64::try_from(self.0.unix_timestamp_nanos().div_euclid(1000)).unwrap_or(i64::MAX)
    }

    /// The nearest point in time.
    #[cfg(all(feature = "mail", any(feature = "postgres", feature = "sqlite")))]
    pub(crate) fn from_unix_micros(micros: i64) -> Self {
        Self::nearest(i128::from(micros) * 1000)
    }

    /// The beginning of its minute.
    #[cfg(feature = "mail")]
    pub(crate) fn to_minute(self) -> Self {
        Self::nearest(self.0.unix_timestamp_nanos().div_euclid(MINUTE_NANOS) * MINUTE_NANOS)
    }

    /// RFC 3339 in a fixed width, so that texts compare as the times do.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn to_sortable(self) -> String {
        let (date, time) = (self.0.date(), self.0.time());
        let (hour, minute, second, nanosecond) = time.as_hms_nano();
        format!(
            "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{nanosecond:09}Z",
            date.year(),
            u8::from(date.month()),
            date.day()
        )
    }

    fn nearest(unix_nanos: i128) -> Self {
        let nearest = unix_nanos.clamp(YEAR_0_NANOS, YEAR_9999_NANOS);
        Self(OffsetDateTime::from_unix_timestamp_nanos(nearest).unwrap_or(OffsetDateTime::UNIX_EPOCH))
    }

    fn checked(utc: OffsetDateTime) -> Option<Self> {
        (0..=9999).contains(&utc.year()).then_some(Self(utc))
    }
}

/// The text is not a time that can be told: neither RFC 3339 with an offset nor Unix seconds, or outside the years 0 to
/// 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time: expected RFC 3339 with an offset, such as 2026-04-19T14:32:01Z, or Unix seconds")]
pub struct TimestampError(());

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        OffsetDateTime::parse(text, &Rfc3339)
            .ok()
            .and_then(|time| time.checked_to_offset(UtcOffset::UTC))
            .and_then(Self::checked)
            .ok_or(TimestampError(()))
    }
}

/// Brings `2026-04-19 14:32:01 +0000` into the notation of RFC 3339: a `T` for the blank, the offset at once and with its
/// minutes and colon.
fn as_rfc_3339(text: &str) -> String {
    let Some((date, time)) = text.split_at_checked(10) else { return text.to_owned() };
    let time = time.strip_prefix([' ', 'T', 't']).unwrap_or(time);
    let Some(sign) = time.find(['+', '-']) else { return format!("{date}T{time}") };
    let (time, offset) = time.split_at(sign);
    let (hours, minutes) = offset.split_at_checked(3).unwrap_or((offset, ""));
    let minutes = minutes.strip_prefix(':').unwrap_or(minutes);
    let minutes = if minutes.is_empty() { "00" } else { minutes };
    format!("{date}T{}{hours}:{minutes}", time.trim_end())
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Only the error's fixed text: what was sent may be anything, and this may end in a log.
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Times that a [`Timestamp`] cannot hold become the nearest that it can.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since_epoch = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i128::try_from(after.as_nanos()).unwrap_or(i128::MAX),
            Err(before) => i128::try_from(before.duration().as_nanos()).map_or(i128::MIN, |nanos| -nanos),
        };
        Self::nearest(since_epoch)
    }
}

/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59.999999999Z, in nanoseconds since 1970.
const YEAR_0_NANOS: i128 = -62_167_219_200 * 1_000_000_000;
const YEAR_9999_NANOS: i128 = 253_402_300_799 * 1_000_000_000 + 999_999_999;

#[cfg(feature = "mail")]
const MINUTE_NANOS: i128 = 60 * 1_000_000_000;

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        timestamp.0.into()
    }
}

#[cfg(feature = "time-03")]
#[cfg_attr(docsrs, doc(cfg(feature = "time-03")))]
impl From<Timestamp> for OffsetDateTime {
    fn from(timestamp: Timestamp) -> Self {
        timestamp.0
    }
}

#[cfg(feature = "chrono-04")]
#[cfg_attr(docsrs, doc(cfg(feature = "chrono-04")))]
impl From<Timestamp> for chrono::DateTime<chrono::Utc> {
    fn from(timestamp: Timestamp) -> Self {
        SystemTime::from(timestamp).into()
    }
}

/// Fails for the last day of the year 9999, which jiff leaves out.
#[cfg(feature = "jiff-02")]
#[cfg_attr(docsrs, doc(cfg(feature = "jiff-02")))]
impl TryFrom<Timestamp> for jiff::Timestamp {
    type Error = jiff::Error;

    fn try_from(timestamp: Timestamp) -> Result<Self, Self::Error> {
        SystemTime::from(timestamp).try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_notations_to_the_same_moment() {
        let text = Timestamp::from_json(r#""2024-03-09T16:00:00Z""#).unwrap();
        let seconds = Timestamp::from_json("1710000000").unwrap();
        assert_eq!(text, seconds);
        assert_eq!(serde_json::to_string(&seconds).unwrap(), r#""2024-03-09T16:00:00Z""#);
    }

    #[test]
    fn is_lenient_in_the_notation() {
        for (json, expected) in [
            ("1776609121.5", "2026-04-19T14:32:01.5Z"),
            ("1.7766091215e9", "2026-04-19T14:32:01.5Z"),
            (r#""1776609121""#, "2026-04-19T14:32:01Z"),
            (r#""1776609121.25""#, "2026-04-19T14:32:01.25Z"),
            (r#""2026-04-19T14:32:01+0000""#, "2026-04-19T14:32:01Z"),
            (r#""2026-04-19T16:32:01.5+0200""#, "2026-04-19T14:32:01.5Z"),
            (r#""2026-04-19 14:32:01Z""#, "2026-04-19T14:32:01Z"),
            (r#""2026-04-19 09:32:01-0500""#, "2026-04-19T14:32:01Z"),
            (r#""2026-04-19t14:32:01z""#, "2026-04-19T14:32:01Z"),
            (r#"" 2026-04-19 14:32:01+00""#, "2026-04-19T14:32:01Z"),
            (r#""2026-04-19 14:32:01.25 +0000""#, "2026-04-19T14:32:01.25Z"),
            (r#"" 1776609121 ""#, "2026-04-19T14:32:01Z"),
            ("1776609121.00000000000000000000000000000000000000", "2026-04-19T14:32:01Z"),
        ] {
            assert_eq!(Timestamp::from_json(json).map(|time| time.to_string()).as_deref(), Ok(expected), "{json}");
        }
    }

    #[test]
    fn keeps_fractions_of_a_second() {
        let time: Timestamp = "2026-04-19T14:32:01.123456789Z".parse().unwrap();
        assert_eq!(time.to_string(), "2026-04-19T14:32:01.123456789Z");
    }

    #[test]
    fn refuses_what_is_no_time_without_panicking() {
        for text in [
            "\"\"",
            "\"yesterday\"",
            r#""\ud800""#,
            "\"2026-04-19\"",
            "\"2026-02-30T00:00:00Z\"",
            "\"9999-12-31T23:59:59-23:59\"",
            "\"0000-01-01T00:00:00+23:59\"",
            "\"2026-04-19T14:32:01\"",
            "\"2026-04-19 14:32:01\"",
            "1776609121000",
            "\"1776609121000\"",
            "\"é026-04-19 1\"",
            "\"+0000\"",
            "null",
            "true",
            "[]",
            "18446744073709551615",
            "9223372036854775807",
            "-9223372036854775808",
            "1e400",
        ] {
            assert!(Timestamp::from_json(text).is_err(), "{text}");
        }
    }

    #[test]
    fn saturates_at_both_ends() {
        let last = Timestamp(OffsetDateTime::from_unix_timestamp_nanos(YEAR_9999_NANOS).unwrap());
        let far = UNIX_EPOCH + Duration::from_secs(1 << 62);
        assert_eq!(Timestamp::from(far), last);
        assert_eq!(last.to_string(), "9999-12-31T23:59:59.999999999Z");
        let first = Timestamp::from(UNIX_EPOCH - Duration::from_secs(1 << 62));
        assert_eq!(first.to_string(), "0000-01-01T00:00:00Z");
    }

    #[test]
    fn system_time_survives_the_round_trip() {
        let time = UNIX_EPOCH + Duration::new(1_776_609_121, 5);
        assert_eq!(SystemTime::from(Timestamp::from(time)), time);
    }

    #[cfg(feature = "time-03")]
    #[test]
    fn converts_to_time() {
        let time = Timestamp::from_unix_seconds(1_710_000_000).unwrap();
        assert_eq!(OffsetDateTime::from(time).unix_timestamp(), 1_710_000_000);
    }

    #[cfg(feature = "chrono-04")]
    #[test]
    fn converts_to_chrono() {
        let time = Timestamp::from_unix_seconds(1_710_000_000).unwrap();
        assert_eq!(chrono::DateTime::from(time).timestamp(), 1_710_000_000);
    }

    #[cfg(feature = "jiff-02")]
    #[test]
    fn converts_to_jiff() {
        let time = Timestamp::from_unix_seconds(1_710_000_000).unwrap();
        assert_eq!(jiff::Timestamp::try_from(time).unwrap().as_second(), 1_710_000_000);
    }
}
