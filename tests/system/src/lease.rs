//! `--lease`, in seconds.

use std::time::Duration;

use sendarix_webhooks::receiver::ReceiverBuilder;

/// Lets a crashed process keep an event from being handled elsewhere for this many seconds, and shortens what must be over by
/// then.
pub fn set(builder: ReceiverBuilder, seconds: u64) -> ReceiverBuilder {
    let lease = Duration::from_secs(seconds);
    // Three times the time that a step of the store may take must be left.
    builder.lease(lease).store_timeout(lease / 10).handler_limit(lease / 2)
}
