//! A delivery that outlives the connection that waits for it.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Span;

use super::panics::caught;
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
/// It must be polled and dropped where tasks can run. Where none can, it is awaited to its end however long that takes, and
/// dropping it cancels it.
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
    /// The deadline has passed, and there was no task to move into.
    stranded: bool,
    inbox: Inbox,
    began: Instant,
    kind: DeliveryKind,
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
    /// As the server says that owns the thread.
    OnThread { task: fn(Slot<D>, Caller<R>) -> LocalTask, spawn: fn(LocalTask) },
}

/// A delivery on its way into a local task. Where the task cannot be spawned, the delivery is still there.
type Slot<D> = Rc<Cell<Option<Pin<Box<D>>>>>;

impl<R: Send + 'static> Delivering<R> {
    pub(super) fn new<F>(delivery: F, inbox: Inbox, began: Instant, kind: DeliveryKind, span: Span) -> Self
    where
        F: Future<Output = Settlement<R>> + Send + 'static,
    {
        let spawn = Spawn::OnRuntime(|runtime, delivery, caller| drop(runtime.spawn(run(delivery, caller))));
        Self { state: State::New(Box::pin(delivery)), spawn, timer: None, stranded: false, inbox, began, kind, span }
    }
}

impl<R: 'static> LocalDelivering<R> {
    pub(super) fn new_local<F>(
        delivery: F,
        spawn: fn(LocalTask),
        inbox: Inbox,
        began: Instant,
        kind: DeliveryKind,
        span: Span,
    ) -> Self
    where
        F: Future<Output = Settlement<R>> + 'static,
    {
        let spawn = Spawn::OnThread {
            task: |slot: Slot<dyn Future<Output = Settlement<R>>>, caller| {
                Box::pin(async move {
                    if let Some(delivery) = slot.take() {
                        run(delivery, caller).await;
                    }
                })
            },
            spawn,
        };
        Self { state: State::New(Box::pin(delivery)), spawn, timer: None, stranded: false, inbox, began, kind, span }
    }
}

impl<R, D: ?Sized> Spawn<R, D> {
    /// Moves a delivery into a task, or gives it back where no task can run.
    fn spawn(&self, delivery: Pin<Box<D>>, caller: Caller<R>) -> Result<(), Pin<Box<D>>> {
        match self {
            Self::OnRuntime(spawn) => match Handle::try_current() {
                Ok(runtime) => spawn(&runtime, delivery, caller),
                Err(_) => return Err(delivery),
            },
            Self::OnThread { task, spawn } => {
                let slot = Rc::new(Cell::new(Some(delivery)));
                let task = task(Rc::clone(&slot), caller);
                if catch_unwind(AssertUnwindSafe(|| spawn(task))).is_err()
                    && let Some(delivery) = slot.take()
                {
                    return Err(delivery);
                }
            }
        }
        Ok(())
    }
}

impl<R, D: ?Sized> Delivering<R, D> {
    /// Begins: in a task if the inbox is told so and one can run, else right here.
    fn begin(&self, delivery: Pin<Box<D>>) -> State<R, D> {
        if !self.inbox.settings().deliver_in_tasks {
            return State::Inline(delivery);
        }
        let (sender, settlement) = oneshot::channel();
        match self.spawn.spawn(delivery, Some(sender)) {
            Ok(()) => State::InTask(settlement),
            Err(delivery) => State::Inline(delivery),
        }
    }

    /// Moves a delivery that has begun and not ended into a task. `false`: no task can run.
    fn detach(&mut self) -> bool {
        let State::Inline(delivery) = std::mem::replace(&mut self.state, State::Over) else { return true };
        let Err(delivery) = self.spawn.spawn(delivery, None) else { return true };
        self.state = State::Inline(delivery);
        if self.stranded {
            return false; // which the log has said
        }
        let message = "a delivery must go on without its connection, and no task can run here: there is no tokio runtime, or \
            the server's way to spawn a local task has panicked; when it is dropped, its handler is stopped";
        self.span.in_scope(|| tracing::error!(target: TARGET, message));
        false
    }

    /// Reports an outcome that the delivery itself does not have: `Slow` or `Draining`.
    fn report(&self, outcome: Outcome) -> Settled {
        let settled = self.inbox.settled(outcome);
        let telemetry = self.inbox.telemetry();
        caught(|| self.span.in_scope(|| telemetry.settled(&settled, self.began, self.kind)));
        // After a slow answer the delivery goes on, and reports how it ended.
        if outcome != Outcome::Slow {
            caught(|| telemetry.span_ended(&self.span, None, &settled));
        }
        settled
    }

    /// When the sender must be answered, if there is one.
    fn deadline(&self) -> Option<Instant> {
        let deadline = self.inbox.settings().acknowledgement_deadline?;
        matches!(self.kind, DeliveryKind::Request).then(|| self.began + deadline)
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
                // The runtime is being shut down and has dropped the task, or the log has panicked in it.
                Poll::Ready(Err(_)) => Poll::Ready(self.report(Outcome::Draining).into()),
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
        let Some(deadline) = self.deadline().filter(|_| !self.stranded) else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        ready!(timer.as_mut().poll(cx));
        if !self.detach() {
            self.stranded = true;
            return Poll::Pending;
        }
        Poll::Ready(self.report(Outcome::Slow).into())
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
