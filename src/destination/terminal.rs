//! A destination as a service.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tower_service::Service;

use super::Destination;
use crate::inbox::{Delivery, HandlerError};

/// The innermost service: gives every delivery to a [`Destination`], such as an `Enqueue`, a function that takes a
/// [`Delivery`], or the handler of a [`FanOut`](super::FanOut).
///
/// ```
/// # #[cfg(all(feature = "memory", feature = "testing"))]
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use sendarix_webhooks::destination::Terminal;
/// use sendarix_webhooks::testing::{Sample, signed_request};
/// use sendarix_webhooks::{Delivery, EventType, Receiver, SendarixLayer, SigningSecret};
/// use tower::{Layer, ServiceExt};
///
/// let secret = SigningSecret::new("test")?;
/// let layer = SendarixLayer::new(Receiver::builder(secret.clone()).dangerously_without_dead_letters().build()?);
/// let service = layer.layer(Terminal::<_, Full<Bytes>>::new(|_: Delivery| async { Ok(()) }));
///
/// let request = signed_request::<Full<Bytes>>(&secret, "/", Sample::new(EventType::Open).body());
/// assert_eq!(service.oneshot(request).await?.status(), 200);
/// # Ok(()) }
/// # #[cfg(not(all(feature = "memory", feature = "testing")))] fn main() {}
/// ```
pub struct Terminal<D, B> {
    destination: Arc<D>,
    body: PhantomData<fn() -> B>,
}

impl<D: Destination, B> Terminal<D, B> {
    /// A service that answers 200 with an empty body for what the destination has taken.
    pub fn new(destination: D) -> Self {
        Self { destination: Arc::new(destination), body: PhantomData }
    }
}

impl<D: Destination, Request, B: From<Bytes>> Service<http::Request<Request>> for Terminal<D, B> {
    type Response = http::Response<B>;
    type Error = HandlerError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, HandlerError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HandlerError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Request>) -> Self::Future {
        let taken = request.extensions().get::<Delivery>().map(|delivery| {
            delivery.take();
            self.destination.take(delivery.clone())
        });
        Box::pin(async move {
            match taken {
                Some(taken) => taken.await.map(|()| http::Response::new(Bytes::new().into())),
                None => Err(HandlerError::retry("there is no SendarixLayer around this service")),
            }
        })
    }
}

impl<D, B> Clone for Terminal<D, B> {
    fn clone(&self) -> Self {
        Self { destination: Arc::clone(&self.destination), body: PhantomData }
    }
}

impl<D, B> fmt::Debug for Terminal<D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").finish_non_exhaustive()
    }
}
