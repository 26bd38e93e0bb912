//! How deliveries end: the claim's end, the letter, the settlement.

use std::time::Duration;

use super::attempt::Attempt;
use super::claim::HeldClaim;
use super::futures::{StepError, boxed};
use super::handler::{Disposition, HandlerError, HandlerResponse};
use super::panics::caught;
use crate::dead_letter::DeadLetterReason;
use crate::event::{DecodeError, digest_id};
use crate::logging::{Chain, Clipped, TARGET};
use crate::outcome::{Outcome, Settled};

/// How a delivery ended, and the handler's response, if it returned one.
#[derive(Debug)]
#[must_use]
pub struct Settlement<R = ()> {
    pub(crate) settled: Settled,
    pub(crate) response: Option<R>,
}

impl<R> Settlement<R> {
    /// What became of the delivery.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.settled.outcome
    }

    /// Which attempt at the event this was, counted from 1, if the event was claimed.
    #[must_use]
    pub fn attempt(&self) -> Option<u32> {
        self.settled.attempt
    }

    /// What went wrong, for an operator. It may hold anything that the handler put there.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.settled.error.as_deref()
    }

    /// How long to wait before the event is delivered again, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.settled.retry_after
    }
}

/// A delivery that ended without a response of the handler.
impl<R> From<Settled> for Settlement<R> {
    fn from(settled: Settled) -> Self {
        Self { settled, response: None }
    }
}

/// Why a handler returned nothing that could be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Error(HandlerError),
    #[error("the handler panicked: {0}")]
    Panic(String),
    #[error("the handler was stopped at its limit of {0:?}")]
    Timeout(Duration),
    #[error("the handler reported success, though its transaction was not committed")]
    Uncommitted,
}

/// The status after a panic, which no setting changes.
const PANICKED: u16 = 500;

impl Attempt {
    pub(super) async fn settle<R>(&self, claim: HeldClaim<'_>, result: Result<R, Failure>) -> Settlement<R>
    where
        R: HandlerResponse,
    {
        match result {
            Ok(response) if !(200..300).contains(&response.status()) => {
                let error = format!("the handler answered {}", response.status());
                let settled = boxed(self.keep_for_retry(claim, Outcome::Failed, error)).await;
                Settlement { settled: settled.status(response.status()), response: Some(response) }
            }
            Ok(response) if claim.handle().is_in_doubt() => {
                // Nothing that it holds, such as the transaction, may wait for the store.
                caught(|| drop(response));
                boxed(self.settle_failure(claim, Failure::Uncommitted)).await.into()
            }
            Ok(response) => {
                let settled = Settled::new(Outcome::Processed, response.status()).attempt(claim.number());
                let letter = self.letter_to_resolve(claim.key());
                claim.complete().await;
                if let Some(letter) = letter {
                    boxed(self.inbox.resolve(&letter)).await;
                }
                Settlement { settled, response: Some(response) }
            }
            Err(failure) => boxed(self.settle_failure(claim, failure)).await.into(),
        }
    }

    async fn settle_failure(&self, claim: HeldClaim<'_>, failure: Failure) -> Settled {
        // Even if the handler's error panics when it is asked.
        let error = caught(|| failure.to_string());
        let error = error.unwrap_or_else(|| "an error that panicked when it was written".to_owned());
        let disposition = match &failure {
            Failure::Error(error) => Some(error.disposition()),
            Failure::Panic(_) => None,
            Failure::Timeout(_) | Failure::Uncommitted => Some(Disposition::Retry),
        };
        // Nothing that it holds may wait for the store, and its own drop may panic.
        caught(|| drop(failure));
        let Some(disposition) = disposition else {
            return self.keep_for_retry(claim, Outcome::Failed, error).await.status(PANICKED);
        };
        match disposition {
            Disposition::GiveUp => {
                self.give_up(claim, Outcome::FailedPermanently, DeadLetterReason::FailedPermanently, &error).await
            }
            Disposition::UnknownType => {
                self.give_up(claim, Outcome::UnknownType, DeadLetterReason::UnknownType, &error).await
            }
            Disposition::RetryKept => {
                let settled = self.inbox.settled(Outcome::Failed).attempt(claim.number()).error(error).kept(true);
                claim.release().await;
                settled
            }
            #[cfg(any(feature = "tower", feature = "actix"))]
            Disposition::NotTaken => self.keep_for_retry(claim, Outcome::NotTaken, error).await,
            Disposition::Retry => self.keep_for_retry(claim, Outcome::Failed, error).await,
        }
    }

    /// Keeps the event as a dead letter that is being retried, and frees it for the next delivery, in this order: else
    /// the next delivery might succeed and resolve a letter that is not there yet.
    async fn keep_for_retry(&self, claim: HeldClaim<'_>, outcome: Outcome, error: String) -> Settled {
        let settled = self.inbox.settled(outcome).attempt(claim.number());
        // Of an event that the handler has completed before it failed, there is nothing to keep.
        let kept = claim.handle().is_completed() || {
            let letter = self.letter(claim.key().event_id(), claim.number(), DeadLetterReason::Failed, &error);
            // Whether it was kept or not, the sender delivers again; a failure has been logged.
            self.keep(&letter).await.is_ok()
        };
        claim.release().await;
        settled.error(error).kept(kept)
    }

    /// Keeps an event that delivering again cannot help, and remembers that it is kept.
    pub(super) async fn give_up(
        &self,
        claim: HeldClaim<'_>,
        outcome: Outcome,
        reason: DeadLetterReason,
        error: &str,
    ) -> Settled {
        let settled = self.inbox.settled(outcome).error(error);
        let attempt = claim.number();
        if claim.handle().is_completed() {
            // By the handler, which failed afterwards. A letter would be that of an event that has been handled.
            claim.complete().await;
            return settled.attempt(attempt);
        }
        let letter = self.letter(claim.key().event_id(), attempt, reason, error);
        match self.keep(&letter).await {
            Ok(()) => {
                claim.give_up().await;
                settled.attempt(letter.attempts)
            }
            Err(error) => {
                claim.release().await;
                self.unavailable(&error).attempt(attempt)
            }
        }
    }

    /// Keeps a body that is authentic and no event.
    pub(super) async fn keep_malformed(&self, error: &DecodeError) -> Settled {
        // The error's own text may quote the body.
        let what = match (error.member(), error.place()) {
            (Some(_), _) => format!("{}: {error}", error.kind()),
            (None, Some(place)) => format!("{}, at {place}", error.kind()),
            (None, None) => error.kind().to_string(),
        };
        let detail = Clipped(&error.to_string()).to_string();
        tracing::debug!(target: TARGET, detail, "the body is authentic and no event");
        let id = digest_id(&self.body);
        let mut letter = self.letter(&id, 1, DeadLetterReason::Malformed, &error.to_string());
        letter.place = error.place();
        if let Some(earlier) = self.earlier_letter(&letter.key).await {
            letter.attempts = earlier.attempts.saturating_add(1);
        }
        match self.keep(&letter).await {
            Ok(()) => self.inbox.settled(Outcome::Malformed).error(format!("{what}; the dead letter is {id}")),
            Err(error) => self.unavailable(&error),
        }
    }

    pub(super) fn unavailable(&self, error: &StepError) -> Settled {
        self.inbox.settled(Outcome::StoreUnavailable).error(Chain(error).to_string())
    }

    pub(super) fn panicked(&self, error: String) -> Settled {
        self.inbox.settled(Outcome::Failed).error(error).status(PANICKED)
    }
}
