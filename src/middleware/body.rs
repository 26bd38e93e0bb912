use std::convert::Infallible;
use std::marker::PhantomData;

use bytes::Bytes;

/// What kind of body the wrapped service is given, for a server whose body is `B`. There are two: [`SameBody`] and
/// [`ToBody`].
#[diagnostic::on_unimplemented(
    message = "a body of type `{B}` cannot be made from bytes for the wrapped service",
    note = "name the wrapped service's body: `SendarixLayer::new(receiver).request_body::<Full<Bytes>>()`"
)]
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
