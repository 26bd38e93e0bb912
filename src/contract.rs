//! What Sendarix documents of its requests: headers, schedule, time-out.

use std::time::Duration;

/// The header that carries the signature.
pub const SIGNATURE_HEADER: &str = "x-sendarix-signature";

/// The header that carries the time of the delivery attempt, in Unix seconds.
pub const TIMESTAMP_HEADER: &str = "x-sendarix-timestamp";

/// How long Sendarix waits for an answer before it counts a delivery as failed: 10 s.
pub const SENDER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long Sendarix waits before each of its six attempts: none, then 30 s, 5 min, 30 min, 2 h and 5 h.
pub const ATTEMPTS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_secs(30),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 60 * 60),
    Duration::from_secs(5 * 60 * 60),
];

/// How long Sendarix goes on delivering an event: 7 h 35 min 30 s, the sum of [`ATTEMPTS`]. Its page also says "up to
/// 5 hours"; the longer is the safe one.
pub const RETRY_SCHEDULE: Duration = sum(&ATTEMPTS);

/// The longest lease: 5 min 30 s, the sum of the waits before Sendarix's attempts 2 and 3. An event whose process has
/// crashed is free again for the attempts after that, 30 min, 2 h and 5 h later.
pub const MAX_LEASE: Duration = sum(ATTEMPTS.split_at(3).0);

const fn sum(delays: &[Duration]) -> Duration {
    match delays {
        [] => Duration::ZERO,
        [first, rest @ ..] => match first.checked_add(sum(rest)) {
            Some(sum) => sum,
            None => Duration::MAX,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_those_of_the_documentation() {
        assert_eq!(RETRY_SCHEDULE.as_secs(), 7 * 3600 + 35 * 60 + 30);
        assert_eq!(MAX_LEASE.as_secs(), 5 * 60 + 30);
    }
}
