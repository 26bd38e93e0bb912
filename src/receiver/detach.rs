//! A delivery that outlives the connection that waits for it.

use std::fmt;
use std::marker::PhantomData;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Span;

use super::{Outcome, Receiver, Reply};
use crate::telemetry::{self, Settled, Way};

/// A delivery on its way to its [`Reply`].
///
/// The connection polls it directly, which costs less than a task of its own. When the connection goes away, or the
/// acknowledgement deadline comes first, the delivery moves into a task and runs to its end there: a client that
/// disconnects cancels nothing.
///
/// It must be polled and dropped within a tokio runtime. Where there is none to move into, it is awaited to its end
/// however long that takes, and dropping it cancels it.
#[must_use = "a delivery does nothing unless it is awaited"]
pub struct Delivering<R, D: ?Sized = dyn Future<Output = Reply<R>> + Send> {
    /// `None` once it has ended or moved into a task.
    delivery: Option<Pin<Box<D>>>,
    spawn: Spawn<D>,
    started: bool,
    /// Runs until the acknowledgement deadline, if the delivery is not over by then.
    timer: Option<Pin<Box<Sleep>>>,
    /// The deadline has passed, and there was no task to move into.
    stranded: bool,
    receiver: Receiver,
    /// `None` if there is no sender who waits for an acknowledgement.
    admitted_at: Option<Instant>,
    span: Span,
    reply: PhantomData<fn() -> R>,
}

/// A [`Delivering`] whose handler never leaves its thread. It must be polled and dropped within a
/// [`LocalSet`](tokio::task::LocalSet) or a local runtime, which run the task that it may move into.
pub type LocalDelivering<R> = Delivering<R, dyn Future<Output = Reply<R>>>;

/// Moves a delivery into a task, or gives it back where there is no runtime for that.
type Spawn<D> = fn(Pin<Box<D>>) -> Result<(), Pin<Box<D>>>;

impl<R: Send + 'static> Delivering<R> {
    pub(super) fn new<F>(delivery: F, receiver: Receiver, admitted_at: Option<Instant>, span: Span) -> Self
    where
        F: Future<Output = Reply<R>> + Send + 'static,
    {
        Self::spawned_with(spawn, Box::pin(delivery), receiver, admitted_at, span)
    }
}

impl<R: 'static> LocalDelivering<R> {
    pub(super) fn new_local<F>(delivery: F, receiver: Receiver, admitted_at: Option<Instant>, span: Span) -> Self
    where
        F: Future<Output = Reply<R>> + 'static,
    {
        Self::spawned_with(spawn_local, Box::pin(delivery), receiver, admitted_at, span)
    }
}

impl<R, D: ?Sized> Delivering<R, D> {
    fn spawned_with(
        spawn: Spawn<D>,
        delivery: Pin<Box<D>>,
        receiver: Receiver,
        admitted_at: Option<Instant>,
        span: Span,
    ) -> Self {
        let (delivery, timer, reply) = (Some(delivery), None, PhantomData);
        Self { delivery, spawn, started: false, timer, stranded: false, receiver, admitted_at, span, reply }
    }

    /// Moves a delivery that has begun and not ended into a task of its own. `false`: there is no runtime for that.
    fn detach(&mut self) -> bool {
        let Some(delivery) = self.delivery.take().filter(|_| self.started) else { return true };
        self.delivery = (self.spawn)(delivery).err();
        if self.delivery.is_none() {
            return true;
        }
        if self.stranded {
            return false; // which the log has said
        }
        let message = "a delivery must go on without its connection, and there is no tokio runtime to run it, or for \
            `deliver_local` no `LocalSet`: when it is dropped, its handler is stopped";
        self.span.in_scope(|| tracing::error!(target: telemetry::TARGET, message));
        false
    }
}

impl<R, D> Future for Delivering<R, D>
where
    D: Future<Output = Reply<R>> + ?Sized,
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
        let Some(admitted_at) = self.admitted_at.filter(|_| !self.stranded) else { return Poll::Pending };
        let deadline = admitted_at + self.receiver.settings().acknowledgement_deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if !self.detach() {
            self.stranded = true;
            return Poll::Pending;
        }
        let answer = self.receiver.answer(Outcome::Slow);
        let (outcome, status) = (Outcome::Slow, answer.status());
        let settled = Settled { outcome, status, admitted_at, way: Way::Request, attempt: None, error: None };
        self.span.in_scope(|| self.receiver.telemetry().settled(&settled));
        Poll::Ready(Reply::Receiver(answer))
    }
}

fn spawn<D>(delivery: Pin<Box<D>>) -> Result<(), Pin<Box<D>>>
where
    D: Future<Output: Send + 'static> + Send + ?Sized + 'static,
{
    match Handle::try_current() {
        Ok(runtime) => {
            drop(runtime.spawn(delivery));
            Ok(())
        }
        Err(_) => Err(delivery),
    }
}

fn spawn_local<D>(delivery: Pin<Box<D>>) -> Result<(), Pin<Box<D>>>
where
    D: Future<Output: 'static> + ?Sized + 'static,
{
    // It panics where nothing runs local tasks, and there is no asking beforehand.
    match catch_unwind(|| drop(tokio::task::spawn_local(async {}))) {
        Ok(()) => {
            drop(tokio::task::spawn_local(delivery));
            Ok(())
        }
        Err(_) => Err(delivery),
    }
}

impl<R, D: ?Sized> Drop for Delivering<R, D> {
    fn drop(&mut self) {
        self.detach();
    }
}

impl<R, D: ?Sized> fmt::Debug for Delivering<R, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivering").field("started", &self.started).finish_non_exhaustive()
    }
}
