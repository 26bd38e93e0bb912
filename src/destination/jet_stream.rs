//! Events on a bus.

use std::collections::HashMap;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use async_nats::jetstream::Context;

use super::trace_context::TraceContext;
use super::{Destination, DestinationFuture};
use crate::event::{EventType, SendarixEvent, printable_id};
use crate::inbox::{Delivery, HandlerError};

/// Publishes each event to NATS JetStream, on the subject `PREFIX.TYPE`: `sendarix.bounce`, or `sendarix.unknown` for a type
/// that is not documented. The payload is the exact text that was signed.
///
/// An event counts as taken once the stream has acknowledged it. The `Nats-Msg-Id` is `PREFIX/ID`, by which the stream drops
/// copies within its duplicate window: make that (2 min by default) as long as Sendarix's schedule,
/// [`RETRY_SCHEDULE`](crate::RETRY_SCHEDULE), if a copy after a crash would hurt. An id with blanks or
/// characters outside of ASCII is replaced by its SHA-256 digest there. A stream that takes the subjects must exist.
///
/// ```
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use sendarix_webhooks::destination::JetStream;
///
/// let client = async_nats::connect("nats://bus.internal").await?;
/// let bus = JetStream::new(async_nats::jetstream::new(client), "sendarix");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct JetStream {
    context: Context,
    prefix: String,
    /// The source of `CloudEvents`, if the events are published as such.
    cloud_events: Option<String>,
    trace_context: TraceContext,
}

impl JetStream {
    /// Publishes in this context (of async-nats 0.51), whose timeout is how long an acknowledgement may take.
    pub fn new(context: Context, prefix: impl Into<String>) -> Self {
        Self { context, prefix: prefix.into(), cloud_events: None, trace_context: TraceContext::default() }
    }

    /// Publishes `CloudEvents` of this source, a URI reference, in the binary mode of their binding for NATS: the same payload, with
    /// `ce-` headers. Default: the payload and its `Nats-Msg-Id` alone.
    #[must_use]
    pub fn cloud_events(self, source: impl Into<String>) -> Self {
        Self { cloud_events: Some(source.into()), ..self }
    }

    /// Sends the trace along with each event, in the headers that this function returns: `traceparent` and `tracestate`. It is
    /// called in the span of the delivery. A header that NATS does not allow, or uses itself (`Nats-…`), is left out. See
    /// [the guide](crate::guide::observability#traces).
    #[must_use]
    pub fn trace_context(self, current: impl Fn() -> HashMap<String, String> + Send + Sync + 'static) -> Self {
        Self { trace_context: TraceContext::new(current), ..self }
    }

    async fn publish(self, event: SendarixEvent) -> Result<(), HandlerError> {
        let event_type = event.kind.event_type().map_or("unknown", EventType::as_str);
        let subject = format!("{}.{event_type}", self.prefix);
        let mut headers = HeaderMap::new();
        for (name, value) in self.trace_context.fields() {
            // An instruction to the server, such as to delete other messages, is no trace.
            let is_servers = name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"));
            if let (false, Ok(name), Ok(value)) = (is_servers, name.parse::<HeaderName>(), value.parse::<HeaderValue>())
            {
                headers.insert(name, value);
            }
        }
        // The prefix too, since a stream that takes those of several destinations has one memory for all.
        headers.insert("Nats-Msg-Id", format!("{}/{}", self.prefix, printable_id(&event.event_id)));
        if let Some(source) = &self.cloud_events {
            for (name, value) in event.to_cloud_event(source).binary_headers() {
                headers.insert(name, value);
            }
        }
        self.context.publish_with_headers(subject, headers, event.body().clone()).await?.await?;
        Ok(())
    }
}

impl Destination for JetStream {
    fn take(&self, delivery: Delivery) -> DestinationFuture {
        Box::pin(self.clone().publish(delivery.event().clone()))
    }
}
