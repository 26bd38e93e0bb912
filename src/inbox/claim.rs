//! The claim that a delivery holds while its handler runs.

use std::time::Duration;

use scopeguard::ScopeGuard;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::Instrument;

use super::attempt::Attempt;
use super::futures::{StepError, boxed};
use super::letters::LostClaim;
use super::release::release_in_background;
use super::{DrainGuard, Inbox};
use crate::event::{EventKey, SendarixEvent};
use crate::logging::{Chain, TARGET};
use crate::outcome::{Outcome, Settled};
use crate::store::{Claim, ClaimHandle};
use crate::telemetry::FailedStore;

/// A claim that is released when it is dropped. Each way to end it consumes it.
pub(super) struct HeldClaim<'a> {
    claimed: ScopeGuard<Claimed<'a>, fn(Claimed<'a>)>,
    /// Which attempt at the event this is, counted from 1.
    number: u32,
}

/// What is claimed, and until when.
pub(super) struct Claimed<'a> {
    pub(super) attempt: &'a Attempt,
    /// The handle that the handler gets.
    pub(super) handle: ClaimHandle,
    /// When the lease is over at the earliest, if the store's clock runs as ours.
    pub(super) lease_end: Instant,
}

/// How an event ends that is not to be delivered again.
#[derive(Clone, Copy, Debug)]
enum Resolution {
    Completed,
    /// It is kept as a dead letter.
    GivenUp,
}

impl HeldClaim<'_> {
    pub(super) fn key(&self) -> &EventKey {
        self.claimed.handle.key()
    }

    pub(super) fn handle(&self) -> &ClaimHandle {
        &self.claimed.handle
    }

    /// Which attempt at the event this is, counted from 1.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// The handler has handled the event.
    pub(super) async fn complete(self) {
        let claimed = ScopeGuard::into_inner(self.claimed);
        // The handler may have recorded that by itself.
        if !claimed.handle.is_completed() {
            claimed.end(Resolution::Completed).await;
        }
    }

    /// The event is kept as a dead letter, and is not delivered again.
    pub(super) async fn give_up(self) {
        ScopeGuard::into_inner(self.claimed).end(Resolution::GivenUp).await;
    }

    /// Gives the event back, to be delivered again.
    pub(super) async fn release(self) {
        let (inbox, handle) = (&self.claimed.attempt.inbox, &self.claimed.handle);
        match inbox.step(FailedStore::Dedup, inbox.store().release(handle.key(), handle.token())).await {
            Ok(released) => {
                let claimed = ScopeGuard::into_inner(self.claimed);
                if !released {
                    LostClaim::new(claimed.attempt, claimed.handle).settle().await;
                }
            }
            Err(error) => {
                let error = Chain(&error);
                tracing::warn!(target: TARGET, %error, "the claim could not be released; trying again");
                drop(self);
            }
        }
    }
}

impl Claimed<'_> {
    /// Records how the event has ended. The claim is not given back, whatever happens to the record: nothing is left to be
    /// delivered.
    ///
    /// If the store fails, this goes on trying until the lease is over, and in a task rather than make the answer late: to
    /// run the handler twice is worse than a missing record.
    async fn end(self, resolution: Resolution) {
        match resolution.record(&self.attempt.inbox, &self.handle).await {
            Ok(true) => {}
            Ok(false) => boxed(LostClaim::new(self.attempt, self.handle).settle()).await,
            Err(error) => boxed(self.end_later(resolution, error)).await,
        }
    }

    async fn end_later(self, resolution: Resolution, error: StepError) {
        tracing::warn!(target: TARGET, error = %Chain(&error), "the end of the event could not be recorded; trying again");
        let attempt = self.attempt;
        let lost = LostClaim::new(attempt, self.handle);
        let retries = record_within_lease(lost, resolution, self.lease_end, attempt.guard.clone());
        let mut retries = Box::pin(retries.in_current_span());
        // Before the acknowledgement deadline, which would answer that the handler is still running.
        let deadline = attempt.inbox.settings().acknowledgement_deadline;
        let answer_by = deadline.map_or(self.lease_end, |deadline| attempt.began + deadline * 9 / 10);
        if timeout_at(answer_by, &mut retries).await.is_err() {
            drop(tokio::spawn(retries));
        }
    }
}

impl Resolution {
    /// `false`: the claim was taken over in the meantime.
    async fn record(self, inbox: &Inbox, handle: &ClaimHandle) -> Result<bool, StepError> {
        let (store, key, token, retention) = (inbox.store(), handle.key(), handle.token(), handle.retention());
        let recorded = match self {
            Self::Completed => store.complete(key, token, retention),
            Self::GivenUp => store.give_up(key, token, retention),
        };
        inbox.step(FailedStore::Dedup, recorded).await
    }
}

/// Goes on trying to record how an event has ended until its lease is over.
async fn record_within_lease(claim: LostClaim, resolution: Resolution, lease_end: Instant, _guard: DrainGuard) {
    let mut pause = Duration::from_millis(50);
    loop {
        sleep(pause).await;
        match resolution.record(&claim.inbox, &claim.handle).await {
            Ok(true) => return,
            Ok(false) => return claim.settle().await,
            Err(error) if Instant::now() + pause >= lease_end => {
                let error = Chain(&error);
                let message = "an event has ended and is acknowledged, but not recorded as such: sent again, it will be \
                    handled again";
                tracing::error!(target: TARGET, %error, "{message}");
                return;
            }
            Err(_) => pause = (pause * 2).min(Duration::from_secs(2)),
        }
    }
}

impl Attempt {
    /// Claims the event for this attempt; one that was given up too, if it is redriven. Without a claim, this is how the
    /// delivery ends.
    pub(super) async fn claim<'a>(&'a self, event: &SendarixEvent) -> Result<HeldClaim<'a>, Settled> {
        let (inbox, store, lease) = (&self.inbox, self.inbox.store(), self.inbox.settings().lease);
        let redriven = self.letter_redriven().map(|letter| &letter.key);
        let handle = ClaimHandle::new(inbox.key(&event.event_id), inbox.settings().retention);
        if redriven.is_some() {
            let reopened = inbox.step(FailedStore::Dedup, store.reopen(handle.key())).await;
            reopened.map_err(|error| self.unavailable(&error))?;
        }
        // From before the store is asked: when it grants the claim and its reply is lost, the claim is released all the same.
        let claimed = Claimed { attempt: self, handle, lease_end: self.began + lease };
        let claimed: ScopeGuard<_, fn(Claimed<'a>)> = scopeguard::guard(claimed, release_in_background);
        let answer = store.claim(claimed.handle.key(), claimed.handle.token(), lease);
        let answer = inbox.step(FailedStore::Dedup, answer).await.map_err(|error| self.unavailable(&error))?;
        let settled = match answer {
            Claim::Granted { attempt: number } => return Ok(HeldClaim { claimed, number }),
            Claim::InFlight { remaining } => inbox.settled(Outcome::InFlight).retry_after(remaining),
            // It was reopened a moment ago, so another delivery has just given it up again. The letter stays.
            Claim::GivenUp if redriven.is_some() => inbox.settled(Outcome::InFlight),
            Claim::GivenUp | Claim::Completed => inbox.settled(Outcome::Duplicate),
        };
        let handle = ScopeGuard::into_inner(claimed).handle;
        // A letter of it was left by a crash, or by a failing store. One that is being redriven is certainly there.
        if answer == Claim::Completed
            && let Some(letter) = redriven.cloned().or_else(|| self.letter_to_resolve(handle.key()))
        {
            boxed(inbox.resolve(&letter)).await;
        }
        Err(settled)
    }
}
