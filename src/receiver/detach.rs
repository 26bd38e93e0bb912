//! A delivery that outlives the connection that waits for it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Span;

use super::{Outcome, Receiver, Reply};
use crate::telemetry;

/// A delivery on its way to its [`Reply`].
///
/// The connection polls it directly, which costs less than a task of its own. When the connection goes away, or the
/// acknowledgement deadline comes first, the delivery moves into a task and runs to its end there: a client that
/// disconnects cancels nothing.
///
/// It must be polled and dropped within a tokio runtime. Dropped outside of one it is cancelled, and the end of the
/// lease frees its claim.
#[must_use = "a delivery does nothing unless it is awaited"]
pub struct Delivering<R: Send + 'static> {
    /// `None` once it has ended or moved into a task.
    delivery: Option<BoxDelivery<R>>,
    started: bool,
    timer: Option<Pin<Box<Sleep>>>,
    receiver: Receiver,
    admitted_at: Instant,
    span: Span,
}

pub(super) type BoxDelivery<R> = Pin<Box<dyn Future<Output = Reply<R>> + Send>>;

impl<R: Send + 'static> Delivering<R> {
    pub(super) fn new(delivery: BoxDelivery<R>, receiver: Receiver, admitted_at: Instant, span: Span) -> Self {
        Self { delivery: Some(delivery), started: false, timer: None, receiver, admitted_at, span }
    }
}

impl<R: Send + 'static> Future for Delivering<R> {
    type Output = Reply<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply<R>> {
        self.started = true;
        // Taken out while it is polled: should it panic, there is nothing left to move into a task.
        let Some(mut delivery) = self.delivery.take() else {
            // Polled again after its end, which is the caller's mistake.
            return Poll::Pending;
        };
        if let Poll::Ready(reply) = delivery.as_mut().poll(cx) {
            return Poll::Ready(reply);
        }
        self.delivery = Some(delivery);

        let deadline = self.admitted_at + self.receiver.settings().acknowledgement_deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.detach();
        let answer = self.receiver.answer(Outcome::Slow);
        let admitted_at = self.admitted_at;
        self.span.in_scope(|| telemetry::settled(Outcome::Slow, answer.status(), admitted_at, None, None));
        Poll::Ready(Reply::Receiver(answer))
    }
}

impl<R: Send + 'static> Delivering<R> {
    /// Moves a delivery that has begun and not ended into a task of its own.
    fn detach(&mut self) {
        if let (true, Some(delivery), Ok(runtime)) = (self.started, self.delivery.take(), Handle::try_current()) {
            drop(runtime.spawn(delivery));
        }
    }
}

impl<R: Send + 'static> Drop for Delivering<R> {
    fn drop(&mut self) {
        self.detach();
    }
}

impl<R: Send + 'static> fmt::Debug for Delivering<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivering").field("started", &self.started).finish_non_exhaustive()
    }
}
