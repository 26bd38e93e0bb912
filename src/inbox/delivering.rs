//! A delivery that outlives the connection that waits for it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Span;

use super::{Inbox, Settlement};
use crate::logging::TARGET;
use crate::outcome::{Outcome, Settled};
use crate::telemetry::DeliveryKind;

/// A delivery on its way to its [`Settlement`].
///
/// The connection polls it directly, which costs less than a task. When the connection goes away, or the acknowledgement
/// deadline comes first, the delivery moves into a task and runs to its end there: a client that disconnects cancels
/// nothing. With [`deliver_in_tasks`](crate::ReceiverBuilder::deliver_in_tasks) it runs in a task from the start.
///
/// It must be polled and dropped within a tokio runtime. Where there is none, dropping it cancels it.
///
/// # Panics
///
/// If it is polled again after it was ready.
#[must_use = "a delivery does nothing unless it is awaited"]
pub struct Delivering<R, D: ?Sized = dyn Future<Output = Settlement<R>> + Send> {
    state: State<R, D>,
    spawn: Spawn<R, D>,
    /// Runs until the acknowledgement deadline, if the delivery is not over by then.
    timer: Option<Pin<Box<Sleep>>>,
    inbox: Inbox,
    /// `None` if there is no sender who waits for an acknowledgement.
    awaited_since: Option<Instant>,
    span: Span,
}

/// Where the delivery is.
enum State<R, D: ?Sized> {
    /// Nothing has begun, so nothing needs to go on.
    New(Pin<Box<D>>),
    Inline(Pin<Box<D>>),
    InTask(oneshot::Receiver<Settlement<R>>),
    /// The settlement has been returned, or the delivery goes on in a task and nothing waits for it.
    Over,
}

/// A [`Delivering`] whose handler never leaves its thread.
pub type LocalDelivering<R> = Delivering<R, dyn Future<Output = Settlement<R>>>;

/// A delivery that goes on without its connection, and stays on its thread.
pub type LocalTask = Pin<Box<dyn Future<Output = ()>>>;

/// Waits for the settlement of a delivery in a task; `None` if its connection is gone.
type Caller<R> = Option<oneshot::Sender<Settlement<R>>>;

/// How a delivery gets into a task.
enum Spawn<R, D: ?Sized> {
    /// On the tokio runtime that it is polled or dropped in.
    OnRuntime(fn(&Handle, Pin<Box<D>>, Caller<R>)),
    /// As the server says whose thread this is.
    OnThread { task: fn(Pin<Box<D>>, Caller<R>) -> LocalTask, spawn: fn(LocalTask) },
}

impl<R: Send + 'static> Delivering<R> {
    pub(super) fn new<F>(delivery: F, inbox: Inbox, awaited_since: Option<Instant>, span: Span) -> Self
    where
        F: Future<Output = Settlement<R>> + Send + 'static,
    {
        let spawn = Spawn::OnRuntime(|runtime, delivery, caller| drop(runtime.spawn(run(delivery, caller))));
        Self { state: State::New(Box::pin(delivery)), spawn, timer: None, inbox, awaited_since, span }
    }
}

impl<R: 'static> LocalDelivering<R> {
    pub(super) fn new_local<F>(
        delivery: F,
        spawn: fn(LocalTask),
        inbox: Inbox,
        awaited_since: Option<Instant>,
        span: Span,
    ) -> Self
    where
        F: Future<Output = Settlement<R>> + 'static,
    {
        let spawn = Spawn::OnThread { task: |delivery, caller| Box::pin(run(delivery, caller)), spawn };
        Self { state: State::New(Box::pin(delivery)), spawn, timer: None, inbox, awaited_since, span }
    }
}

impl<R, D: ?Sized> Spawn<R, D> {
    /// Moves a delivery into a task. Where that cannot be, the delivery is cancelled, which gives its claim back.
    fn spawn(&self, delivery: Pin<Box<D>>, caller: Caller<R>) -> Result<(), &'static str> {
        match self {
            Self::OnRuntime(spawn) => {
                let runtime = Handle::try_current().map_err(|_| "there is no tokio runtime to run it")?;
                spawn(&runtime, delivery, caller);
                Ok(())
            }
            Self::OnThread { task, spawn } => {
                let task = task(delivery, caller);
                catch_unwind(AssertUnwindSafe(|| spawn(task))).map_err(|_| "the server's way to run it has panicked")
            }
        }
    }
}

impl<R, D: ?Sized> Delivering<R, D> {
    /// Begins: in a task if the inbox is told so, else right here.
    fn begin(&self, delivery: Pin<Box<D>>) -> State<R, D> {
        if !self.inbox.settings().deliver_in_tasks {
            return State::Inline(delivery);
        }
        let (sender, settlement) = oneshot::channel();
        self.move_into_task(delivery, Some(sender));
        State::InTask(settlement)
    }

    /// Moves a delivery that has begun and not ended into a task.
    fn detach(&mut self) {
        if let State::Inline(delivery) = std::mem::replace(&mut self.state, State::Over) {
            self.move_into_task(delivery, None);
        }
    }

    fn move_into_task(&self, delivery: Pin<Box<D>>, caller: Caller<R>) {
        if let Err(reason) = self.spawn.spawn(delivery, caller) {
            let message = "a delivery that must go on in a task was stopped; Sendarix delivers the event again";
            self.span.in_scope(|| tracing::error!(target: TARGET, reason, message));
        }
    }

    /// A settlement that the delivery itself does not know of.
    fn settle(&self, outcome: Outcome) -> Settled {
        let settled = self.inbox.settled(outcome);
        let began = self.awaited_since.unwrap_or_else(Instant::now);
        self.span.in_scope(|| self.inbox.report(&settled, began, DeliveryKind::Request));
        settled
    }
}

impl<R, D> Delivering<R, D>
where
    D: Future<Output = Settlement<R>> + ?Sized,
{
    fn poll_settlement(&mut self, cx: &mut Context<'_>) -> Poll<Settlement<R>> {
        // Taken out while it is polled: should it panic, there is nothing left to move into a task.
        match std::mem::replace(&mut self.state, State::Over) {
            State::New(delivery) => {
                self.state = self.begin(delivery);
                self.poll_settlement(cx)
            }
            State::Inline(mut delivery) => {
                if let Poll::Ready(settlement) = delivery.as_mut().poll(cx) {
                    return Poll::Ready(settlement);
                }
                self.state = State::Inline(delivery);
                Poll::Pending
            }
            State::InTask(mut settlement) => match Pin::new(&mut settlement).poll(cx) {
                Poll::Ready(Ok(settlement)) => Poll::Ready(settlement),
                // The runtime is being shut down, and has dropped the task.
                Poll::Ready(Err(_)) => Poll::Ready(self.settle(Outcome::Draining).into()),
                Poll::Pending => {
                    self.state = State::InTask(settlement);
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
    D: Future<Output = Settlement<R>> + ?Sized,
{
    type Output = Settlement<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Settlement<R>> {
        if let Poll::Ready(settlement) = self.poll_settlement(cx) {
            return Poll::Ready(settlement);
        }
        let Some(awaited_since) = self.awaited_since else { return Poll::Pending };
        let deadline = awaited_since + self.inbox.settings().acknowledgement_deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        ready!(timer.as_mut().poll(cx));
        self.detach();
        Poll::Ready(self.settle(Outcome::Slow).into())
    }
}

async fn run<R, D>(delivery: Pin<Box<D>>, caller: Caller<R>)
where
    D: Future<Output = Settlement<R>> + ?Sized,
{
    let settlement = delivery.await;
    // The caller may have been cancelled; then the settlement is dropped.
    if let Some(caller) = caller {
        let _ = caller.send(settlement);
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
