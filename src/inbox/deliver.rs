//! The path of a delivery: filter, claim, handle, settle.

use std::pin::pin;

use super::UnknownTypes;
use super::attempt::{Attempt, Decoded, Source};
use super::claim::{HeldClaim, NotClaimed};
use super::handler::{Delivery, HandlerError, HandlerResponse, UNKNOWN_TYPE};
use super::panics::catch_panic;
use super::settings::MAX_EVENT_AHEAD;
use super::settle::{Failure, Settlement, boxed};
use super::time_limit::within;
use crate::dead_letter::DeadLetterReason;
use crate::event::{SendarixEvent, Timestamp};
use crate::outcome::{Outcome, Settled};

impl Attempt {
    /// Runs the delivery to its settlement, which is reported here and nowhere else.
    ///
    /// A panic in a store, say, must not take the other requests of the connection with it; the claim is released when it is
    /// dropped.
    #[expect(clippy::manual_async_fn, reason = "an async function holds its arguments twice")]
    pub(super) fn run<H, F, R>(self, event: Decoded, handler: H) -> impl Future<Output = Settlement<R>>
    where
        H: FnOnce(Delivery) -> F,
        F: Future<Output = Result<R, HandlerError>>,
        R: HandlerResponse,
    {
        async move {
            let settlement = match catch_panic(pin!(self.follow_path(event, handler))).await {
                Ok(settlement) => settlement,
                Err(panic) => self.panicked(format!("a panic outside of the handler: {panic}")).into(),
            };
            self.inbox.report(settlement.settled(), self.began, self.kind());
            settlement
        }
    }

    async fn follow_path<H, F, R>(&self, event: Decoded, handler: H) -> Settlement<R>
    where
        H: FnOnce(Delivery) -> F,
        F: Future<Output = Result<R, HandlerError>>,
        R: HandlerResponse,
    {
        let event = match event {
            Ok(event) => event,
            Err(error) => return boxed(self.keep_malformed(&error)).await.into(),
        };
        self.log_receipt(&event);
        if !self.inbox.wants(&event) {
            return self.inbox.settled(Outcome::Ignored).into();
        }
        let claim = match self.claim(&event).await {
            Ok(claim) => claim,
            Err(settled) => return settled.into(),
        };
        if claim.number() == 1 {
            self.count(&event);
        }
        if let Some((outcome, reason, error)) = self.unfit(&event) {
            return boxed(self.give_up(claim, outcome, reason, error)).await.into();
        }
        let delivery = Delivery { event, attempt: claim.number(), claim: claim.handle().clone() };
        // The handler's own panics are caught inside; this is for one in the drop of a handler that is stopped.
        let result = catch_panic(pin!(self.handle(handler, delivery))).await;
        self.settle(claim, result.unwrap_or_else(|panic| Err(Failure::Panic(panic)))).await
    }

    async fn claim(&self, event: &SendarixEvent) -> Result<HeldClaim<'_>, Settled> {
        let key = self.inbox.key(&event.event_id);
        match HeldClaim::take(self, key, self.letter_redriven().is_some()).await {
            Ok(claim) => Ok(claim),
            Err(NotClaimed::Completed) => {
                // A letter of it was left by a crash, or by a failing store. One that is being redriven is certainly there.
                let redriven = self.letter_redriven().map(|letter| letter.key.clone());
                let key = self.inbox.key(&event.event_id);
                if let Some(letter) = redriven.or_else(|| self.letter_to_resolve(&key)) {
                    boxed(self.inbox.resolve(&letter)).await;
                }
                Err(self.inbox.settled(Outcome::Duplicate))
            }
            Err(NotClaimed::GivenUp) => {
                // A redriven event was reopened a moment ago, so another delivery has just given it up again. The letter stays.
                let outcome = if self.letter_redriven().is_some() { Outcome::InFlight } else { Outcome::Duplicate };
                Err(self.inbox.settled(outcome))
            }
            Err(NotClaimed::InFlight { remaining }) => {
                Err(self.inbox.settled(Outcome::InFlight).retry_after(remaining))
            }
            Err(NotClaimed::StoreFailed(error)) => Err(self.unavailable(&error)),
        }
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

    /// Why an event that is claimed is not for the handler, if that is so.
    fn unfit(&self, event: &SendarixEvent) -> Option<(Outcome, DeadLetterReason, &'static str)> {
        if event.kind.event_type().is_none() && self.inbox.settings().unknown_types == UnknownTypes::DeadLetter {
            return Some((Outcome::UnknownType, DeadLetterReason::UnknownType, UNKNOWN_TYPE));
        }
        // The store does not remember it, and may have forgotten it.
        let error = "the event is too old, or too far ahead, to be told from a replay";
        self.is_expired(event.timestamp).then_some((Outcome::Expired, DeadLetterReason::Expired, error))
    }

    fn is_expired(&self, signed_at: Timestamp) -> bool {
        // An event that the application delivers again may be old.
        let max_age = self.inbox.settings().max_event_age.filter(|_| self.is_request());
        let Some(max_age) = max_age else { return false };
        let now = self.inbox.now();
        match signed_at.until(now) {
            Some(age) => age > max_age,
            None => now.until(signed_at).is_some_and(|ahead| ahead > MAX_EVENT_AHEAD),
        }
    }

    fn log_receipt(&self, event: &SendarixEvent) {
        let telemetry = self.inbox.telemetry();
        match &self.source {
            Source::Request(secret) => telemetry.received(event, "sendarix", Some(secret)),
            Source::Letter(_) => telemetry.received(event, "dead letter", None),
            Source::Application(_) => telemetry.received(event, "application", None),
            // The delivery of which it is a part has been logged.
            Source::Part(_) => {}
        }
    }

    /// Counts an event that has not been there before.
    fn count(&self, event: &SendarixEvent) {
        if self.is_request() {
            let lag = || event.timestamp.until(self.inbox.now()).unwrap_or_default();
            self.inbox.telemetry().new_event(event, lag);
            if event.data_is_no_object() {
                self.inbox.telemetry().unreadable_data();
            }
        }
    }
}
