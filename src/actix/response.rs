use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, ResponseError};
use bytes::Bytes;

use crate::receiver::{Answer, HandlerError, HandlerResponse, Outcome};

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
#[derive(Debug)]
pub(super) struct Unplaced(pub(super) Answer);

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.text())
    }
}

impl ResponseError for Unplaced {
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

/// Keeps what is unread of a request's body until the response has gone out. Then actix-web closes the connection, within
/// a second; a chunked body that nobody holds it would go on reading, to an end that may never come.
pub(super) fn with_unread(response: HttpResponse<BoxBody>, payload: Payload) -> HttpResponse<BoxBody> {
    let unread = Rc::new(payload);
    // With a body, it is the end of that which counts. Without one it is the head, and middleware such as `Compress` has
    // dropped the empty body by then.
    let in_head = Unread(Rc::clone(&unread));
    let mut response = response.map_body(|_, body| BoxBody::new(WithUnread { body, _unread: Unread(unread) }));
    response.extensions_mut().insert(in_head);
    response
}

struct Unread(#[expect(dead_code, reason = "it is there to be dropped")] Rc<Payload>);

struct WithUnread {
    body: BoxBody,
    _unread: Unread,
}

impl MessageBody for WithUnread {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
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
