//! What a handler is given, and what it may say.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::event::SendarixEvent;
use crate::logging::Chain;
use crate::store::ClaimHandle;

/// What the handler is given: an event that is authentic, fresh, and claimed for this attempt alone.
///
/// Behind a layer or a middleware, a 2xx counts only if the handler *took* the event; else a fallback page or a wrong route
/// would acknowledge it. The extractors of axum and actix-web take it, also as `_: Delivery` in a handler that reads the
/// body itself, and so do [`Terminal`](crate::destination::Terminal) and every handler that is given a `Delivery` as its
/// argument. A tower service of your own finds the `Delivery` in the request's extensions and calls [`take`](Self::take).
///
/// To look at it there is not to take it. A middleware that only looks must do so, and not by an extractor, which would take
/// the event for a page behind it.
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

    /// Takes the event: from now on a 2xx says that it has been handled.
    pub fn take(&self) -> &SendarixEvent {
        self.claim.set_taken();
        &self.event
    }

    #[cfg(any(feature = "tower", feature = "actix"))]
    pub(crate) fn is_taken(&self) -> bool {
        // A handler that has completed its claim by itself has taken the event, whatever it calls that.
        self.claim.is_taken() || self.claim.is_completed()
    }

    /// Which attempt at handling this event this is, counted from 1 by the dedup store.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The claim on the event, for a handler that completes it inside its own transaction.
    ///
    /// Without that there is nothing to do with it: the inbox completes the claim when the handler has succeeded.
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
    disposition: Disposition,
}

/// What becomes of an event whose handler failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disposition {
    Retry,
    /// As `Retry`, and what has failed is a dead letter already.
    RetryKept,
    /// As `Retry`, though a service has answered 2xx.
    #[cfg(any(feature = "tower", feature = "actix"))]
    NotTaken,
    GiveUp,
    /// As `GiveUp`, since the type of the event is for no destination.
    UnknownType,
}

/// The error of an event whose type is not documented.
pub(super) const UNKNOWN_TYPE: &str = "this version of the crate does not know the event's type";

impl HandlerError {
    /// Sendarix should deliver the event again.
    pub fn retry(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { cause: cause.into().into(), disposition: Disposition::Retry }
    }

    /// As [`retry`](Self::retry), where those parts of the delivery that failed have kept a dead letter each.
    pub(crate) fn retry_kept(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { disposition: Disposition::RetryKept, ..Self::retry(cause) }
    }

    /// A service inside of the layer answered with this 2xx, and no handler took the event.
    #[cfg(any(feature = "tower", feature = "actix"))]
    pub(crate) fn not_taken(status: u16) -> Self {
        let error = format!(
            "the service inside of the layer answered {status}, but no handler took the event: is it a fallback page, or \
             another route? A handler takes a `SendarixEvent` or a `Delivery` as an argument, one that reads the body itself \
             `_: Delivery`; a service that finds the `Delivery` in the request's extensions calls `Delivery::take`"
        );
        Self { disposition: Disposition::NotTaken, ..Self::retry(error) }
    }

    /// No destination takes events of this type, which is not known: keep it as a dead letter, and acknowledge it.
    pub(crate) fn unknown_type() -> Self {
        Self { disposition: Disposition::UnknownType, ..Self::retry(UNKNOWN_TYPE) }
    }

    /// The event can never be handled: keep it as a dead letter, and acknowledge it.
    pub fn permanent(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { cause: cause.into().into(), disposition: Disposition::GiveUp }
    }

    /// Whether delivering the event again cannot help.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(self.disposition, Disposition::GiveUp | Disposition::UnknownType)
    }

    pub(super) fn disposition(&self) -> Disposition {
        self.disposition
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
        f.debug_struct("HandlerError").field("disposition", &self.disposition).field("cause", &self.cause).finish()
    }
}

/// What a handler returned on success, as far as the receiver cares: its HTTP status.
///
/// A status outside 200 to 299 means that the handler failed and that Sendarix should deliver again.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say whether the handler succeeded",
    note = "a handler returns `Result<(), HandlerError>`, or `Result<R, HandlerError>` where `R` has an HTTP status: `()` or \
        `http::Response`"
)]
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
