//! The event as an argument of an axum handler, and a [`HandlerError`] as its return value.
//!
//! ```
//! use axum::extract::State;
//! use sendarix_webhooks::{EventKind, HandlerError, SendarixEvent};
//! # #[derive(Clone)] struct Database;
//! # impl Database { async fn suppress(&self, _: &str) -> std::io::Result<()> { Ok(()) } }
//!
//! async fn on_event(State(database): State<Database>, event: SendarixEvent) -> Result<(), HandlerError> {
//!     match &event.kind {
//!         EventKind::Bounce(bounce) if bounce.is_permanent() => database.suppress(&event.recipient).await?,
//!         EventKind::Complaint(_) => database.suppress(&event.recipient).await?,
//!         _ => {}
//!     }
//!     Ok(())
//! }
//! # axum::Router::<()>::new().route("/", axum::routing::post(on_event).with_state(Database));
//! ```

use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::event::SendarixEvent;
use crate::inbox::{Delivery, HandlerError};
use crate::middleware::HandlerFailure;
use crate::outcome::Outcome;

/// The event that [`SendarixLayer`](crate::SendarixLayer) has verified, which the handler [takes](Delivery::take) by this.
/// It takes nothing from the body, so `Bytes`, `Json` and the like can be arguments beside it.
///
/// There is no `Option<SendarixEvent>`: it would be `None` for a request that nothing has verified.
impl<S: Sync> FromRequestParts<S> for SendarixEvent {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingLayer> {
        let delivery = parts.extensions.get::<Delivery>().ok_or_else(MissingLayer::log)?;
        Ok(delivery.take().clone())
    }
}

/// The event together with what is known of this delivery of it. A handler that reads the body by itself has it as
/// `_: Delivery`, to say that it takes the event.
impl<S: Sync> FromRequestParts<S> for Delivery {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingLayer> {
        let delivery = parts.extensions.get::<Self>().ok_or_else(MissingLayer::log)?;
        delivery.take();
        Ok(delivery.clone())
    }
}

/// The route has no [`SendarixLayer`](crate::SendarixLayer), so that nothing has verified the request: 500.
#[derive(Debug, thiserror::Error)]
#[error(
    "a handler takes a SendarixEvent, but its route has no SendarixLayer: nothing has verified the request; add \
     `.layer(SendarixLayer::new(receiver))` to the route"
)]
#[non_exhaustive]
pub struct MissingLayer;

impl MissingLayer {
    /// The status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::INTERNAL_SERVER_ERROR
    }

    fn log() -> Self {
        let error = Self;
        tracing::error!(target: crate::logging::TARGET, "{error}");
        error
    }
}

impl IntoResponse for MissingLayer {
    fn into_response(self) -> Response {
        (self.status(), "misconfigured").into_response()
    }
}

/// What the layer answers for it depends on the error; without the layer it is 503.
impl IntoResponse for HandlerError {
    fn into_response(self) -> Response {
        let mut response = (StatusCode::SERVICE_UNAVAILABLE, Outcome::Failed.text()).into_response();
        response.extensions_mut().insert(HandlerFailure(self));
        response
    }
}
