use std::cell::Cell;
use std::fmt;
use std::future::{Ready, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::http::header::CONTENT_ENCODING;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_core::Stream;

use super::response::{AnswerWithoutRequest, answer_response, misconfigured, with_unread};
use crate::inbox::{Delivery, HandlerError};
use crate::outcome::Outcome;
use crate::receiver::Receiver;
use crate::verify::Head;

/// Lets only authentic, fresh and new events through to what it wraps: see the [module](super).
#[derive(Clone, Debug)]
#[must_use]
pub struct SendarixMiddleware {
    receiver: Receiver,
}

impl SendarixMiddleware {
    /// A middleware over this receiver, of which every worker must have a clone.
    pub fn new(receiver: Receiver) -> Self {
        Self { receiver }
    }

    /// The receiver, to drain it at shutdown.
    #[must_use]
    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }
}

impl<S, B> Transform<S, ServiceRequest> for SendarixMiddleware
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type InitError = ();
    type Transform = Sendarix<S>;
    type Future = Ready<Result<Sendarix<S>, ()>>;

    fn new_transform(&self, inner: S) -> Self::Future {
        ready(Ok(Sendarix { inner: Rc::new(inner), receiver: self.receiver.clone() }))
    }
}

/// A service that lets only authentic, fresh and new events through to the one that it wraps.
pub struct Sendarix<S> {
    inner: Rc<S>,
    receiver: Receiver,
}

impl<S, B> Service<ServiceRequest> for Sendarix<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>>>>;

    forward_ready!(inner);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        if request.extensions().contains::<Delivery>() {
            let message = "a SendarixMiddleware is inside of another one: each event would be in flight for the inner \
                one; remove one of them";
            tracing::error!(target: crate::logging::TARGET, "{message}");
            let (request, payload) = request.into_parts();
            return Box::pin(ready(Ok(refused(request, payload, &self.receiver, misconfigured(), true))));
        }
        let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let admitted = match self.receiver.admit(&Head::new(request.method().as_str(), headers)) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let (request, payload) = request.into_parts();
                let response = answer_response(refusal.answer());
                return Box::pin(ready(Ok(refused(request, payload, &self.receiver, response, true))));
            }
        };
        let (inner, receiver) = (Rc::clone(&self.inner), self.receiver.clone());
        Box::pin(async move {
            let (request, mut payload) = request.into_parts();
            let bytes = match admitted.read(|cx| Pin::new(&mut payload).poll_next(cx)).await {
                Ok(bytes) => bytes,
                Err(refusal) => {
                    let (response, leaves_body) = (answer_response(refusal.answer()), refusal.kind().leaves_body());
                    return Ok(refused(request, payload, &receiver, response, leaves_body));
                }
            };
            let verified = match admitted.verify(bytes) {
                Ok(verified) => verified,
                Err(refusal) => {
                    return Ok(ServiceResponse::new(request, answer_response(refusal.answer())).map_into_right_body());
                }
            };
            let body = verified.body().clone();
            let place = Rc::new(Cell::new(Some(request)));
            let handler = {
                let place = Rc::clone(&place);
                move |delivery| call(inner, place, body, delivery)
            };
            let settlement = verified.deliver_local(|task| drop(actix_web::rt::spawn(task)), handler).await;
            let outcome = settlement.outcome();
            let answer = match settlement.into_response() {
                Ok(mut response) => {
                    response.response_mut().extensions_mut().insert(outcome);
                    return Ok(response.map_into_left_body());
                }
                Err(answer) => answer,
            };
            // A slow delivery has its request, or may be about to begin and need it.
            let request = if outcome == Outcome::Slow { None } else { place.take() };
            match request {
                Some(request) => Ok(ServiceResponse::new(request, answer_response(&answer)).map_into_right_body()),
                None => Err(AnswerWithoutRequest(answer).into()),
            }
        })
    }
}

/// Where the request is whenever the wrapped service does not have it. There must not be two of it: routing inside of the
/// wrapped service changes the request, and panics if it is shared.
type Place = Rc<Cell<Option<HttpRequest>>>;

async fn call<S, B>(
    inner: Rc<S>,
    place: Place,
    body: Bytes,
    delivery: Delivery,
) -> Result<ServiceResponse<B>, HandlerError>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    let request = place.take().ok_or("the request has gone")?;
    request.extensions_mut().insert(delivery.clone());
    let mut request = ServiceRequest::from_parts(request, Payload::from(body));
    if request.headers().contains_key(CONTENT_ENCODING) {
        remove_encoding(&mut request);
    }
    let response = inner.call(request).await.map_err(|error| {
        let by_handler = error.as_error::<HandlerError>().cloned();
        by_handler.unwrap_or_else(|| HandlerError::retry(error.to_string()))
    })?;
    let error = match response.response().error() {
        Some(error) => match error.as_error::<HandlerError>() {
            Some(error) => error.clone(),
            // An error is a failure, and a 2xx would acknowledge it.
            None if response.status().is_success() => HandlerError::retry(error.to_string()),
            None => return Ok(response),
        },
        None if response.status().is_success() && !delivery.is_taken() => {
            HandlerError::not_taken(response.status().as_u16())
        }
        None => return Ok(response),
    };
    place.set(Some(response.into_parts().0));
    Err(error)
}

/// Takes the header off. The signed bytes have been read as JSON: whatever it says, nothing is left to decode.
fn remove_encoding(request: &mut ServiceRequest) {
    // actix-web panics where the request is shared, and there is no asking beforehand.
    let removed = catch_unwind(AssertUnwindSafe(|| drop(request.headers_mut().remove(CONTENT_ENCODING))));
    if removed.is_err() {
        let message = "the request has a Content-Encoding that its signed body contradicts, and middleware outside of \
            SendarixMiddleware keeps a clone of the request, so that the header cannot be taken off: a handler that reads the \
            body beside the event will fail; let that middleware drop its clone before it calls the next service";
        tracing::warn!(target: crate::logging::TARGET, "{message}");
    }
}

/// Answers a request whose body has not been read to its end.
fn refused<B>(
    request: HttpRequest,
    payload: Payload,
    receiver: &Receiver,
    response: HttpResponse,
    leaves_body: bool,
) -> ServiceResponse<EitherBody<B>> {
    let response = with_unread(response, receiver, request.version(), payload, leaves_body);
    ServiceResponse::new(request, response).map_into_right_body()
}

impl<S> fmt::Debug for Sendarix<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sendarix").field("receiver", &self.receiver).finish_non_exhaustive()
    }
}
