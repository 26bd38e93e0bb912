use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceResponse};
use actix_web::http::header::ContentType;
use actix_web::http::{ConnectionType, StatusCode, Version};
use actix_web::{HttpResponse, ResponseError};
use bytes::Bytes;
use futures_core::Stream;

use crate::inbox::{HandlerError, HandlerResponse};
use crate::outcome::Outcome;
use crate::receiver::{Answer, Receiver};

/// What the middleware answers for it depends on the error; without the middleware it is 503.
impl ResponseError for HandlerError {
    fn status_code(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }

    /// Names nothing of the error.
    fn error_response(&self) -> HttpResponse<BoxBody> {
        plain_text(self.status_code(), Outcome::Failed.text())
    }
}

impl<B> HandlerResponse for ServiceResponse<B> {
    fn status(&self) -> u16 {
        self.status().as_u16()
    }
}

/// An answer for a request that the handler still has, or has taken with it.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.text())]
pub(super) struct AnswerWithoutRequest(pub(super) Answer);

impl ResponseError for AnswerWithoutRequest {
    fn status_code(&self) -> StatusCode {
        status(&self.0)
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        answer_response(&self.0)
    }
}

pub(super) fn answer_response(answer: &Answer) -> HttpResponse<BoxBody> {
    let mut response = HttpResponse::build(status(answer));
    for (name, value) in answer.headers() {
        response.insert_header((name, value.as_ref()));
    }
    let mut response = response.body(answer.text());
    response.extensions_mut().insert(answer.outcome());
    if let Some(kind) = answer.refusal() {
        response.extensions_mut().insert(kind);
    }
    response
}

/// The response to a request whose body has not been read to its end: what is left of it is discarded meanwhile.
///
/// In HTTP/1 the body of the response ends with that; its head and its text go out before. A body that is not worth it, or
/// comes when too many are being discarded, is only held until the response has gone out. Whatever happens, the payload is
/// held until then: actix-web would go on reading a chunked body that is dropped, to an end that may never come.
pub(super) fn with_unread(
    mut response: HttpResponse<BoxBody>,
    receiver: &Receiver,
    version: Version,
    payload: Payload,
    leaves_body: bool,
) -> HttpResponse<BoxBody> {
    if matches!(payload, Payload::None) {
        return response;
    }
    let payload = Rc::new(RefCell::new(payload));
    let polled = Rc::clone(&payload);
    let poll_chunk = move |cx: &mut Context<'_>| Pin::new(&mut *polled.borrow_mut()).poll_next(cx);
    if version == Version::HTTP_2 {
        // The stream of the response ends at once.
        if leaves_body {
            receiver.discard_stream(poll_chunk).map(actix_web::rt::spawn);
        }
        return response;
    }
    response.head_mut().set_connection_type(ConnectionType::Close);
    if response.body().size().is_eof() {
        // Nothing would poll an empty body.
        response.extensions_mut().insert(Unread(payload));
        return response;
    }
    let discard = if leaves_body { receiver.discard(poll_chunk) } else { None };
    let discard = discard.map(|discard| Box::pin(discard) as Pin<Box<dyn Future<Output = ()>>>);
    response.map_body(|_, body| BoxBody::new(ThenDiscard { body, discard, _unread: Unread(payload) }))
}

struct Unread(#[expect(dead_code, reason = "it is there to be dropped")] Rc<RefCell<Payload>>);

struct ThenDiscard {
    body: BoxBody,
    /// `None` once it has ended.
    discard: Option<Pin<Box<dyn Future<Output = ()>>>>,
    _unread: Unread,
}

impl MessageBody for ThenDiscard {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if let Some(chunk) = ready!(Pin::new(&mut self.body).poll_next(cx)) {
            return Poll::Ready(Some(chunk));
        }
        if let Some(discard) = &mut self.discard {
            ready!(discard.as_mut().poll(cx));
            self.discard = None;
        }
        Poll::Ready(None)
    }
}

pub(super) fn misconfigured() -> HttpResponse<BoxBody> {
    plain_text(StatusCode::INTERNAL_SERVER_ERROR, "misconfigured")
}

fn plain_text(status: StatusCode, text: &'static str) -> HttpResponse<BoxBody> {
    HttpResponse::build(status).content_type(ContentType::plaintext()).body(text)
}

fn status(answer: &Answer) -> StatusCode {
    // The builder of the receiver allows no other.
    StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}
