//! What the receiver says of itself: to the log, through [`tracing`], and with the feature `metrics` in numbers, whose names
//! are in [`metrics`].
//!
//! | event | level | target | fields |
//! |---|---|---|---|
//! | receipt | info | [`TARGET`] | `event_id`, `event_type`, `timestamp`, `message_id`, `from`, `secret` |
//! | outcome | info, warn or error | [`TARGET`] | `outcome`, `status`, `duration_ms`, `attempt`, `error` |
//! | refusal | warn | [`AUDIT_TARGET`] | `endpoint`, `outcome`, `reason`, `status`, `detail`, `suppressed` |
//! | a request that ended before it was verified | warn | [`TARGET`] | `endpoint`, `after_ms`, `suppressed` |
//! | a dead letter was discarded | info | [`TARGET`] | `endpoint`, `event_id`, `because` |
//! | dead letters were purged | info | [`TARGET`] | `endpoint`, `before`, `purged` |
//! | the dedup memory is full, once a minute at most | warn | [`TARGET`] | `forgotten` |
//! | a store failed when it was asked for readiness | warn | [`TARGET`] | `endpoint`, `error` |
//! | a shutdown begins to wait for deliveries, and has waited | info | [`TARGET`] | `endpoint`, `deliveries` |
//!
//! The first two are inside a span `sendarix_delivery` with `endpoint`, `event_id`, `event_type` and `message_id`,
//! and so is what the handler logs. `secret` is the label of the secret that matched: when only the newest is seen,
//! the one before it can go. For what comes from a dead letter or from the application, `from` stands in its place.
//!
//! The span carries what an OpenTelemetry layer reads: `otel.kind` from its start, and at its end `messaging.system`,
//! `messaging.operation.name`, `messaging.operation.type`, `messaging.destination.name` (the endpoint), `messaging.message.id`
//! (the event's id), `otel.status_code`, and after a failure `otel.status_description` and `error.type` (the outcome). A failure is
//! an outcome that the log has at warn or error. A sampler sees `otel.kind` alone. A [`Slow`](crate::Outcome::Slow) answer leaves
//! the span open, because the handler goes on.
//!
//! No recipient, body or secret is logged above debug, with one exception: the text of a handler's own error is logged
//! as the handler wrote it. At debug, a decoder's error may quote a part of the body. Text that comes from outside is
//! escaped and cut to 128 characters.

#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
mod no_metrics;
mod span;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Level, Span};

#[cfg(feature = "metrics")]
use self::metrics::Meter;
#[cfg(not(feature = "metrics"))]
use self::no_metrics::Meter;
use crate::dead_letter::DeadLetterReason;
use crate::event::SendarixEvent;
pub use crate::logging::{AUDIT_TARGET, TARGET};
use crate::logging::{Clipped, LineLimit, milliseconds};
use crate::outcome::{Outcome, RefusalKind, Settled};

/// All that one receiver says of itself. What happens is a method, and each is a line of the log, a number, or both.
#[derive(Debug)]
pub(crate) struct Telemetry {
    endpoint: Arc<str>,
    /// Made with the first request, by when the application has set up where the numbers go.
    meter: OnceLock<Meter>,
    /// These are written at an attacker's pace; each reason has its limit, so that none hides another.
    refused_lines: [LineLimit; RefusalKind::ALL.len()],
    abandoned_lines: LineLimit,
}

/// Whether a delivery that ended like this is a warning in the log, and an error in a trace.
fn is_failure(outcome: Outcome) -> bool {
    !matches!(outcome, Outcome::Processed | Outcome::Duplicate | Outcome::Ignored | Outcome::InFlight)
}

/// Which counter a delivery goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DeliveryKind {
    Request,
    /// Of a dead letter.
    Redrive,
    /// Of an event that the application delivers again.
    Redelivery,
}

/// Which store has failed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FailedStore {
    Dedup,
    DeadLetters,
}

impl Telemetry {
    pub(crate) fn new(endpoint: Arc<str>) -> Self {
        let (refused_lines, abandoned_lines) =
            (std::array::from_fn(|_| LineLimit::five_a_second()), LineLimit::five_a_second());
        Self { endpoint, meter: OnceLock::new(), refused_lines, abandoned_lines }
    }

    /// `data` of an event was neither an object nor `null`, so that none of its fields could be read.
    pub(crate) fn unreadable_data(&self) {
        self.meter().unreadable_data();
        let message = "the `data` of the event is no JSON object; the event is delivered without its fields";
        tracing::warn!(target: TARGET, "{message}");
    }

    /// A request went away between its head and its proof: no handler, no answer, no letter.
    pub(crate) fn abandoned(&self, after: Duration) {
        self.meter().abandoned();
        if let Some(suppressed) = self.abandoned_lines.admit() {
            let message = "a request ended before its body was verified: the connection broke off, or the server cancelled it \
                because the client closed its sending side; Sendarix delivers again";
            let (endpoint, after_ms) = (&*self.endpoint, milliseconds(after));
            tracing::warn!(target: TARGET, endpoint, after_ms, suppressed, "{message}");
        }
    }

    fn meter(&self) -> &Meter {
        self.meter.get_or_init(|| Meter::new(&self.endpoint))
    }

    /// The span of one delivery, from decoding to its outcome.
    pub(crate) fn delivery_span(&self, event: Option<&SendarixEvent>) -> Span {
        span::start(&self.endpoint, event)
    }

    /// Says in the span of a delivery how it ended: after [`settled`](Self::settled), whose line is in the span.
    pub(crate) fn span_ended(&self, span: &Span, event: Option<&SendarixEvent>, settled: &Settled) {
        span::end(span, &self.endpoint, event, settled);
    }

    /// A request was signed with the secret of this label.
    pub(crate) fn secret_matched(&self, secret: &str) {
        self.meter().secret_matched(secret);
    }

    /// An authentic event has come, for the first time or again: with the secret that signed it, if it is Sendarix's request.
    pub(crate) fn received(&self, event: &SendarixEvent, from: &'static str, secret: Option<&str>) {
        tracing::info!(
            target: TARGET,
            event_id = ?Clipped(&event.event_id),
            event_type = ?Clipped(event.type_name()),
            timestamp = %event.timestamp,
            message_id = ?Clipped(&event.message_id),
            from,
            secret,
            "received an event",
        );
    }

    /// An event is claimed for the first time. `lag` is how long after it happened.
    pub(crate) fn new_event(&self, event: &SendarixEvent, lag: impl FnOnce() -> Duration) {
        self.meter().new_event(event, lag);
    }

    /// A handler runs for as long as this is held.
    pub(crate) fn handling(&self) -> impl Drop + use<> {
        self.meter().handling()
    }

    /// Says what became of a delivery that began then, at the level that it deserves.
    pub(crate) fn settled(&self, settled: &Settled, began: Instant, kind: DeliveryKind) {
        let Settled { outcome, status, attempt, .. } = *settled;
        let error = settled.error.as_deref();
        // The clock is read where the time is needed.
        let duration = || began.elapsed();
        self.meter().settled(outcome, duration, kind);
        macro_rules! log {
            ($level:expr, $message:literal) => {
                tracing::event!(
                    target: TARGET,
                    $level,
                    outcome = outcome.as_str(),
                    status,
                    duration_ms = milliseconds(duration()),
                    attempt,
                    error,
                    $message
                )
            };
        }
        match outcome {
            Outcome::StoreUnavailable => log!(Level::ERROR, "a store failed; Sendarix will deliver again"),
            Outcome::NotTaken => log!(Level::ERROR, "no handler took the event; Sendarix will deliver again"),
            _ if is_failure(outcome) => log!(Level::WARN, "settled a delivery"),
            _ => log!(Level::INFO, "settled a delivery"),
        }
    }

    /// A request was refused before its signature was proven.
    pub(crate) fn refused(&self, kind: RefusalKind, status: u16, detail: Option<&dyn fmt::Display>) {
        self.meter().refused(kind);
        let lines =
            RefusalKind::ALL.iter().position(|one| *one == kind).and_then(|index| self.refused_lines.get(index));
        let Some(suppressed) = lines.map_or(Some(0), LineLimit::admit) else { return };
        tracing::warn!(
            target: AUDIT_TARGET,
            endpoint = &*self.endpoint,
            outcome = kind.outcome().as_str(),
            reason = kind.as_str(),
            status,
            detail = detail.map(|detail| Clipped(&detail.to_string()).to_string()),
            suppressed,
            "refused a request",
        );
    }

    /// A claim was found to be another's.
    pub(crate) fn taken_over(&self) {
        self.meter().taken_over();
        let message = "the lease ended while the handler ran, and another delivery took the event over: its effects may be \
            there twice, unless they are one transaction with the completion; make the lease longer than the slowest handler";
        tracing::warn!(target: TARGET, "{message}");
    }

    /// One step of a store failed. What follows from it is said where that is known.
    pub(crate) fn store_failed(&self, store: FailedStore) {
        self.meter().store_failed(store);
    }

    pub(crate) fn letter_kept(&self, reason: &DeadLetterReason, attempts: u32) {
        self.meter().letter_kept(reason, attempts);
    }

    pub(crate) fn letter_discarded(&self) {
        self.meter().letter_discarded();
    }

    pub(crate) fn letters_counted(&self, counts: &HashMap<DeadLetterReason, u64>) {
        self.meter().letters_counted(counts);
    }
}
