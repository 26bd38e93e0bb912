use std::convert::Infallible;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// What kind of body the wrapped service is given, for a server whose body is `B`. There are two: [`SameBody`] and
/// [`ToBody`].
pub trait RequestBody<B>: sealed::Sealed {
    /// The wrapped service's body.
    type Body: From<Bytes> + Send + 'static;
}

/// The wrapped service takes the server's own type of body, which must be made from bytes: axum's is.
#[derive(Debug)]
pub struct SameBody(Infallible);

impl<B: From<Bytes> + Send + 'static> RequestBody<B> for SameBody {
    type Body = B;
}

/// The wrapped service takes a `T`: see [`SendarixLayer::request_body`](super::SendarixLayer::request_body).
#[derive(Debug)]
pub struct ToBody<T>(Infallible, PhantomData<T>);

impl<B, T: From<Bytes> + Send + 'static> RequestBody<B> for ToBody<T> {
    type Body = T;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::SameBody {}
    impl<T> Sealed for super::ToBody<T> {}
}

pin_project! {
    /// The body of a response: the handler's own, or the receiver's one line.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProjection]
    enum Kind<B> {
        Handler { #[pin] body: B },
        Receiver { text: &'static str },
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn handler(body: B) -> Self {
        Self { kind: Kind::Handler { body } }
    }

    pub(super) fn receiver(text: &'static str) -> Self {
        Self { kind: Kind::Receiver { text } }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Handler { body } => body.poll_frame(cx),
            KindProjection::Receiver { text } => match std::mem::take(text) {
                "" => Poll::Ready(None),
                text => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Handler { body } => body.is_end_stream(),
            Kind::Receiver { text } => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Handler { body } => body.size_hint(),
            Kind::Receiver { text } => SizeHint::with_exact(text.len() as u64),
        }
    }
}
