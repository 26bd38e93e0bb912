use std::future::{Ready, ready};

use actix_web::body::BoxBody;
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::{FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError};

use super::response::misconfigured;
use crate::event::SendarixEvent;
use crate::inbox::Delivery;

/// The event that [`SendarixMiddleware`](super::SendarixMiddleware) has verified, which the handler
/// [takes](Delivery::take) by this. It takes nothing from the body, so `web::Bytes`, `web::Json` and the like can be
/// arguments beside it.
///
/// Have it as it is: actix-web makes an `Option` and a `Result` of every argument, and a handler with such a one runs
/// without the middleware too. It gets `None` or [`MissingMiddleware`] then, never an event that nothing has verified,
/// and the log has the error; but its answer to such a request is its own.
impl FromRequest for SendarixEvent {
    type Error = MissingMiddleware;
    type Future = Ready<Result<Self, MissingMiddleware>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(taken(request).map(|delivery| delivery.event().clone()))
    }
}

/// The event together with what is known of this delivery of it. A handler that reads the body by itself has it as
/// `_: Delivery`, to say that it takes the event.
impl FromRequest for Delivery {
    type Error = MissingMiddleware;
    type Future = Ready<Result<Self, MissingMiddleware>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(taken(request))
    }
}

/// What the middleware has put into the request's extensions.
fn taken(request: &HttpRequest) -> Result<Delivery, MissingMiddleware> {
    let delivery = request.extensions().get::<Delivery>().cloned().ok_or_else(MissingMiddleware::log)?;
    delivery.take();
    Ok(delivery)
}

/// The handler's resource has no [`SendarixMiddleware`](super::SendarixMiddleware), so that nothing has verified the
/// request: 500.
#[derive(Debug, thiserror::Error)]
#[error(
    "a handler takes a SendarixEvent, but its resource has no SendarixMiddleware: nothing has verified the request; add \
     `.wrap(SendarixMiddleware::new(receiver))` to the resource"
)]
#[non_exhaustive]
pub struct MissingMiddleware;

impl MissingMiddleware {
    fn log() -> Self {
        let error = Self;
        tracing::error!(target: crate::logging::TARGET, "{error}");
        error
    }
}

impl ResponseError for MissingMiddleware {
    fn status_code(&self) -> StatusCode {
        StatusCode::INTERNAL_SERVER_ERROR
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        misconfigured()
    }
}
