//! The receiver as tower middleware.
//!
//! [`SendarixLayer`] goes around whatever should handle the events: a handler, a route, a whole `Router`, any tower
//! service. What it wraps only ever sees requests that carry an authentic, fresh event that is this delivery's to
//! handle, with the exact body that was signed and the [`Delivery`](crate::Delivery) in the request's extensions.
//!
//! The response decides what becomes of the event: a 2xx completes it, anything else, an error, a panic or running
//! longer than the handler limit gives it back. A 2xx counts only if the service [took](crate::Delivery::take) the event,
//! as the extractors do. If it did not, such as a fallback page behind a wrong path, the answer is 500 with an error in the
//! log ([`NotTaken`](crate::Outcome::NotTaken)), and Sendarix delivers the event again.
//!
//! Every response carries the [`Outcome`](crate::Outcome) in its extensions, and a refusal its
//! [`RefusalKind`](crate::RefusalKind) as well, for layers outside of this one.
//!
//! A response is settled once its head is there; the body may still stream.
//!
//! The wrapped service's response body must be one that can be made from bytes, since the layer answers with it as well:
//! axum's and `Full<Bytes>` are. Middleware that changes the body's type belongs outside of this layer.

mod body;
mod future;
mod layer;
mod service;

pub use self::body::{RequestBody, SameBody, ToBody};
pub use self::future::ResponseFuture;
pub use self::layer::SendarixLayer;
pub use self::service::Sendarix;

#[cfg(feature = "axum")]
pub(crate) use self::service::HandlerFailure;
