use std::convert::Infallible;
use std::fmt;
use std::future::{poll_fn, ready};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_ENCODING};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use tokio::runtime::Handle;
use tower_service::Service;

use super::{RequestBody, ResponseFuture};
use crate::inbox::{Delivery, HandlerError};
use crate::receiver::{Answer, BoxError, Receiver};
use crate::verify::Head;

/// A service that lets only authentic, fresh and new events through to the one that it wraps: see
/// [`SendarixLayer`](super::SendarixLayer).
///
/// It is always ready, and makes the wrapped service ready for a verified event only: no forged or slow request takes
/// up its capacity. For the same reason it never fails; an error of the wrapped service says whether Sendarix should
/// deliver again, as that of a handler does.
#[must_use]
pub struct Sendarix<S, B> {
    inner: S,
    receiver: Receiver,
    body: PhantomData<fn() -> B>,
}

impl<S, B> Sendarix<S, B> {
    pub(super) fn new(inner: S, receiver: Receiver) -> Self {
        Self { inner, receiver, body: PhantomData }
    }
}

impl<S, B, ReqBody, ResBody> Service<Request<ReqBody>> for Sendarix<S, B>
where
    B: RequestBody<ReqBody>,
    S: Service<Request<B::Body>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<HandlerError>,
    ReqBody: Body + Send + 'static,
    ReqBody::Error: Into<BoxError>,
    ResBody: From<Bytes> + Send + 'static,
{
    type Response = Response<ResBody>;
    type Error = Infallible;
    type Future = ResponseFuture<ResBody>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        if parts.extensions.get::<Delivery>().is_some() {
            let message = "a SendarixLayer is inside of another one: each event would be in flight for the inner one; \
                remove one of them";
            tracing::error!(target: crate::logging::TARGET, "{message}");
            let response = unread(misconfigured(), &self.receiver, parts.version, Box::pin(body));
            return ResponseFuture::new(ready(response));
        }
        let headers = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let admitted = match self.receiver.admit(&Head::new(parts.method.as_str(), headers)) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let response = answer_response(refusal.answer());
                let response = unread(response, &self.receiver, parts.version, Box::pin(body));
                return ResponseFuture::new(ready(response));
            }
        };
        let (inner, receiver) = (self.inner.clone(), self.receiver.clone());
        ResponseFuture::new(async move {
            let mut body = Box::pin(body);
            let bytes = match admitted.read(|cx| poll_data(body.as_mut(), cx)).await {
                Ok(bytes) => bytes,
                Err(refusal) if refusal.kind().leaves_body() => {
                    return unread(answer_response(refusal.answer()), &receiver, parts.version, body);
                }
                Err(refusal) => {
                    let mut response = answer_response(refusal.answer());
                    close(&mut response, parts.version);
                    return response;
                }
            };
            drop(body);
            let verified = match admitted.verify(bytes) {
                Ok(verified) => verified,
                Err(refusal) => return answer_response(refusal.answer()),
            };
            // What an unsigned header says of the signed bytes must not make anything inside decode them.
            parts.headers.remove(CONTENT_ENCODING);
            // Boxed, because it is handed on through several futures, and each would have room for it.
            let request = Box::new(Request::from_parts(parts, B::Body::from(verified.body().clone())));
            let settlement = verified.deliver(move |delivery| call(inner, request, delivery)).await;
            let outcome = settlement.outcome();
            match settlement.into_response() {
                Ok(mut response) => {
                    response.extensions_mut().insert(outcome);
                    response
                }
                Err(answer) => answer_response(&answer),
            }
        })
    }
}

fn poll_data<B: Body>(body: Pin<&mut B>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
    // Trailers are no part of the body, and nothing reads them.
    let data =
        |frame: Frame<B::Data>| frame.into_data().map_or(Bytes::new(), |mut data| data.copy_to_bytes(data.remaining()));
    body.poll_frame(cx).map(|frame| frame.map(|frame| frame.map(data)))
}

/// The response to a request whose body has not been read to its end: what is left of it is discarded meanwhile.
fn unread<B, ResBody>(
    mut response: Response<ResBody>,
    receiver: &Receiver,
    version: Version,
    mut body: Pin<Box<B>>,
) -> Response<ResBody>
where
    B: Body + Send + 'static,
{
    if body.is_end_stream() {
        return response;
    }
    close(&mut response, version);
    if let Ok(runtime) = Handle::try_current() {
        let poll_chunk = move |cx: &mut Context<'_>| poll_data(body.as_mut(), cx);
        if version < Version::HTTP_2 {
            drop(receiver.discard(poll_chunk).map(|discard| runtime.spawn(discard)));
        } else {
            drop(receiver.discard_stream(poll_chunk).map(|discard| runtime.spawn(discard)));
        }
    }
    response
}

/// Announces the end of a connection of HTTP/1.
fn close<B>(response: &mut Response<B>, version: Version) {
    if version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

async fn call<S, B, ResBody>(
    mut inner: S,
    mut request: Box<Request<B>>,
    delivery: Delivery,
) -> Result<Response<ResBody>, HandlerError>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    S::Error: Into<HandlerError>,
{
    request.extensions_mut().insert(delivery.clone());
    poll_fn(|cx| inner.poll_ready(cx)).await.map_err(Into::into)?;
    let mut response = inner.call(*request).await.map_err(Into::into)?;
    if let Some(HandlerFailure(error)) = response.extensions_mut().remove() {
        return Err(error);
    }
    let status = response.status();
    if status.is_success() && !delivery.is_taken() {
        return Err(HandlerError::not_taken(status.as_u16()));
    }
    Ok(response)
}

/// Carries a [`HandlerError`] from the handler's response to here.
#[derive(Clone)]
pub(crate) struct HandlerFailure(pub(crate) HandlerError);

fn misconfigured<B: From<Bytes>>() -> Response<B> {
    let mut response = Response::new(B::from(Bytes::from_static(b"misconfigured")));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

fn answer_response<B: From<Bytes>>(answer: &Answer) -> Response<B> {
    let mut response = Response::new(B::from(Bytes::from_static(answer.text().as_bytes())));
    // The builder of the receiver allows no other.
    *response.status_mut() = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    for (name, value) in answer.headers() {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response.extensions_mut().insert(answer.outcome());
    if let Some(kind) = answer.refusal() {
        response.extensions_mut().insert(kind);
    }
    response
}

impl<S: Clone, B> Clone for Sendarix<S, B> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.receiver.clone())
    }
}

impl<S: fmt::Debug, B> fmt::Debug for Sendarix<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sendarix").field("inner", &self.inner).field("receiver", &self.receiver).finish()
    }
}
