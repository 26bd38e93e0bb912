//! What the receiver writes to the log, through [`tracing`].
//!
//! | event | level | target | fields |
//! |---|---|---|---|
//! | receipt | info | [`TARGET`] | `event_id`, `event_type`, `timestamp`, `message_id`, `secret` |
//! | outcome | info, warn or error | [`TARGET`] | `outcome`, `status`, `duration_ms`, `attempt`, `error` |
//! | refusal | warn | [`AUDIT_TARGET`] | `endpoint`, `outcome`, `reason`, `status`, `detail` |
//!
//! All but refusals are inside a span `sendarix_delivery` with `endpoint`, `event_id`, `event_type` and `message_id`,
//! and so is whatever the handler logs. `secret` is the label of the secret that matched: when only the newest is seen,
//! the one before it can go. For a dead letter that is redriven it is `(redriven)`.
//!
//! No recipient, body or secret is logged above debug, with one exception: the text of a handler's own error is logged
//! as the handler wrote it. At debug, a decoder's error may quote a part of the body. Text that comes from outside is
//! escaped and cut to 128 characters.

use std::error::Error;
use std::fmt;

use tokio::time::Instant;
use tracing::{Level, Span};

use crate::event::{Envelope, SendarixEvent};
use crate::receiver::{Answer, Outcome, RefusalKind};

/// The target of everything but refusals.
pub const TARGET: &str = "sendarix_webhooks";

/// The target of refused requests, for a security audit. Under attack it is as busy as the attacker: filter it by this
/// name.
pub const AUDIT_TARGET: &str = "sendarix_webhooks::audit";

/// What stands in the place of a secret's label when a dead letter is delivered again.
pub(crate) const REDRIVEN: &str = "(redriven)";

/// The span of one delivery, from decoding to its outcome.
pub(crate) fn delivery_span(endpoint: &str, event: Option<&SendarixEvent>) -> Span {
    match event {
        Some(event) => tracing::info_span!(
            target: TARGET,
            "sendarix_delivery",
            endpoint,
            event_id = ?Clipped(&event.event_id),
            event_type = ?Clipped(event.type_name()),
            message_id = ?Clipped(&event.message_id),
        ),
        None => tracing::info_span!(target: TARGET, "sendarix_delivery", endpoint),
    }
}

pub(crate) fn received(event: &Envelope, secret: &str) {
    tracing::info!(
        target: TARGET,
        event_id = ?Clipped(&event.event_id),
        event_type = ?Clipped(event.type_name()),
        timestamp = %event.timestamp,
        message_id = ?Clipped(&event.message_id),
        secret,
        "received an event",
    );
}

/// Logs what became of a delivery, at the level that it deserves.
pub(crate) fn settled(outcome: Outcome, status: u16, admitted_at: Instant, attempt: Option<u32>, error: Option<&str>) {
    macro_rules! log {
        ($level:expr, $message:literal) => {
            tracing::event!(
                target: TARGET,
                $level,
                outcome = outcome.label(),
                status,
                duration_ms = admitted_at.elapsed().as_secs_f64() * 1000.0,
                attempt,
                error,
                $message
            )
        };
    }
    match outcome {
        Outcome::Processed | Outcome::Duplicate | Outcome::Ignored | Outcome::InFlight => {
            log!(Level::INFO, "settled a delivery");
        }
        Outcome::StoreUnavailable => log!(Level::ERROR, "a store failed; Sendarix will deliver again"),
        _ => log!(Level::WARN, "settled a delivery"),
    }
}

pub(crate) fn refused(endpoint: &str, kind: RefusalKind, answer: &Answer, detail: Option<&dyn fmt::Display>) {
    tracing::warn!(
        target: AUDIT_TARGET,
        endpoint,
        outcome = kind.outcome().label(),
        reason = kind.label(),
        status = answer.status(),
        detail = detail.map(|detail| Clipped(&detail.to_string()).to_string()),
        "refused a request",
    );
}

/// Text from outside: escaped, so that it can forge no log line, and cut.
pub(crate) struct Clipped<'a>(pub(crate) &'a str);

const MAX_CHARS: usize = 128;

/// In quotes, so that it cannot look like another field.
impl fmt::Debug for Clipped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl fmt::Display for Clipped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, cut) = match self.0.char_indices().nth(MAX_CHARS) {
            Some((end, _)) => self.0.split_at(end),
            None => (self.0, ""),
        };
        fmt::Display::fmt(&shown.escape_debug(), f)?;
        f.write_str(if cut.is_empty() { "" } else { "…" })
    }
}

/// An error and its causes, on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_is_escaped_and_cut() {
        let hostile = format!("id\n\u{1b}[31m\u{202e}{}", "é".repeat(500));
        let shown = Clipped(&hostile).to_string();
        assert!(shown.starts_with(r"id\n\u{1b}[31m\u{202e}é"), "{shown}");
        assert!(shown.ends_with("é…"), "{shown}");
        assert_eq!(shown.chars().filter(|c| *c == 'é').count(), MAX_CHARS - 9);
        assert_eq!(Clipped("evt_1").to_string(), "evt_1");
    }
}
