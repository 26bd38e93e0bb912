//! A request whose body is proven, ready for the handler.

use bytes::Bytes;

use crate::inbox::{Attempt, Delivering, Delivery, HandlerError, HandlerResponse, LocalDelivering, LocalTask};

/// A request whose body was signed with one of the active secrets.
#[derive(Debug)]
#[must_use]
pub struct Verified(pub(super) Attempt);

impl Verified {
    /// The bytes that were signed.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        self.0.body()
    }

    /// Decodes the event, claims it, runs the handler and settles the claim.
    ///
    /// The handler runs at most once, and only if it is this delivery's turn. An error says whether Sendarix should
    /// deliver again; a response decides by its status. A panic is caught and counts as a failure.
    pub fn deliver<H, F, R>(self, handler: H) -> Delivering<R>
    where
        H: FnOnce(Delivery) -> F + Send + 'static,
        F: Future<Output = Result<R, HandlerError>> + Send + 'static,
        R: HandlerResponse + Send + 'static,
    {
        self.0.deliver(handler)
    }

    /// As [`deliver`](Self::deliver), for a handler that must stay on this thread, as in actix-web.
    ///
    /// `spawn_local` runs a task on this thread, such as `|task| drop(tokio::task::spawn_local(task))`: a delivery that
    /// outlives its connection goes on there. Where that panics, the delivery is awaited to its end instead, or cancelled when it is dropped.
    pub fn deliver_local<H, F, R>(self, spawn_local: fn(LocalTask), handler: H) -> LocalDelivering<R>
    where
        H: FnOnce(Delivery) -> F + 'static,
        F: Future<Output = Result<R, HandlerError>> + 'static,
        R: HandlerResponse + 'static,
    {
        self.0.deliver_local(spawn_local, handler)
    }
}
