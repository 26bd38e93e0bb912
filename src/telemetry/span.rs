//! The span of a delivery, with the fields that an OpenTelemetry layer for [`tracing`] understands.

use tracing::Span;
use tracing::field::{self, Empty};

use super::is_failure;
use crate::event::SendarixEvent;
use crate::logging::{Clipped, TARGET};
use crate::outcome::Settled;

/// Starts the span of one delivery. `event` is `None` where the body could not be read.
pub(super) fn start(endpoint: &str, event: Option<&SendarixEvent>) -> Span {
    tracing::info_span!(
        target: TARGET,
        "sendarix_delivery",
        endpoint,
        event_id = event.map(|event| field::debug(Clipped(&event.event_id))),
        event_type = event.map(|event| field::debug(Clipped(event.type_name()))),
        message_id = event.map(|event| field::debug(Clipped(&event.message_id))),
        // A layer reads the kind when the span starts, and the rest at any time: see `end`.
        otel.kind = "consumer",
        otel.status_code = Empty,
        otel.status_description = Empty,
        "error.type" = Empty,
        messaging.system = Empty,
        messaging.operation.name = Empty,
        "messaging.operation.type" = Empty,
        messaging.destination.name = Empty,
        messaging.message.id = Empty,
    )
}

/// Says how the delivery ended.
///
/// The names are those of OpenTelemetry's semantic conventions for messaging. They are recorded after the last line of the log,
/// because the fields of the span stand in every line.
pub(super) fn end(span: &Span, endpoint: &str, event: Option<&SendarixEvent>, settled: &Settled) {
    if span.is_disabled() {
        return;
    }
    span.record("messaging.system", "sendarix");
    span.record("messaging.operation.name", "process");
    span.record("messaging.operation.type", "process");
    span.record("messaging.destination.name", endpoint);
    if let Some(event) = event {
        span.record("messaging.message.id", event.event_id.as_str());
    }
    if is_failure(settled.outcome) {
        let outcome = settled.outcome.as_str();
        span.record("otel.status_code", "ERROR");
        // An outcome, and not the handler's own error, which may hold anything.
        span.record("otel.status_description", outcome);
        span.record("error.type", outcome);
    } else {
        // A layer takes any line at error for a failure, also one that the handler has recovered from.
        span.record("otel.status_code", "OK");
    }
}
