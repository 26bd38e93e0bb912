//! A delivery that outlives the connection that waits for it.

use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
pub struct Delivering<R, D = dyn Future<Output = Reply<R>> + Send>
where
    D: Future<Output = Reply<R>> + ?Sized + 'static,
{
    /// `None` once it has ended or moved into a task.
    delivery: Option<Pin<Box<D>>>,
    spawn: fn(Pin<Box<D>>),
    started: bool,
    timer: Option<Pin<Box<Sleep>>>,
    receiver: Receiver,
    admitted_at: Instant,
    span: Span,
    reply: PhantomData<fn() -> R>,
}

/// A [`Delivering`] whose handler never leaves its thread. It must be polled and dropped within a
/// [`LocalSet`](tokio::task::LocalSet) or a local runtime, which run the task that it may move into.
pub type LocalDelivering<R> = Delivering<R, dyn Future<Output = Reply<R>>>;

impl<R: Send + 'static> Delivering<R> {
    pub(super) fn new<F>(delivery: F, receiver: Receiver, admitted_at: Instant, span: Span) -> Self
    where
        F: Future<Output = Reply<R>> + Send + 'static,
    {
        Self::spawned_with(spawn, Box::pin(delivery), receiver, admitted_at, span)
    }
}

impl<R: 'static> LocalDelivering<R> {
    pub(super) fn new_local<F>(delivery: F, receiver: Receiver, admitted_at: Instant, span: Span) -> Self
    where
        F: Future<Output = Reply<R>> + 'static,
    {
        Self::spawned_with(spawn_local, Box::pin(delivery), receiver, admitted_at, span)
    }
}

impl<R, D> Delivering<R, D>
where
    D: Future<Output = Reply<R>> + ?Sized + 'static,
{
    fn spawned_with(
        spawn: fn(Pin<Box<D>>),
        delivery: Pin<Box<D>>,
        receiver: Receiver,
        admitted_at: Instant,
        span: Span,
    ) -> Self {
        let (started, timer, reply) = (false, None, PhantomData);
        Self { delivery: Some(delivery), spawn, started, timer, receiver, admitted_at, span, reply }
    }

    /// Moves a delivery that has begun and not ended into a task of its own.
    fn detach(&mut self) {
        if let (true, Some(delivery)) = (self.started, self.delivery.take()) {
            (self.spawn)(delivery);
        }
    }
}

impl<R, D> Future for Delivering<R, D>
where
    D: Future<Output = Reply<R>> + ?Sized + 'static,
{
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

fn spawn<R: Send + 'static>(delivery: Pin<Box<dyn Future<Output = Reply<R>> + Send>>) {
    if let Ok(runtime) = Handle::try_current() {
        drop(runtime.spawn(delivery));
    }
}

fn spawn_local<R: 'static>(delivery: Pin<Box<dyn Future<Output = Reply<R>>>>) {
    // Where nothing runs local tasks this panics, and there is no asking beforehand. The delivery is cancelled then, and
    // that must not abort a thread that is unwinding already.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(tokio::task::spawn_local(delivery))));
}

impl<R, D> Drop for Delivering<R, D>
where
    D: Future<Output = Reply<R>> + ?Sized + 'static,
{
    fn drop(&mut self) {
        self.detach();
    }
}

impl<R, D> fmt::Debug for Delivering<R, D>
where
    D: Future<Output = Reply<R>> + ?Sized + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivering").field("started", &self.started).finish_non_exhaustive()
    }
}
