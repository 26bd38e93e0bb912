//! What a handler is given, and what it may say.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::event::SendarixEvent;
use crate::store::ClaimHandle;
use crate::telemetry::Chain;

/// What the handler is given: an event that is authentic, fresh, and claimed for this attempt alone.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub(super) event: SendarixEvent,
    pub(super) attempt: u32,
    pub(super) claim: ClaimHandle,
}

impl Delivery {
    /// The event.
    #[must_use]
    pub fn event(&self) -> &SendarixEvent {
        &self.event
    }

    /// Which attempt at handling this event this is, counted from 1 by the dedup store.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The claim on the event, for a handler that completes it inside its own transaction.
    ///
    /// Without that there is nothing to do with it: the receiver completes the claim when the handler has succeeded.
    #[must_use]
    pub fn claim(&self) -> &ClaimHandle {
        &self.claim
    }
}

/// Why a handler could not handle an event, and whether delivering it again can help.
///
/// Any error becomes one with `?`, and then Sendarix delivers the event again. Where that cannot help, say so with
/// [`permanent`](Self::permanent): the event is kept as a dead letter and acknowledged.
///
/// ```
/// use sendarix_webhooks::{HandlerError, SendarixEvent};
///
/// async fn on_event(event: SendarixEvent) -> Result<(), HandlerError> {
///     let user: u64 = event.message_id.parse().map_err(HandlerError::permanent)?;
///     std::fs::write(format!("/var/spool/events/{user}"), event.body())?; // a full disk may be empty tomorrow
///     Ok(())
/// }
/// ```
///
/// The error goes to the log and into the dead letter; the sender learns nothing of it.
#[derive(Clone)]
pub struct HandlerError {
    cause: Arc<dyn Error + Send + Sync>,
    then: Then,
}

/// What is to become of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Retry,
    /// As `Retry`, and what has failed is a dead letter already.
    RetryKept,
    GiveUp,
}

impl HandlerError {
    /// Sendarix should deliver the event again.
    pub fn retry(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { cause: cause.into().into(), then: Then::Retry }
    }

    /// As [`retry`](Self::retry), where those parts of the delivery that failed have kept a dead letter each.
    pub(crate) fn retry_kept(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { then: Then::RetryKept, ..Self::retry(cause) }
    }

    /// The event can never be handled: keep it as a dead letter, and acknowledge it.
    pub fn permanent(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { cause: cause.into().into(), then: Then::GiveUp }
    }

    /// Whether delivering the event again cannot help.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.then == Then::GiveUp
    }

    pub(super) fn is_kept(&self) -> bool {
        self.then == Then::RetryKept
    }

    /// What went wrong.
    #[must_use]
    pub fn cause(&self) -> &(dyn Error + Send + Sync + 'static) {
        self.cause.as_ref()
    }
}

/// An error that says nothing else can be tried again.
impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HandlerError {
    fn from(cause: E) -> Self {
        Self::retry(cause)
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Chain(self.cause()), f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError").field("then", &self.then).field("cause", &self.cause).finish()
    }
}

/// What a handler returned on success, as far as the receiver cares: its HTTP status.
///
/// A status outside 200 to 299 means that the handler failed and that Sendarix should deliver again.
pub trait HandlerResponse {
    /// The HTTP status.
    fn status(&self) -> u16;
}

/// A handler that returns nothing succeeded: 200.
impl HandlerResponse for () {
    fn status(&self) -> u16 {
        200
    }
}

#[cfg(feature = "tower")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
impl<B> HandlerResponse for http::Response<B> {
    fn status(&self) -> u16 {
        self.status().as_u16()
    }
}
