//! A delivery that outlives the connection that waits for it.

use std::fmt;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Span;

use super::{Answer, Receiver, Reply};
use crate::outcome::Outcome;
use crate::telemetry::{self, Settled, Way};

/// A delivery on its way to its [`Reply`].
///
/// The connection polls it directly, which costs less than a task of its own. When the connection goes away, or the
/// acknowledgement deadline comes first, the delivery moves into a task and runs to its end there: a client that
/// disconnects cancels nothing. With [`deliver_in_tasks`](super::ReceiverBuilder::deliver_in_tasks) it runs in a task from
/// the start.
///
/// It must be polled and dropped within a tokio runtime. Where there is none to move into, it is awaited to its end
/// however long that takes, and dropping it cancels it.
///
/// # Panics
///
/// If it is polled again after it was ready.
#[must_use = "a delivery does nothing unless it is awaited"]
pub struct Delivering<R, D: ?Sized = dyn Future<Output = Reply<R>> + Send> {
    state: State<R, D>,
    spawn: Spawn<R, D>,
    /// Runs until the acknowledgement deadline, if the delivery is not over by then.
    timer: Option<Pin<Box<Sleep>>>,
    /// The deadline has passed, and there was no task to move into.
    stranded: bool,
    receiver: Receiver,
    /// `None` if there is no sender who waits for an acknowledgement.
    admitted_at: Option<Instant>,
    span: Span,
}

enum State<R, D: ?Sized> {
    /// Nothing has begun, so nothing needs to go on.
    New(Pin<Box<D>>),
    Inline(Pin<Box<D>>),
    InTask(oneshot::Receiver<Reply<R>>),
    /// The reply has been returned, or the delivery goes on in a task that nobody waits for.
    Over,
}

/// A [`Delivering`] whose handler never leaves its thread. It must be polled and dropped within a
/// [`LocalSet`](tokio::task::LocalSet) or a local runtime, which run the task that it may move into.
pub type LocalDelivering<R> = Delivering<R, dyn Future<Output = Reply<R>>>;

/// Moves a delivery into a task, or gives it back where there is no runtime for that.
type Spawn<R, D> = fn(Pin<Box<D>>, Option<oneshot::Sender<Reply<R>>>) -> Result<(), Pin<Box<D>>>;

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
        spawn: Spawn<R, D>,
        delivery: Pin<Box<D>>,
        receiver: Receiver,
        admitted_at: Option<Instant>,
        span: Span,
    ) -> Self {
        Self { state: State::New(delivery), spawn, timer: None, stranded: false, receiver, admitted_at, span }
    }

    /// Begins: in a task if the receiver is told so and there can be one, else right here.
    fn begin(&self, delivery: Pin<Box<D>>) -> State<R, D> {
        if !self.receiver.settings().deliver_in_tasks {
            return State::Inline(delivery);
        }
        let (sender, reply) = oneshot::channel();
        match (self.spawn)(delivery, Some(sender)) {
            Ok(()) => State::InTask(reply),
            Err(delivery) => State::Inline(delivery),
        }
    }

    /// Moves a delivery that has begun and not ended into a task of its own. `false`: there is no runtime for that.
    fn detach(&mut self) -> bool {
        let State::Inline(delivery) = std::mem::replace(&mut self.state, State::Over) else { return true };
        let Err(delivery) = (self.spawn)(delivery, None) else { return true };
        self.state = State::Inline(delivery);
        if self.stranded {
            return false; // which the log has said
        }
        let message = "a delivery must go on without its connection, and there is no tokio runtime to run it, or for \
            `deliver_local` no `LocalSet`: when it is dropped, its handler is stopped";
        self.span.in_scope(|| tracing::error!(target: telemetry::TARGET, message));
        false
    }

    /// The answer of the receiver itself, which it logs.
    fn answer(&self, outcome: Outcome, admitted_at: Instant) -> Answer {
        let answer = self.receiver.answer(outcome);
        let status = answer.status();
        let settled = Settled { outcome, status, admitted_at, way: Way::Request, attempt: None, error: None };
        self.span.in_scope(|| self.receiver.telemetry().settled(&settled));
        answer
    }
}

impl<R, D> Delivering<R, D>
where
    D: Future<Output = Reply<R>> + ?Sized,
{
    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Reply<R>> {
        // Taken out while it is polled: should it panic, there is nothing left to move into a task.
        match std::mem::replace(&mut self.state, State::Over) {
            State::New(delivery) => {
                self.state = self.begin(delivery);
                self.poll_reply(cx)
            }
            State::Inline(mut delivery) => {
                if let Poll::Ready(reply) = delivery.as_mut().poll(cx) {
                    return Poll::Ready(reply);
                }
                self.state = State::Inline(delivery);
                Poll::Pending
            }
            State::InTask(mut reply) => match Pin::new(&mut reply).poll(cx) {
                Poll::Ready(Ok(reply)) => Poll::Ready(reply),
                // The runtime is being shut down, and has dropped the task.
                Poll::Ready(Err(_)) => Poll::Ready(Reply::Receiver(
                    self.answer(Outcome::Draining, self.admitted_at.unwrap_or_else(Instant::now)),
                )),
                Poll::Pending => {
                    self.state = State::InTask(reply);
                    Poll::Pending
                }
            },
            #[expect(clippy::panic, reason = "the caller's mistake, as with any future")]
            State::Over => panic!("`Delivering` was polled after it was ready"),
        }
    }
}

impl<R, D> Future for Delivering<R, D>
where
    D: Future<Output = Reply<R>> + ?Sized,
{
    type Output = Reply<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply<R>> {
        if let Poll::Ready(reply) = self.poll_reply(cx) {
            return Poll::Ready(reply);
        }
        let Some(admitted_at) = self.admitted_at.filter(|_| !self.stranded) else { return Poll::Pending };
        let deadline = admitted_at + self.receiver.settings().acknowledgement_deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        ready!(timer.as_mut().poll(cx));
        if !self.detach() {
            self.stranded = true;
            return Poll::Pending;
        }
        Poll::Ready(Reply::Receiver(self.answer(Outcome::Slow, admitted_at)))
    }
}

fn spawn<R, D>(delivery: Pin<Box<D>>, sender: Option<oneshot::Sender<Reply<R>>>) -> Result<(), Pin<Box<D>>>
where
    R: Send + 'static,
    D: Future<Output = Reply<R>> + Send + ?Sized + 'static,
{
    match Handle::try_current() {
        Ok(runtime) => {
            drop(runtime.spawn(run(delivery, sender)));
            Ok(())
        }
        Err(_) => Err(delivery),
    }
}

fn spawn_local<R, D>(delivery: Pin<Box<D>>, sender: Option<oneshot::Sender<Reply<R>>>) -> Result<(), Pin<Box<D>>>
where
    R: 'static,
    D: Future<Output = Reply<R>> + ?Sized + 'static,
{
    // It panics where nothing runs local tasks, and there is no asking beforehand.
    match catch_unwind(|| drop(tokio::task::spawn_local(async {}))) {
        Ok(()) => {
            drop(tokio::task::spawn_local(run(delivery, sender)));
            Ok(())
        }
        Err(_) => Err(delivery),
    }
}

async fn run<R, D>(delivery: Pin<Box<D>>, sender: Option<oneshot::Sender<Reply<R>>>)
where
    D: Future<Output = Reply<R>> + ?Sized,
{
    let reply = delivery.await;
    // The connection may have gone in the meantime; then nobody needs the reply.
    if let Some(sender) = sender {
        let _ = sender.send(reply);
    }
}

impl<R, D: ?Sized> Drop for Delivering<R, D> {
    fn drop(&mut self) {
        self.detach();
    }
}

impl<R, D: ?Sized> fmt::Debug for Delivering<R, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::New(_) => "new",
            State::Inline(_) => "inline",
            State::InTask(_) => "in a task",
            State::Over => "over",
        };
        f.debug_struct("Delivering").field("state", &state).finish_non_exhaustive()
    }
}
