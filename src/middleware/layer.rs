use std::fmt;
use std::marker::PhantomData;

use tower_layer::Layer;

use super::{SameBody, Sendarix, ToBody};
use crate::receiver::Receiver;

/// Lets only authentic, fresh and new events through to a service.
///
/// ```
/// # #[cfg(feature = "axum")]
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use axum::{Router, routing::post};
/// use sendarix_webhooks::dead_letter::FileDeadLetters;
/// use sendarix_webhooks::{HandlerError, Receiver, SendarixEvent, SendarixLayer, SigningSecrets};
///
/// async fn on_event(event: SendarixEvent) -> Result<(), HandlerError> {
///     println!("{} for {}", event.type_name(), event.message_id);
///     Ok(())
/// }
///
/// let receiver = Receiver::builder(SigningSecrets::from_env()?)
///     .dead_letters(FileDeadLetters::open("sendarix.dead-letters.jsonl")?)
///     .build()?;
/// let layer = SendarixLayer::new(receiver.clone());
/// let app: Router = Router::new().route("/webhooks/sendarix", post(on_event).layer(layer));
/// # Ok(()) }
/// ```
#[must_use]
pub struct SendarixLayer<B = SameBody> {
    receiver: Receiver,
    body: PhantomData<fn() -> B>,
}

impl SendarixLayer {
    /// A layer over this receiver. Keep a clone of the receiver to drain it at shutdown.
    pub fn new(receiver: Receiver) -> Self {
        Self { receiver, body: PhantomData }
    }
}

impl<B> SendarixLayer<B> {
    /// The receiver, to drain it at shutdown.
    #[must_use]
    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Gives the wrapped service a body of another type than the server's.
    ///
    /// Without this both have one type, which suits axum. It is for servers whose body cannot be made from bytes, such
    /// as plain hyper: `SendarixLayer::new(receiver).request_body::<Full<Bytes>>()`.
    pub fn request_body<T>(self) -> SendarixLayer<ToBody<T>> {
        SendarixLayer { receiver: self.receiver, body: PhantomData }
    }
}

impl<S, B> Layer<S> for SendarixLayer<B> {
    type Service = Sendarix<S, B>;

    fn layer(&self, inner: S) -> Self::Service {
        Sendarix::new(inner, self.receiver.clone())
    }
}

impl<B> Clone for SendarixLayer<B> {
    fn clone(&self) -> Self {
        Self { receiver: self.receiver.clone(), body: PhantomData }
    }
}

impl<B> fmt::Debug for SendarixLayer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendarixLayer").field("receiver", &self.receiver).finish()
    }
}
