//! The path of a delivery: filter, claim, handle, settle.

use std::pin::pin;

use tracing::Span;

use super::attempt::{Attempt, Decoded};
use super::futures::{boxed, within};
use super::handler::{Delivery, HandlerError, HandlerResponse};
use super::panics::{catch_panic, caught};
use super::settle::{Failure, Settlement};
use crate::event::SendarixEvent;
use crate::outcome::{Outcome, Settled};

impl Attempt {
    /// Runs the delivery to its settlement, and reports that.
    ///
    /// A panic in a store, say, must not take the other requests of the connection with it; the claim is released when it is
    /// dropped.
    #[expect(clippy::manual_async_fn, reason = "an async function holds its arguments twice")]
    pub(super) fn run<H, F, R>(self, event: Decoded, span: Span, handler: H) -> impl Future<Output = Settlement<R>>
    where
        H: FnOnce(Delivery) -> F,
        F: Future<Output = Result<R, HandlerError>>,
        R: HandlerResponse,
    {
        async move {
            let settlement = match catch_panic(pin!(self.follow_path(&event, handler))).await {
                Ok(settlement) => settlement,
                Err(panic) => self.panicked(format!("a panic outside of the handler: {panic}")).into(),
            };
            self.report(&settlement.settled, event.ok().as_ref(), &span);
            settlement
        }
    }

    async fn follow_path<H, F, R>(&self, event: &Decoded, handler: H) -> Settlement<R>
    where
        H: FnOnce(Delivery) -> F,
        F: Future<Output = Result<R, HandlerError>>,
        R: HandlerResponse,
    {
        let event = match event {
            Ok(event) => event,
            Err(error) => return boxed(self.keep_malformed(error)).await.into(),
        };
        self.log_receipt(event);
        if !self.is_wanted(event) {
            return self.inbox.settled(Outcome::Ignored).into();
        }
        let claim = match self.claim(event).await {
            Ok(claim) => claim,
            Err(settled) => return settled.into(),
        };
        if claim.number() == 1 {
            self.count(event);
        }
        if let Some((outcome, reason, error)) = self.unfit(event) {
            return boxed(self.give_up(claim, outcome, reason, error)).await.into();
        }
        let delivery = Delivery { event: event.clone(), attempt: claim.number(), claim: claim.handle().clone() };
        // The handler's own panics are caught inside; this is for one in the drop of a handler that is stopped.
        let result = catch_panic(pin!(self.handle(handler, delivery))).await;
        self.settle(claim, result.unwrap_or_else(|panic| Err(Failure::Panic(panic)))).await
    }

    /// Runs the handler under its time limit. Its call is made inside as well, where a panic is caught.
    async fn handle<H, F, R>(&self, handler: H, delivery: Delivery) -> Result<R, Failure>
    where
        H: FnOnce(Delivery) -> F,
        F: Future<Output = Result<R, HandlerError>>,
        R: HandlerResponse,
    {
        let limit = self.inbox.settings().handler_limit;
        let _running = self.inbox.telemetry().handling();
        let handling = pin!(async move { handler(delivery).await });
        match within(limit, pin!(catch_panic(handling))).await {
            Some(Ok(result)) => result.map_err(Failure::Error),
            Some(Err(panic)) => Err(Failure::Panic(panic)),
            None => Err(Failure::Timeout(limit)),
        }
    }

    /// Logs, counts and traces how the delivery ended. A log that panics costs its line, and not the answer.
    fn report(&self, settled: &Settled, event: Option<&SendarixEvent>, span: &Span) {
        let telemetry = self.inbox.telemetry();
        caught(|| telemetry.settled(settled, self.began, self.kind()));
        caught(|| telemetry.span_ended(span, event, settled));
    }
}
