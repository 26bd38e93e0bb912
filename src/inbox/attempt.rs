//! One attempt to handle an event.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::delivering::{Delivering, LocalDelivering, LocalTask};
use super::handler::{Delivery, HandlerError, HandlerResponse};
use super::{DrainGuard, Inbox};
use crate::event::{DecodeError, EventKey, SendarixEvent};
use crate::telemetry::DeliveryKind;
use crate::verify::Signature;

/// An event on its way to the handler.
pub(crate) struct Attempt {
    pub(super) inbox: Inbox,
    pub(super) source: Source,
    pub(super) body: Bytes,
    /// `None` where the event has come from the application.
    pub(super) proof: Option<Proof>,
    /// When the request's head was there, or when this was made.
    pub(super) began: Instant,
    pub(super) guard: DrainGuard,
}

/// What proved that the body is Sendarix's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof {
    pub(crate) signature: Signature,
    /// In Unix seconds; `None` where the receiver ignores it.
    pub(crate) timestamp_header: Option<u64>,
}

/// What brought the event.
pub(super) enum Source {
    /// A request that was signed with the secret of this label.
    Request(Arc<str>),
    /// A dead letter that is redriven.
    Letter(RedrivenLetter),
    /// A delivery that is under way, of which this is a part.
    Part(SendarixEvent),
    /// The application, such as a job of its queue.
    Application(SendarixEvent),
}

/// What a redriven attempt knows of its letter.
pub(super) struct RedrivenLetter {
    pub(super) key: EventKey,
    pub(super) attempts: u32,
}

/// The event, or why the body cannot be read as one. The error is boxed, so that it does not enlarge every delivery's future.
pub(super) type Decoded = Result<SendarixEvent, Box<DecodeError>>;

impl Attempt {
    /// A request whose body was signed with the secret of this label.
    pub(crate) fn of_request(
        inbox: Inbox,
        secret: Arc<str>,
        body: Bytes,
        proof: Proof,
        began: Instant,
        guard: DrainGuard,
    ) -> Self {
        Self { inbox, source: Source::Request(secret), body, proof: Some(proof), began, guard }
    }

    pub(crate) fn body(&self) -> &Bytes {
        &self.body
    }

    pub(crate) fn deliver<H, F, R>(self, handler: H) -> Delivering<R>
    where
        H: FnOnce(Delivery) -> F + Send + 'static,
        F: Future<Output = Result<R, HandlerError>> + Send + 'static,
        R: HandlerResponse + Send + 'static,
    {
        let (event, span) = self.decode();
        let (inbox, began, kind) = (self.inbox.clone(), self.began, self.kind());
        let delivery = self.run(event, span.clone(), handler).instrument(span.clone());
        Delivering::new(delivery, inbox, began, kind, span)
    }

    pub(crate) fn deliver_local<H, F, R>(self, spawn_local: fn(LocalTask), handler: H) -> LocalDelivering<R>
    where
        H: FnOnce(Delivery) -> F + 'static,
        F: Future<Output = Result<R, HandlerError>> + 'static,
        R: HandlerResponse + 'static,
    {
        let (event, span) = self.decode();
        let (inbox, began, kind) = (self.inbox.clone(), self.began, self.kind());
        let delivery = self.run(event, span.clone(), handler).instrument(span.clone());
        LocalDelivering::new_local(delivery, spawn_local, inbox, began, kind, span)
    }

    pub(super) fn is_request(&self) -> bool {
        matches!(self.source, Source::Request(_))
    }

    /// The letter that is redriven.
    pub(super) fn letter_redriven(&self) -> Option<&RedrivenLetter> {
        match &self.source {
            Source::Letter(letter) => Some(letter),
            Source::Request(_) | Source::Part(_) | Source::Application(_) => None,
        }
    }

    /// Which counter the delivery goes to.
    pub(super) fn kind(&self) -> DeliveryKind {
        match self.source {
            Source::Request(_) => DeliveryKind::Request,
            Source::Letter(_) => DeliveryKind::Redrive,
            Source::Part(_) | Source::Application(_) => DeliveryKind::Redelivery,
        }
    }

    /// The event, and the span of its delivery.
    fn decode(&self) -> (Decoded, Span) {
        let event = match &self.source {
            Source::Part(event) | Source::Application(event) => Ok(event.clone()),
            Source::Request(_) | Source::Letter(_) => SendarixEvent::decode(self.body.clone()).map_err(Box::new),
        };
        let span = self.inbox.telemetry().delivery_span(event.as_ref().ok());
        (event, span)
    }
}

/// Leaves out the body.
impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (endpoint, kind) = (self.inbox.endpoint(), self.kind());
        f.debug_struct("Attempt").field("endpoint", &endpoint).field("kind", &kind).finish_non_exhaustive()
    }
}
