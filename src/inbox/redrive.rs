//! Dead letters on their way through the pipeline again.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::{Attempt, Proof, RedrivenLetter, Source};
use super::futures::StepError;
use super::handler::{Delivery, HandlerError, HandlerResponse};
use super::{Draining, Inbox, Redelivery};
use crate::closed_set::closed_set;
use crate::dead_letter::{DeadLetter, DeadLetterReason, ListedLetter, UnreadableLetter};
use crate::event::EventKey;
use crate::outcome::Outcome;
use crate::storage::StoreError;
use crate::telemetry::FailedStore;

/// How many letters are read at a time.
const PAGE: usize = 100;

/// Redriving dead letters.
impl Inbox {
    /// Takes a dead letter for what it is, an event that was verified once, so that it can be delivered again.
    ///
    /// It goes through the same steps with the same deduplication: an event that has been handled in the meantime is a
    /// [`Duplicate`](Outcome::Duplicate), one that is being handled is [`InFlight`](Outcome::InFlight), and the letter is
    /// resolved once the event has been handled. Only the age of the event is not looked at again, and no sender waits for an
    /// acknowledgement, so it is never [`Slow`](Outcome::Slow).
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
            Some(age) if age > retention => Err(RedriveError(Cause::BeyondRetention { age, retention })),
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
            return Err(RedriveError(Cause::OtherEndpoint { found, expected }));
        }
        let guard = self.enter()?;
        let timestamp_header = letter.timestamp_header;
        let proof = letter.signature.map(|signature| Proof { signature, timestamp_header });
        let source = Source::Letter(RedrivenLetter { key: letter.key, attempts: letter.attempts });
        Ok(Redelivery::new(Attempt {
            inbox: self.clone(),
            source,
            body: letter.body,
            proof,
            began: Instant::now(),
            guard,
        }))
    }

    /// Redrives every letter of this endpoint, one after the other. Letters with the reason
    /// [`Expired`](crate::dead_letter::DeadLetterReason::Expired) are left alone: [`redrive`](Self::redrive) takes each of
    /// those by itself.
    ///
    /// ```
    /// # use sendarix_webhooks::{Delivery, HandlerError, inbox::Inbox};
    /// # async fn on_event(_: Delivery) -> Result<(), HandlerError> { Ok(()) }
    /// # async fn example(inbox: Inbox) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut redrives = inbox.redrive_all(on_event)?;
    /// while let Some(redriven) = redrives.next().await? {
    ///     match redriven.result {
    ///         Ok(outcome) => println!("{}: {outcome}", redriven.key.event_id()),
    ///         Err(error) => println!("{}: left alone: {error}", redriven.key.event_id()),
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The inbox has no dead letters.
    pub fn redrive_all<H, F, R>(&self, handler: H) -> Result<Redrives, RedriveError>
    where
        H: Fn(Delivery) -> F + Clone + Send + 'static,
        F: Future<Output = Result<R, HandlerError>> + Send + 'static,
        R: HandlerResponse + Send + 'static,
    {
        if self.letters().is_none() {
            return Err(RedriveError(Cause::NoDeadLetters));
        }
        let deliver = move |redelivery: Redelivery| -> OutcomeFuture {
            let delivery = redelivery.deliver(handler.clone());
            Box::pin(async move { delivery.await.outcome() })
        };
        let letters = EndpointLetters { inbox: self.clone(), deliver: Box::new(deliver), after: None };
        Ok(Redrives { endpoints: VecDeque::from([letters]), page: VecDeque::new() })
    }
}

/// Letters that are being redriven, one with each call of [`next`](Self::next). It holds a hundred of them at a time.
///
/// Letters that come in meanwhile may be among them or not. One that fails again stays, and does not keep the others from
/// their turn.
#[must_use = "nothing is redriven before `next` is called"]
#[derive(Default)]
pub struct Redrives {
    /// The endpoints whose turn it is and will be.
    endpoints: VecDeque<EndpointLetters>,
    /// Letters of the first of them.
    page: VecDeque<ListedLetter>,
}

type OutcomeFuture = Pin<Box<dyn Future<Output = Outcome> + Send>>;

struct EndpointLetters {
    inbox: Inbox,
    deliver: Box<dyn Fn(Redelivery) -> OutcomeFuture + Send>,
    /// The last event id that was seen.
    after: Option<String>,
}

/// What became of one letter.
#[derive(Debug)]
#[non_exhaustive]
pub struct Redriven {
    /// The letter's key.
    pub key: EventKey,
    /// The outcome of its delivery. An error: it was left alone, because it cannot be read, is older than
    /// the retention, or is of an expired event.
    pub result: Result<Outcome, RedriveError>,
}

impl Redrives {
    /// Redrives the next letter; `None` after the last.
    ///
    /// # Errors
    ///
    /// The inbox is draining, or the letters cannot be listed. What was redriven before is done. The next call goes on
    /// with the next destination, where there are several, and else returns `None`.
    pub async fn next(&mut self) -> Result<Option<Redriven>, RedriveError> {
        loop {
            let Some(letters) = self.endpoints.front_mut() else { return Ok(None) };
            let Some(listed) = self.page.pop_front() else {
                match letters.read_page().await {
                    Ok(page) if page.is_empty() => drop(self.endpoints.pop_front()),
                    Ok(page) => self.page = page.into(),
                    Err(error) => {
                        self.endpoints.pop_front();
                        return Err(error);
                    }
                }
                continue;
            };
            let (key, result) = match listed {
                Ok(letter) => (letter.key.clone(), letters.redrive(letter).await),
                Err(unreadable) => (unreadable.key.clone(), Err(RedriveError(Cause::Unreadable(unreadable)))),
            };
            letters.after = Some(key.event_id().to_owned());
            if let Err(RedriveError(Cause::Draining(draining))) = result {
                self.endpoints.clear();
                return Err(draining.into());
            }
            return Ok(Some(Redriven { key, result }));
        }
    }

    /// Appends the letters of other endpoints.
    pub(crate) fn and(mut self, mut others: Self) -> Self {
        self.endpoints.append(&mut others.endpoints);
        self
    }
}

impl EndpointLetters {
    async fn read_page(&self) -> Result<Vec<ListedLetter>, RedriveError> {
        let letters = self.inbox.letters().ok_or(RedriveError(Cause::NoDeadLetters))?;
        let mut limit = PAGE;
        let page = loop {
            let page = letters.list(self.inbox.endpoint(), self.after.as_deref(), limit);
            match self.inbox.step(FailedStore::DeadLetters, page).await {
                Ok(page) => break page,
                // A page of large letters may take longer than the store has time for.
                Err(_) if limit > 1 => limit /= 10,
                Err(error) => return Err(RedriveError(Cause::DeadLetters(error))),
            }
        };
        // A store that loses its place would be asked for ever.
        let first = page.first().map(|listed| match listed {
            Ok(letter) => letter.key.event_id(),
            Err(unreadable) => unreadable.key.event_id(),
        });
        if first.is_some_and(|first| self.after.as_deref().is_some_and(|after| first <= after)) {
            let error = StoreError::new("the dead-letter store listed the same letters twice");
            return Err(RedriveError(Cause::DeadLetters(StepError::new(FailedStore::DeadLetters, error))));
        }
        Ok(page)
    }

    async fn redrive(&self, letter: DeadLetter) -> Result<Outcome, RedriveError> {
        // To handle it may be what a replay is after: it must be named.
        if letter.reason == DeadLetterReason::Expired {
            return Err(RedriveError(Cause::Expired));
        }
        Ok((self.deliver)(self.inbox.redrive(letter)?).await)
    }
}

impl fmt::Debug for Redrives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.endpoints.iter().map(|letters| letters.inbox.endpoint());
        f.debug_list().entries(endpoints).finish()
    }
}

impl From<Draining> for RedriveError {
    fn from(draining: Draining) -> Self {
        Self(Cause::Draining(draining))
    }
}

/// A dead letter could not be redriven.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RedriveError(Cause);

#[derive(Debug, thiserror::Error)]
enum Cause {
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
    #[error("there are no dead letters; give the builder some with `dead_letters`")]
    NoDeadLetters,
    #[error(transparent)]
    DeadLetters(StepError),
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
            Cause::NoDeadLetters => RedriveErrorKind::NoDeadLetters,
            Cause::DeadLetters(_) => RedriveErrorKind::DeadLetters,
        }
    }
}
