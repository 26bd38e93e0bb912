//! Dead letters on their way through the pipeline again.

use tokio::time::Instant;

use super::handler::{Delivery, HandlerError, HandlerResponse};
use super::{Admitted, Origin, Outcome, Receiver, Verified};
use crate::dead_letter::{DeadLetter, DeadLetterError};
use crate::store::EventKey;

/// What a redriven delivery knows of its letter.
#[derive(Debug)]
pub(crate) struct Redriven {
    key: EventKey,
    pub(super) attempts: u32,
}

/// So many letters are read at a time.
const PAGE: usize = 100;

/// Redriving dead letters.
impl Receiver {
    /// Takes a dead letter for what it is, a request that was verified once, so that it can be delivered again.
    ///
    /// It goes through the same steps with the same deduplication: an event that has been handled in the meantime is a
    /// [`Duplicate`](Outcome::Duplicate), one that is being handled is [`InFlight`](Outcome::InFlight), and the letter is
    /// resolved once the event has been handled. The store knows which is the case for as long as it remembers the event. Only the age
    /// of the event is not looked at again, and nobody waits for an acknowledgement, so it is never
    /// [`Slow`](Outcome::Slow).
    ///
    /// The signature is not checked again, since the secret may have been exchanged: whoever can write into the
    /// dead-letter store can make events.
    ///
    /// ```
    /// # use sendarix_webhooks::{Delivery, HandlerError, Receiver, dead_letter::DeadLetters, store::EventKey};
    /// # async fn on_event(_: Delivery) -> Result<(), HandlerError> { Ok(()) }
    /// # async fn example(receiver: Receiver, letters: impl DeadLetters) -> Result<(), Box<dyn std::error::Error>> {
    /// if let Some(letter) = letters.get(&EventKey::new("default", "evt_1")).await? {
    ///     let outcome = receiver.redrive(letter)?.deliver(on_event).await.outcome();
    ///     println!("evt_1: {outcome}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The letter is of another endpoint, or the receiver is draining.
    pub fn redrive(&self, letter: DeadLetter) -> Result<Verified, RedriveError> {
        let endpoint = &self.settings().endpoint;
        if letter.key.endpoint() != &**endpoint {
            let (found, expected) = (letter.key.endpoint().to_owned(), endpoint.to_string());
            return Err(RedriveError(Cause::OtherEndpoint { found, expected }));
        }
        let request = Admitted {
            receiver: self.clone(),
            signature: letter.signature,
            timestamp_header: letter.timestamp_header,
            admitted_at: Instant::now(),
            running: self.0.running.enter().ok_or(RedriveError(Cause::Draining))?,
        };
        let redriven = Redriven { key: letter.key, attempts: letter.attempts };
        Ok(Verified { request, body: letter.body, origin: Origin::Letter(redriven) })
    }

    /// Redrives every letter of this endpoint, one after the other, and tells what became of each.
    ///
    /// Letters that come in meanwhile may be among them or not. One that fails again stays, and does not keep the others
    /// from their turn.
    ///
    /// # Errors
    ///
    /// The receiver has no dead letters or is draining, or they cannot be listed. What was redriven before is done.
    pub async fn redrive_all<H, F, R>(&self, handler: H) -> Result<Vec<(EventKey, Outcome)>, RedriveError>
    where
        H: Fn(Delivery) -> F + Clone + Send + 'static,
        F: Future<Output = Result<R, HandlerError>> + Send + 'static,
        R: HandlerResponse + Send + 'static,
    {
        let letters = self.dead_letters().ok_or(RedriveError(Cause::NoDeadLetters))?;
        let mut outcomes: Vec<(EventKey, Outcome)> = Vec::new();
        loop {
            let after = outcomes.last().map(|(key, _)| key.event_id());
            let page = letters.list(&self.settings().endpoint, after, PAGE).await;
            let page = page.map_err(|error| RedriveError(Cause::DeadLetters(error)))?;
            if page.is_empty() {
                return Ok(outcomes);
            }
            for letter in page {
                let key = letter.key.clone();
                let reply = self.redrive(letter)?.deliver(handler.clone()).await;
                outcomes.push((key, reply.outcome()));
            }
        }
    }
}

impl Verified {
    /// Where the dead letter of this delivery is, or would be.
    pub(super) fn letter_key(&self, event_id: &str) -> EventKey {
        self.redriven().map_or_else(|| self.key(event_id), |redriven| redriven.key.clone())
    }

    /// Resolves the letter of a redriven event that has been handled already.
    pub(super) async fn resolve_duplicate(&self) {
        if let Some(redriven) = self.redriven() {
            self.resolve(&redriven.key).await;
        }
    }

    /// Resolves a letter unless it says that the event was given up.
    pub(super) async fn resolve_if_retrying(&self, key: &EventKey) {
        let Some(dead_letters) = self.receiver().dead_letters() else { return };
        if let Ok(Some(letter)) = self.within_limit(dead_letters.get(key)).await
            && letter.is_retrying()
        {
            self.resolve(key).await;
        }
    }
}

/// A dead letter could not be redriven.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RedriveError(Cause);

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("the letter is of the endpoint `{found}`, and this receiver of `{expected}`")]
    OtherEndpoint { found: String, expected: String },
    #[error("the receiver is draining")]
    Draining,
    #[error("the receiver has no dead letters; give it some with `ReceiverBuilder::dead_letters`")]
    NoDeadLetters,
    #[error(transparent)]
    DeadLetters(DeadLetterError),
}

/// Why a dead letter could not be redriven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedriveErrorKind {
    /// The letter is of another endpoint than the receiver.
    OtherEndpoint,
    /// The receiver is draining.
    Draining,
    /// The receiver has no dead letters.
    NoDeadLetters,
    /// The dead letters cannot be listed.
    DeadLetters,
}

impl RedriveError {
    /// Why, for a decision.
    #[must_use]
    pub fn kind(&self) -> RedriveErrorKind {
        match self.0 {
            Cause::OtherEndpoint { .. } => RedriveErrorKind::OtherEndpoint,
            Cause::Draining => RedriveErrorKind::Draining,
            Cause::NoDeadLetters => RedriveErrorKind::NoDeadLetters,
            Cause::DeadLetters(_) => RedriveErrorKind::DeadLetters,
        }
    }
}
