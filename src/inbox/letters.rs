//! The dead letters of deliveries: written, and resolved when their event is handled.

use std::sync::Arc;

use super::Inbox;
use super::attempt::Attempt;
use super::futures::StepError;
use crate::dead_letter::{DeadLetter, DeadLetterReason, DeadLetters};
use crate::event::EventKey;
use crate::logging::{Chain, TARGET};
use crate::store::ClaimHandle;
use crate::telemetry::FailedStore;

/// Where the letters of an inbox are.
#[derive(Clone, Debug)]
pub(crate) enum Letters {
    /// In the store of the events, which deletes the letter of an event when it is completed.
    WithEvents(Arc<dyn DeadLetters>),
    Apart(Arc<dyn DeadLetters>),
    /// Nowhere: what cannot be handled is logged and lost.
    Nowhere,
}

impl Letters {
    pub(super) fn get(&self) -> Option<&dyn DeadLetters> {
        match self {
            Self::WithEvents(letters) | Self::Apart(letters) => Some(letters.as_ref()),
            Self::Nowhere => None,
        }
    }
}

impl Inbox {
    pub(super) fn letters(&self) -> Option<&dyn DeadLetters> {
        self.0.letters.get()
    }

    /// Forgets the letter of an event that has been handled.
    pub(super) async fn resolve(&self, key: &EventKey) {
        let Some(letters) = self.letters() else { return };
        if let Err(error) = self.step(FailedStore::DeadLetters, letters.resolve(key)).await {
            let message = "the event has been handled, but a dead letter that it may have left stays";
            tracing::error!(target: TARGET, error = %Chain(&error), "{message}");
        }
    }
}

impl Attempt {
    /// The letter that this delivery leaves if it fails.
    pub(super) fn letter(&self, event_id: &str, attempt: u32, reason: DeadLetterReason, error: &str) -> DeadLetter {
        let mut letter = DeadLetter::new(self.letter_key(event_id), self.body.clone(), reason, self.inbox.now());
        letter.signature = self.proof.map(|proof| proof.signature);
        letter.timestamp_header = self.proof.and_then(|proof| proof.timestamp_header);
        letter.error = error.to_owned();
        letter.attempts = self.letter_redriven().map_or(attempt, |redriven| redriven.attempts.saturating_add(1));
        letter
    }

    /// Where the letter of this delivery is, or would be.
    pub(super) fn letter_key(&self, event_id: &str) -> EventKey {
        self.letter_redriven().map_or_else(|| self.inbox.key(event_id), |redriven| redriven.key.clone())
    }

    /// Keeps a letter. Where there is no place for letters, the log line is all that is kept.
    pub(super) async fn keep(&self, letter: &DeadLetter) -> Result<(), StepError> {
        let reason = &letter.reason;
        let Some(letters) = self.inbox.letters() else {
            // What a decoder says may quote the body.
            let error = (*reason != DeadLetterReason::Malformed).then_some(letter.error.as_str());
            let message = "an event was not handled, and there is no dead-letter store to keep it";
            tracing::error!(target: TARGET, ?reason, error, "{message}");
            return Ok(());
        };
        let kept = self.inbox.step(FailedStore::DeadLetters, letters.record(letter)).await;
        match &kept {
            Ok(()) => self.inbox.telemetry().letter_kept(reason, letter.attempts),
            Err(error) => tracing::error!(target: TARGET, error = %Chain(error), "a dead letter could not be kept"),
        }
        kept
    }

    /// The letter that is there with this key, as far as that can be found out.
    pub(super) async fn earlier_letter(&self, key: &EventKey) -> Option<DeadLetter> {
        self.inbox.step(FailedStore::DeadLetters, self.inbox.letters()?.get(key)).await.ok().flatten()
    }

    /// The key of a letter that an event may have left, if completing the event has not deleted it.
    pub(super) fn letter_to_resolve(&self, claim: &EventKey) -> Option<EventKey> {
        let redriven = self.letter_redriven().map(|letter| &letter.key);
        match self.inbox.0.letters {
            Letters::Nowhere => None,
            Letters::Apart(_) => Some(redriven.unwrap_or(claim).clone()),
            // The letter of a body that could not be read has another key than the event that it turned out to be.
            Letters::WithEvents(_) => redriven.filter(|letter| *letter != claim).cloned(),
        }
    }
}

/// A claim that another delivery may own by now, and the letter that its own delivery may have left.
pub(super) struct LostClaim {
    pub(super) inbox: Inbox,
    pub(super) handle: ClaimHandle,
    letter: EventKey,
}

impl LostClaim {
    pub(super) fn new(attempt: &Attempt, handle: ClaimHandle) -> Self {
        let letter = attempt.letter_key(handle.key().event_id());
        Self { inbox: attempt.inbox.clone(), handle, letter }
    }

    /// Resolves the letter of a delivery that has ended without its claim, if the event was handled: by
    /// another delivery, or by a transaction whose reply was lost. Nothing else resolves it.
    pub(super) async fn settle(self) {
        let inbox = &self.inbox;
        if !self.handle.is_completed() {
            inbox.telemetry().taken_over();
        }
        if inbox.letters().is_none() {
            return;
        }
        match inbox.step(FailedStore::Dedup, inbox.store().is_completed(self.handle.key())).await {
            Ok(true) => inbox.resolve(&self.letter).await,
            // The delivery that owns the claim now resolves the letter.
            Ok(false) => {}
            Err(error) => {
                let message = "it is not known what became of the event; a dead letter of it may stay";
                tracing::warn!(target: TARGET, error = %Chain(&error), "{message}");
            }
        }
    }
}
