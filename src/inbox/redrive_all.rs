//! Many dead letters on their way through the pipeline again, one after the other.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

use super::handler::{Delivery, HandlerError, HandlerResponse};
use super::pace::Pace;
use super::read_letters::PAGE;
use super::redrive::Cause;
use super::{Inbox, LettersError, Redelivery, RedriveError, RedriveErrorKind};
use crate::dead_letter::{DeadLetterReason, LetterFilter, ListedLetter, key_of};
use crate::event::EventKey;
use crate::outcome::Outcome;

/// Letters that were read longer ago are read again before they are redriven.
const FRESH: Duration = Duration::from_secs(1);

impl Inbox {
    /// Redrives the letters of this endpoint, one after the other: all of them, or [those that a filter takes](Redrives::only).
    /// Letters with the reason [`Expired`](crate::dead_letter::DeadLetterReason::Expired) are left alone:
    /// [`redrive`](Self::redrive) takes each of those by itself.
    ///
    /// ```
    /// # use sendarix_webhooks::{Delivery, HandlerError, inbox::Inbox};
    /// # async fn on_event(_: Delivery) -> Result<(), HandlerError> { Ok(()) }
    /// # async fn example(inbox: Inbox) -> Result<(), Box<dyn std::error::Error>> {
    /// use sendarix_webhooks::dead_letter::LetterFilter;
    /// use std::time::Duration;
    ///
    /// let mut redrives = inbox
    ///     .redrive_all(on_event)?
    ///     .only(LetterFilter::new().error_contains("timed out"))
    ///     .every(Duration::from_millis(20)) // at most 50 a second
    ///     .pause_after_failure(Duration::from_secs(1));
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
        self.some_letters()?;
        let deliver = move |redelivery: Redelivery| -> OutcomeFuture {
            let delivery = redelivery.deliver(handler.clone());
            Box::pin(async move { delivery.await.outcome() })
        };
        let letters = EndpointLetters::new(self.clone(), deliver);
        Ok(Redrives { endpoints: VecDeque::from([letters]), ..Redrives::default() })
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
    filter: LetterFilter,
    pace: Pace,
}

type OutcomeFuture = Pin<Box<dyn Future<Output = Outcome> + Send>>;

struct EndpointLetters {
    inbox: Inbox,
    deliver: Box<dyn Fn(Redelivery) -> OutcomeFuture + Send>,
    /// The event's id of the letter that had its turn last.
    after: Option<String>,
    /// The letters behind it, how many there were, and when they were read.
    page: VecDeque<ListedLetter>,
    read: usize,
    read_at: Option<Instant>,
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
    /// Takes the letters that this filter takes, and passes over the others. Letters that cannot be read are passed over as
    /// well, unless the filter takes every letter.
    pub fn only(mut self, filter: LetterFilter) -> Self {
        self.filter = filter;
        self
    }

    /// Redrives at most one letter within this time, so that the handler keeps up with what Sendarix sends meanwhile.
    /// Default: one after the other without a pause.
    pub fn every(mut self, interval: Duration) -> Self {
        self.pace.interval = interval;
        self
    }

    /// Redrives this many letters and no more. Those that are left alone do not count. Default: all.
    pub fn at_most(mut self, letters: u64) -> Self {
        self.pace.left = letters;
        self
    }

    /// Waits this long after a letter whose handler failed again, twice as long after the next one, and so on up to a minute.
    /// A letter that succeeds ends that. Default: no pause.
    pub fn pause_after_failure(mut self, pause: Duration) -> Self {
        self.pace.pause = pause;
        self
    }

    /// Redrives the next letter; `None` after the last.
    ///
    /// A call that is dropped before the handler has begun redrives nothing. After that, the handler runs to its end, and no
    /// later call tells of that letter: it counts for [`at_most`](Self::at_most), and a later call may run beside it.
    ///
    /// # Errors
    ///
    /// The inbox is draining, or the letters cannot be listed. What was redriven before is done. The next call goes on
    /// with the next destination, where there are several, and else returns `None`.
    pub async fn next(&mut self) -> Result<Option<Redriven>, RedriveError> {
        loop {
            if self.pace.is_spent() {
                return Ok(None);
            }
            let Some(letters) = self.endpoints.front_mut() else { return Ok(None) };
            if letters.must_be_read() {
                match letters.read().await {
                    Ok(()) if letters.page.is_empty() => drop(self.endpoints.pop_front()),
                    Ok(()) => {}
                    Err(error) => {
                        self.endpoints.pop_front();
                        return Err(error.into());
                    }
                }
                continue;
            }
            if letters.page.front().is_some_and(|listed| !self.filter.matches_listed(listed)) {
                letters.pop();
                continue;
            }
            self.pace.wait().await;
            if letters.must_be_read() {
                continue;
            }
            let Some(listed) = letters.pop() else { continue };
            let key = key_of(&listed).clone();
            let redelivery = match listed {
                // To handle it may be what a replay is after: it must be named.
                Ok(letter) if letter.reason == DeadLetterReason::Expired => Err(Cause::Expired.into()),
                Ok(letter) => letters.inbox.redrive(letter),
                Err(unreadable) => Err(Cause::Unreadable(unreadable).into()),
            };
            let result = match redelivery {
                Ok(redelivery) => {
                    self.pace.begin();
                    let outcome = (letters.deliver)(redelivery).await;
                    self.pace.end(outcome);
                    Ok(outcome)
                }
                Err(error) if error.kind() == RedriveErrorKind::Draining => {
                    self.endpoints.clear();
                    return Err(error);
                }
                Err(error) => Err(error),
            };
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
    fn new(inbox: Inbox, deliver: impl Fn(Redelivery) -> OutcomeFuture + Send + 'static) -> Self {
        Self { inbox, deliver: Box::new(deliver), after: None, page: VecDeque::new(), read: 0, read_at: None }
    }

    /// A letter that waits for its turn may be handled or discarded meanwhile.
    fn must_be_read(&self) -> bool {
        self.page.is_empty() || self.is_stale()
    }

    fn is_stale(&self) -> bool {
        self.read_at.is_some_and(|read_at| read_at.elapsed() > FRESH)
    }

    /// Reads the letters behind the one that had its turn last. After a page that became stale, no more than had their turn
    /// until then.
    async fn read(&mut self) -> Result<(), LettersError> {
        let turns = self.read - self.page.len();
        let limit = if self.is_stale() { turns.max(1) } else { PAGE };
        let page = self.inbox.list_letters(self.after.as_deref(), limit).await?;
        (self.read, self.page, self.read_at) = (page.len(), page.into(), Some(Instant::now()));
        Ok(())
    }

    fn pop(&mut self) -> Option<ListedLetter> {
        let listed = self.page.pop_front()?;
        self.after = Some(key_of(&listed).event_id().to_owned());
        Some(listed)
    }
}

impl fmt::Debug for Redrives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.endpoints.iter().map(|letters| letters.inbox.endpoint());
        f.debug_list().entries(endpoints).finish()
    }
}
