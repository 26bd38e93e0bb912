//! Deliveries within this process, for what sockets do not show.

use std::time::SystemTime;

use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{Delivery, EventType, HandlerError, Head, Outcome, Receiver, SigningSecret};

use crate::Backend;

pub fn secret() -> SigningSecret {
    SigningSecret::new("a secret for tests").unwrap()
}

pub fn receiver(backend: &Backend) -> Receiver {
    Receiver::builder(secret()).store(backend.store()).build().unwrap()
}

pub async fn deliver<F>(receiver: &Receiver, id: &str, handler: impl FnOnce(Delivery) -> F + Send + 'static) -> Outcome
where
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    deliver_body(receiver, Sample::new(EventType::Delivered).event_id(id).body(), handler).await
}

pub async fn deliver_body<F>(
    receiver: &Receiver,
    body: Vec<u8>,
    handler: impl FnOnce(Delivery) -> F + Send + 'static,
) -> Outcome
where
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let headers = signed_headers(&secret(), &body, SystemTime::now());
    let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
    let admitted = receiver.admit(&Head::new("POST", headers)).unwrap();
    admitted.verify(body).unwrap().deliver(handler).await.outcome()
}
