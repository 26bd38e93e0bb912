use std::fmt;
use std::future::{Ready, ready};

use actix_web::body::BoxBody;
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::{FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError};

use super::response::misconfigured;
use crate::event::SendarixEvent;
use crate::receiver::Delivery;

/// The event that [`SendarixMiddleware`](super::SendarixMiddleware) has verified. It takes nothing from the body, so
/// `web::Bytes`, `web::Json` and the like can be arguments beside it.
///
/// Take it as it is: actix-web makes an `Option` and a `Result` of every argument, and a handler with such a one runs
/// without the middleware too. It gets `None` or [`MissingMiddleware`] then, never an event that nothing has verified,
/// and the log has the error; but whatever 2xx it answers acknowledges an event that it has not seen.
impl FromRequest for SendarixEvent {
    type Error = MissingMiddleware;
    type Future = Ready<Result<Self, MissingMiddleware>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(of_request(request))
    }
}

/// The event together with what is known of this delivery of it.
impl FromRequest for Delivery {
    type Error = MissingMiddleware;
    type Future = Ready<Result<Self, MissingMiddleware>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(of_request(request))
    }
}

/// What the middleware has put into the request's extensions.
fn of_request<T: Clone + 'static>(request: &HttpRequest) -> Result<T, MissingMiddleware> {
    request.extensions().get().cloned().ok_or_else(MissingMiddleware::log)
}

/// The handler's resource has no [`SendarixMiddleware`](super::SendarixMiddleware), so that nothing has verified the
/// request: 500.
#[derive(Debug)]
#[non_exhaustive]
pub struct MissingMiddleware;

impl MissingMiddleware {
    fn log() -> Self {
        let error = Self;
        tracing::error!(target: crate::telemetry::TARGET, "{error}");
        error
    }
}

impl fmt::Display for MissingMiddleware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a handler takes a SendarixEvent, but its resource has no SendarixMiddleware: nothing has verified the \
             request; add `.wrap(SendarixMiddleware::new(receiver))` to the resource",
        )
    }
}

impl std::error::Error for MissingMiddleware {}

impl ResponseError for MissingMiddleware {
    fn status_code(&self) -> StatusCode {
        StatusCode::INTERNAL_SERVER_ERROR
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        misconfigured()
    }
}
