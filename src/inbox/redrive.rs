//! Dead letters on their way through the pipeline again.

use std::time::Duration;

use super::attempt::{Proof, RedrivenLetter, Source};
use super::{Draining, Inbox, LettersError, Redelivery};
use crate::closed_set::closed_set;
use crate::dead_letter::{DeadLetter, UnreadableLetter};

/// Redriving one dead letter.
impl Inbox {
    /// Takes a dead letter for what it is, an event that was verified once, so that it can be delivered again.
    ///
    /// It goes through the same steps with the same deduplication: an event that has been handled in the meantime is a
    /// [`Duplicate`](crate::Outcome::Duplicate), one that is being handled is [`InFlight`](crate::Outcome::InFlight), and the letter is
    /// resolved once the event has been handled. Only the age of the event is not looked at again, and no sender waits for an
    /// acknowledgement, so it is never [`Slow`](crate::Outcome::Slow).
    ///
    /// The signature is not checked again, since the secret may have been exchanged: a process that can write into the
    /// dead-letter store can make events.
    ///
    /// ```
    /// # use sendarix_webhooks::{Delivery, HandlerError, dead_letter::DeadLetters, event::EventKey, inbox::Inbox};
    /// # async fn on_event(_: Delivery) -> Result<(), HandlerError> { Ok(()) }
    /// # async fn example(inbox: Inbox, letters: impl DeadLetters) -> Result<(), Box<dyn std::error::Error>> {
    /// if let Some(letter) = letters.get(&EventKey::new("default", "evt_1")).await? {
    ///     let outcome = inbox.redrive(letter)?.deliver(on_event).await.outcome();
    ///     println!("evt_1: {outcome}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The letter is of another endpoint or [older than the retention](Self::redrive_beyond_retention), or the inbox is
    /// draining.
    pub fn redrive(&self, letter: DeadLetter) -> Result<Redelivery, RedriveError> {
        let (age, retention) = (letter.last_at.until(self.now()), self.settings().retention);
        match age {
            Some(age) if age > retention => Err(Cause::BeyondRetention { age, retention }.into()),
            _ => self.redrive_beyond_retention(letter),
        }
    }

    /// As [`redrive`](Self::redrive), also for a letter whose event last failed longer ago than the
    /// [`retention`](super::InboxBuilder::retention).
    ///
    /// The dedup store may have forgotten such an event. If it was handled after all, and its letter was left behind, it is
    /// handled a second time. Look into your own data first.
    ///
    /// # Errors
    ///
    /// The letter is of another endpoint, or the inbox is draining.
    pub fn redrive_beyond_retention(&self, letter: DeadLetter) -> Result<Redelivery, RedriveError> {
        if letter.key.endpoint() != self.endpoint() {
            let (found, expected) = (letter.key.endpoint().to_owned(), self.endpoint().to_owned());
            return Err(Cause::OtherEndpoint { found, expected }.into());
        }
        let guard = self.enter().map_err(Cause::Draining)?;
        let timestamp_header = letter.timestamp_header;
        let proof = letter.signature.map(|signature| Proof { signature, timestamp_header });
        let source = Source::Letter(RedrivenLetter { key: letter.key, attempts: letter.attempts });
        Ok(self.redelivery(source, letter.body, proof, guard))
    }
}

impl From<LettersError> for RedriveError {
    fn from(error: LettersError) -> Self {
        Cause::Letters(error).into()
    }
}

/// A dead letter could not be redriven.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RedriveError(#[from] Cause);

#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("the letter is of the endpoint `{found}`, and this inbox of `{expected}`")]
    OtherEndpoint { found: String, expected: String },
    #[error(transparent)]
    Draining(Draining),
    #[error(
        "its event last failed {age:?} ago, and the dedup store remembers an event for {retention:?}: if it was handled since, \
         it would be handled again; redrive it with `redrive_beyond_retention` if it was not"
    )]
    BeyondRetention { age: Duration, retention: Duration },
    #[error(
        "its event was older than `max_event_age` when it came, too old to be told from a replay; redrive it with `redrive` if \
         it was not handled before"
    )]
    Expired,
    #[error(transparent)]
    Unreadable(UnreadableLetter),
    #[error(transparent)]
    Letters(LettersError),
}

closed_set! {
    /// Why a dead letter could not be redriven.
    pub enum RedriveErrorKind {
        /// The letter is of another endpoint than the inbox.
        OtherEndpoint = "other_endpoint",
        /// The inbox is draining.
        Draining = "draining",
        /// The letter's event last failed longer ago than the retention.
        BeyondRetention = "beyond_retention",
        /// The letter's event was too old to be told from a replay, and is not redriven with all others.
        Expired = "expired",
        /// The letter cannot be read.
        Unreadable = "unreadable",
        /// The inbox has no dead letters.
        NoDeadLetters = "no_dead_letters",
        /// The dead letters cannot be listed.
        DeadLetters = "dead_letters",
    }
}

impl RedriveError {
    /// Why, for a decision.
    #[must_use]
    pub fn kind(&self) -> RedriveErrorKind {
        match self.0 {
            Cause::OtherEndpoint { .. } => RedriveErrorKind::OtherEndpoint,
            Cause::Draining(_) => RedriveErrorKind::Draining,
            Cause::BeyondRetention { .. } => RedriveErrorKind::BeyondRetention,
            Cause::Expired => RedriveErrorKind::Expired,
            Cause::Unreadable(_) => RedriveErrorKind::Unreadable,
            Cause::Letters(LettersError::NoDeadLetters) => RedriveErrorKind::NoDeadLetters,
            Cause::Letters(LettersError::OtherEndpoint { .. }) => RedriveErrorKind::OtherEndpoint,
            Cause::Letters(LettersError::Failed(_)) => RedriveErrorKind::DeadLetters,
        }
    }
}
