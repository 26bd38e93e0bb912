//! From a proven body to its answer: claim, handler, settlement.

use std::any::Any;
use std::error::Error;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::Instrument;

use super::claim::{Ending, HeldClaim, NotClaimed};
use super::handler::{Delivery, HandlerError, HandlerResponse, Then, UNKNOWN_TYPE};
use super::running::RunningGuard;
use super::settings::MAX_EVENT_AHEAD;
use super::time_limit::within;
use super::{Answer, Origin, Receiver, Reply, UnknownTypes, Verified};
use crate::dead_letter::{DeadLetter, DeadLetterError, DeadLetterFuture, DeadLetterReason};
use crate::event::{DecodeError, SendarixEvent, Timestamp, digest_id};
use crate::outcome::Outcome;
use crate::store::{ClaimHandle, EventKey, StoreError};
use crate::telemetry::{self, Chain, FailedStore, Settled, Telemetry};

/// The status after a panic, which no setting changes.
const PANICKED: u16 = 500;

impl Verified {
    /// Runs the delivery to its answer, come what may. A panic in a store, say, must not take the other requests of the
    /// connection with it; the claim is released when it is dropped.
    #[expect(clippy::manual_async_fn, reason = "an async function holds its arguments twice")]
    pub(super) fn run<H, F, R>(
        self,
        event: Result<SendarixEvent, Box<DecodeError>>,
        handler: H,
    ) -> impl Future<Output = Reply<R>>
    where
        H: FnOnce(Delivery) -> F,
        F: Future<Output = Result<R, HandlerError>>,
        R: HandlerResponse,
    {
        async move {
            match catch_panic(pin!(self.try_run(event, handler))).await {
                Ok(reply) => reply,
                Err(panic) => {
                    let error = format!("a panic outside of the handler: {panic}");
                    self.log(Outcome::Failed, PANICKED, None, Some(&error));
                    Reply::Receiver(Answer::new(Outcome::Failed, PANICKED))
                }
            }
        }
    }

    async fn try_run<H, F, R>(&self, event: Result<SendarixEvent, Box<DecodeError>>, handler: H) -> Reply<R>
    where
        H: FnOnce(Delivery) -> F,
        F: Future<Output = Result<R, HandlerError>>,
        R: HandlerResponse,
    {
        let event = match event {
            Ok(event) => event,
            Err(error) => return Reply::Receiver(rare(self.keep_malformed(&error)).await),
        };
        match &self.origin {
            Origin::Sender(secret) => self.telemetry().received(&event, "sendarix", Some(secret)),
            Origin::Letter(_) => self.telemetry().received(&event, "dead letter", None),
            Origin::Application(_) => self.telemetry().received(&event, "application", None),
            // The whole has been told.
            Origin::Part(_) => {}
        }
        let settings = self.receiver().settings();
        if event.kind.event_type().is_some_and(|event_type| !settings.wants(event_type)) {
            return Reply::Receiver(self.settled(Outcome::Ignored, None, None));
        }
        let claim = match self.claim(&event).await {
            Ok(claim) => claim,
            Err(answer) => return Reply::Receiver(answer),
        };
        if claim.attempt == 1 {
            self.count(&event);
        }
        if event.kind.event_type().is_none() && settings.unknown_types == UnknownTypes::DeadLetter {
            let kept = self.keep_dead(claim, Outcome::UnknownType, DeadLetterReason::UnknownType, UNKNOWN_TYPE);
            return Reply::Receiver(rare(kept).await);
        }
        if self.is_expired(event.timestamp) {
            // The store does not remember it, and may have forgotten it.
            let error = "the event is too old, or too far ahead, to be told from a replay";
            let kept = self.keep_dead(claim, Outcome::Expired, DeadLetterReason::Expired, error);
            return Reply::Receiver(rare(kept).await);
        }
        let delivery = Delivery { event, attempt: claim.attempt, claim: claim.handle.clone() };
        // The handler's own panics are caught inside; this is for one in the drop of a handler that is stopped.
        let result = catch_panic(pin!(self.run_handler(handler, delivery))).await;
        self.settle(claim, result.unwrap_or_else(|panic| Err(Failure::Panic(panic)))).await
    }

    async fn keep_malformed(&self, error: &DecodeError) -> Answer {
        // The error's own text may quote the body.
        let what = match (error.member(), error.place()) {
            (Some(_), _) => format!("{}: {error}", error.kind()),
            (None, Some(place)) => format!("{}, at {place}", error.kind()),
            (None, None) => error.kind().to_string(),
        };
        let detail = telemetry::Clipped(&error.to_string()).to_string();
        tracing::debug!(target: telemetry::TARGET, detail, "the body is authentic and no event");
        let id = digest_id(&self.body);
        let what = format!("{what}; the dead letter is {id}");
        let mut letter = self.letter(&id, 1, DeadLetterReason::Malformed, error.to_string());
        letter.place = error.place();
        if let Some(earlier) = self.earlier_letter(&letter.key).await {
            letter.attempts = earlier.attempts.saturating_add(1);
        }
        match self.record(&letter).await {
            Ok(()) => self.settled(Outcome::Malformed, None, Some(&what)),
            Err(answer) => answer,
        }
    }

    /// Counts an event that has not been there before.
    fn count(&self, event: &SendarixEvent) {
        if self.is_from_sender() {
            let lag = || event.timestamp.until(self.now()).unwrap_or_default();
            self.telemetry().new_event(event, lag);
            if event.data_is_no_object() {
                self.telemetry().unreadable_data();
            }
        }
    }

    /// Keeps an event that delivering again cannot help, and remembers that it is kept.
    async fn keep_dead(&self, claim: HeldClaim<'_>, outcome: Outcome, reason: DeadLetterReason, error: &str) -> Answer {
        let attempt = claim.attempt;
        if claim.is_completed() {
            // By the handler, which failed afterwards. A letter would be that of an event that has been handled.
            self.end(claim, Ending::Handled).await;
            return self.settled(outcome, Some(attempt), Some(error));
        }
        let letter = self.letter(claim.key().event_id(), attempt, reason, error);
        match self.record(&letter).await {
            Ok(()) => {
                self.end(claim, Ending::GivenUp).await;
                self.settled(outcome, Some(letter.attempts), Some(error))
            }
            Err(answer) => {
                self.release(claim).await;
                answer
            }
        }
    }

    fn is_expired(&self, signed_at: Timestamp) -> bool {
        // Whoever delivers an event again knows how old it is.
        let max_age = self.receiver().settings().max_event_age.filter(|_| self.is_from_sender());
        let Some(max_age) = max_age else { return false };
        let now = self.now();
        match signed_at.until(now) {
            Some(age) => age > max_age,
            None => now.until(signed_at).is_some_and(|ahead| ahead > MAX_EVENT_AHEAD),
        }
    }

    async fn claim(&self, event: &SendarixEvent) -> Result<HeldClaim<'_>, Answer> {
        let settings = self.receiver().settings();
        let claimed = HeldClaim::take(
            self.receiver(),
            ClaimHandle::new(self.key(&event.event_id), settings.retention),
            self.redriven().is_some(),
            &self.request.running,
        );
        match claimed.await {
            Ok(claim) => Ok(claim),
            Err(NotClaimed::Completed) => {
                // A letter of it was left by a crash, or by a failing store. One that is being redriven is certainly there.
                let key = self.key(&event.event_id);
                let redriven = self.redriven().map(|_| self.letter_key(&event.event_id));
                if let Some(letter) = redriven.or_else(|| self.letter_to_resolve(&key)) {
                    rare(self.resolve(&letter)).await;
                }
                Err(self.settled(Outcome::Duplicate, None, None))
            }
            Err(NotClaimed::GivenUp) => {
                // A redriven event was reopened a moment ago, so somebody else has just given it up again. The letter stays.
                let outcome = if self.redriven().is_some() { Outcome::InFlight } else { Outcome::Duplicate };
                Err(self.settled(outcome, None, None))
            }
            Err(NotClaimed::InFlight { remaining }) => {
                Err(self.settled(Outcome::InFlight, None, None).retry_after(remaining))
            }
            Err(NotClaimed::StoreFailed(error)) => Err(self.unavailable(&error)),
        }
    }

    /// Runs the handler under its time limit. Its call is made inside as well, where a panic is caught.
    async fn run_handler<H, F, R>(&self, handler: H, delivery: Delivery) -> Result<R, Failure>
    where
        H: FnOnce(Delivery) -> F,
        F: Future<Output = Result<R, HandlerError>>,
        R: HandlerResponse,
    {
        let limit = self.receiver().settings().handler_limit;
        let _running = self.telemetry().handling();
        let handling = pin!(async move { handler(delivery).await });
        match within(limit, pin!(catch_panic(handling))).await {
            Some(Ok(result)) => result.map_err(Failure::Error),
            Some(Err(panic)) => Err(Failure::Panic(panic)),
            None => Err(Failure::Timeout(limit)),
        }
    }

    async fn settle<R: HandlerResponse>(&self, claim: HeldClaim<'_>, result: Result<R, Failure>) -> Reply<R> {
        let attempt = claim.attempt;
        match result {
            Ok(response) if !(200..300).contains(&response.status()) => {
                let error = format!("the handler answered {}", response.status());
                rare(self.give_back(claim, &error)).await;
                self.log(Outcome::Failed, response.status(), Some(attempt), Some(&error));
                Reply::Handler { outcome: Outcome::Failed, response }
            }
            Ok(response) if claim.handle.is_in_doubt() => {
                // Nothing that it holds, such as the transaction, may wait for the store.
                drop(response);
                Reply::Receiver(rare(self.settle_failure(claim, Failure::Uncommitted)).await)
            }
            Ok(response) => {
                let letter = self.letter_to_resolve(claim.key());
                self.end(claim, Ending::Handled).await;
                if let Some(key) = letter {
                    rare(self.resolve(&key)).await;
                }
                self.log(Outcome::Processed, response.status(), Some(attempt), None);
                Reply::Handler { outcome: Outcome::Processed, response }
            }
            Err(failure) => Reply::Receiver(rare(self.settle_failure(claim, failure)).await),
        }
    }

    async fn settle_failure(&self, claim: HeldClaim<'_>, failure: Failure) -> Answer {
        let attempt = claim.attempt;
        let error = failure.text();
        let (outcome, kept) = match &failure {
            Failure::Error(cause) => match cause.then() {
                Then::GiveUp => {
                    let reason = DeadLetterReason::FailedPermanently;
                    return self.keep_dead(claim, Outcome::FailedPermanently, reason, &error).await;
                }
                Then::UnknownType => {
                    return self.keep_dead(claim, Outcome::UnknownType, DeadLetterReason::UnknownType, &error).await;
                }
                Then::RetryKept => {
                    self.release(claim).await;
                    (Outcome::Failed, true)
                }
                #[cfg(any(feature = "tower", feature = "actix"))]
                Then::NotTaken => (Outcome::NotTaken, self.give_back(claim, &error).await),
                Then::Retry => (Outcome::Failed, self.give_back(claim, &error).await),
            },
            Failure::Panic(_) => {
                let kept = self.give_back(claim, &error).await;
                self.log(Outcome::Failed, PANICKED, Some(attempt), Some(&error));
                return Answer::new(Outcome::Failed, PANICKED).kept(kept);
            }
            Failure::Timeout(_) | Failure::Uncommitted => (Outcome::Failed, self.give_back(claim, &error).await),
        };
        self.settled(outcome, Some(attempt), Some(&error)).kept(kept)
    }

    /// Records how the event has ended.
    ///
    /// If the store fails, this goes on trying until the lease is over, and in a task of its own rather than make the
    /// answer late: to run the handler twice is worse than a missing record.
    async fn end(&self, mut claim: HeldClaim<'_>, ending: Ending) {
        if claim.is_completed() {
            return claim.disarm();
        }
        match claim.end(ending).await {
            Ok(true) => {}
            Ok(false) => rare(self.lost(claim.handle.clone())).await,
            Err(error) => rare(self.end_later(claim, ending, error)).await,
        }
    }

    async fn end_later(&self, claim: HeldClaim<'_>, ending: Ending, error: StoreError) {
        tracing::warn!(target: telemetry::TARGET, error = %Chain(&error), "the end of the event could not be recorded; trying again");
        let lost = LostClaim::new(self, claim.handle.clone());
        let retries = end_within_lease(lost, ending, claim.lease_end, self.request.running.clone());
        let mut retries = Box::pin(retries.in_current_span());
        // Before the acknowledgement deadline, which would answer that the handler is still running.
        let answer_by = self.request.admitted_at + self.receiver().settings().acknowledgement_deadline * 9 / 10;
        if timeout_at(answer_by, &mut retries).await.is_err() {
            drop(tokio::spawn(retries));
        }
    }

    /// Keeps the event as a dead letter that is being retried, and frees it for the next delivery, in this order: else
    /// the next delivery might succeed and resolve a letter that is not there yet. Returns whether it is kept.
    async fn give_back(&self, claim: HeldClaim<'_>, error: &str) -> bool {
        // Of an event that the handler has completed before it failed, there is nothing to keep.
        let kept = claim.is_completed() || {
            let letter = self.letter(claim.key().event_id(), claim.attempt, DeadLetterReason::Failed, error);
            // Whether it was kept or not, the sender delivers again; a failure has been logged.
            self.keep(&letter).await.is_ok()
        };
        self.release(claim).await;
        kept
    }

    async fn release(&self, mut claim: HeldClaim<'_>) {
        match claim.release().await {
            Ok(true) => {}
            Ok(false) => self.lost(claim.handle.clone()).await,
            Err(error) => {
                let error = Chain(&error);
                tracing::warn!(target: telemetry::TARGET, %error, "the claim could not be released; trying again");
            }
        }
    }

    async fn lost(&self, claim: ClaimHandle) {
        LostClaim::new(self, claim).settle().await;
    }

    /// Keeps a letter without which the event must not be acknowledged.
    async fn record(&self, letter: &DeadLetter) -> Result<(), Answer> {
        self.keep(letter).await.map_err(|error| self.unavailable(&error))
    }

    async fn keep(&self, letter: &DeadLetter) -> Result<(), DeadLetterError> {
        let Some(dead_letters) = self.receiver().dead_letters() else {
            let reason = &letter.reason;
            // What a decoder says may quote the body.
            let error = (*reason != DeadLetterReason::Malformed).then_some(letter.error.as_str());
            let message = "an event was not handled, and there is no dead-letter store to keep it";
            tracing::error!(target: telemetry::TARGET, ?reason, error, message);
            return Ok(());
        };
        let kept = within_limit(self.receiver(), dead_letters.record(letter)).await;
        match &kept {
            Ok(()) => self.telemetry().letter_kept(&letter.reason, letter.attempts),
            Err(error) => {
                let error = Chain(error);
                tracing::error!(target: telemetry::TARGET, %error, "a dead letter could not be kept");
            }
        }
        kept
    }

    /// The key of a letter that an event may have left, if completing the event has not deleted it.
    fn letter_to_resolve(&self, claim: &EventKey) -> Option<EventKey> {
        let dead_letters = self.receiver().dead_letters()?;
        let key = self.letter_key(claim.event_id());
        let together = dead_letters.database().is_some_and(|of| self.receiver().store().database() == Some(of));
        // The letter of a body that could not be read has another key than the event that it turned out to be.
        let deleted = together && key == *claim;
        (!deleted && dead_letters.may_hold(&key)).then_some(key)
    }

    async fn earlier_letter(&self, key: &EventKey) -> Option<DeadLetter> {
        let dead_letters = self.receiver().dead_letters()?;
        within_limit(self.receiver(), dead_letters.get(key)).await.ok().flatten()
    }

    async fn resolve(&self, key: &EventKey) {
        resolve(self.receiver(), key).await;
    }

    fn letter(&self, event_id: &str, attempt: u32, reason: DeadLetterReason, error: impl Into<String>) -> DeadLetter {
        let key = self.letter_key(event_id);
        let mut letter = DeadLetter::new(key, self.body.clone(), self.request.signature, reason, self.now());
        letter.timestamp_header = self.request.timestamp_header;
        letter.error = error.into();
        letter.attempts = self.redriven().map_or(attempt, |redriven| redriven.attempts.saturating_add(1));
        letter
    }

    pub(super) fn key(&self, event_id: &str) -> EventKey {
        EventKey::new(&self.receiver().settings().endpoint, event_id)
    }

    fn now(&self) -> Timestamp {
        self.receiver().clock().now().into()
    }

    pub(super) fn receiver(&self) -> &Receiver {
        &self.request.receiver
    }

    fn telemetry(&self) -> &Telemetry {
        self.receiver().telemetry()
    }

    fn unavailable(&self, error: &(dyn Error + 'static)) -> Answer {
        self.settled(Outcome::StoreUnavailable, None, Some(&Chain(error).to_string()))
    }

    fn settled(&self, outcome: Outcome, attempt: Option<u32>, error: Option<&str>) -> Answer {
        let answer = self.receiver().answer(outcome);
        self.log(outcome, answer.status(), attempt, error);
        answer
    }

    fn log(&self, outcome: Outcome, status: u16, attempt: Option<u32>, error: Option<&str>) {
        let (admitted_at, way) = (self.request.admitted_at, self.way());
        self.telemetry().settled(&Settled { outcome, status, admitted_at, way, attempt, error });
    }
}

/// Why a handler returned nothing that could be sent.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Error(HandlerError),
    #[error("the handler panicked: {0}")]
    Panic(String),
    #[error("the handler was stopped at its limit of {0:?}")]
    Timeout(Duration),
    #[error("the handler reported success, though its transaction was not committed")]
    Uncommitted,
}

impl Failure {
    /// What went wrong, even if the handler's error panics when it is asked.
    fn text(&self) -> String {
        catch_unwind(AssertUnwindSafe(|| self.to_string()))
            .unwrap_or_else(|_| "an error that panicked when it was written".to_owned())
    }
}

/// Puts what few deliveries come to into memory of its own, which would otherwise be part of every delivery's.
fn rare<F: Future>(future: F) -> Pin<Box<F>> {
    Box::pin(future)
}

/// Runs a future to its end or to its panic, whose message it then returns.
async fn catch_panic<F: Future>(mut future: Pin<&mut F>) -> Result<F::Output, String> {
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic_message(panic.as_ref()).to_owned())),
    })
    .await
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a value that is no text")
}

/// Goes on trying to record how an event has ended until its lease is over.
async fn end_within_lease(claim: LostClaim, ending: Ending, lease_end: Instant, _running: RunningGuard) {
    let mut pause = Duration::from_millis(50);
    loop {
        sleep(pause).await;
        match ending.record(&claim.receiver, &claim.handle).await {
            Ok(true) => return,
            Ok(false) => return claim.settle().await,
            Err(error) if Instant::now() + pause >= lease_end => {
                let error = Chain(&error);
                let message = "an event has ended and is acknowledged, but not recorded as such: sent again, it will be \
                    handled again";
                tracing::error!(target: telemetry::TARGET, %error, message);
                return;
            }
            Err(_) => pause = (pause * 2).min(Duration::from_secs(2)),
        }
    }
}

/// A claim that another delivery may own by now, and the letter that its own delivery may have left.
struct LostClaim {
    receiver: Receiver,
    handle: ClaimHandle,
    letter: EventKey,
}

impl LostClaim {
    fn new(delivery: &Verified, handle: ClaimHandle) -> Self {
        let letter = delivery.letter_key(handle.key().event_id());
        Self { receiver: delivery.receiver().clone(), handle, letter }
    }

    /// Sees to the letter of a delivery that has ended without its claim. The event may have been handled all the same, by
    /// another delivery or by a transaction whose reply was lost. Then the letter is resolved here, since nothing else does.
    async fn settle(self) {
        let receiver = &self.receiver;
        if !self.handle.is_completed() {
            receiver.telemetry().taken_over();
        }
        if receiver.dead_letters().is_none() {
            return;
        }
        match super::claim::step(receiver, receiver.store().is_completed(self.handle.key())).await {
            Ok(true) => resolve(receiver, &self.letter).await,
            // The delivery that owns the claim now sees to the letter.
            Ok(false) => {}
            Err(error) => {
                let error = Chain(&error);
                let message = "it is not known what became of the event; a dead letter of it may stay";
                tracing::warn!(target: telemetry::TARGET, %error, message);
            }
        }
    }
}

async fn resolve(receiver: &Receiver, key: &EventKey) {
    let Some(dead_letters) = receiver.dead_letters() else { return };
    if let Err(error) = within_limit(receiver, dead_letters.resolve(key)).await {
        let error = Chain(&error);
        let message = "the event has been handled, but a dead letter that it may have left stays";
        tracing::error!(target: telemetry::TARGET, %error, message);
    }
}

/// Waits for one step of the dead letters, as long as the receiver's settings allow.
pub(super) async fn within_limit<T>(
    receiver: &Receiver,
    mut step: DeadLetterFuture<'_, T>,
) -> Result<T, DeadLetterError> {
    let limit = receiver.settings().store_timeout;
    let late = || Err(DeadLetterError::new(format!("no answer within {limit:?}")));
    let done = within(limit, step.as_mut()).await.unwrap_or_else(late);
    if done.is_err() {
        receiver.telemetry().store_failed(FailedStore::DeadLetters);
    }
    done
}
