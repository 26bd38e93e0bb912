//! The dead letters of an endpoint: one, a page at a time, and how many.

use std::collections::HashMap;
use std::error::Error;

use super::Inbox;
use super::futures::StepError;
use crate::dead_letter::{DeadLetter, DeadLetterReason, DeadLetters, ListedLetter, key_of};
use crate::telemetry::FailedStore;

/// How many letters are in memory at a time.
pub(super) const PAGE: usize = 100;

/// The dead letters of an inbox cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LettersError {
    /// The inbox keeps no dead letters.
    #[error("there are no dead letters; give the builder some with `dead_letters`")]
    NoDeadLetters,
    /// The letter is of another endpoint.
    #[error("the letter is of the endpoint `{found}`, and this inbox of `{expected}`")]
    OtherEndpoint {
        /// The endpoint of the letter.
        found: String,
        /// The endpoint of the inbox.
        expected: String,
    },
    /// The dead-letter store failed or took too long, or the letter cannot be read. The cause says which.
    #[error("the dead-letter store failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

/// Reading dead letters.
impl Inbox {
    /// The dead letter of this event, if there is one.
    ///
    /// # Errors
    ///
    /// The inbox has no dead letters, their store failed, or the letter cannot be read.
    pub async fn letter(&self, event_id: &str) -> Result<Option<DeadLetter>, LettersError> {
        let (letters, key) = (self.some_letters()?, self.key(event_id));
        Ok(self.step(FailedStore::DeadLetters, letters.get(&key)).await?)
    }

    /// A page of this endpoint's dead letters: see [`DeadLetters::list`]. It may be shorter than `limit`, and is empty after
    /// the last letter.
    ///
    /// # Errors
    ///
    /// The inbox has no dead letters, or their store failed.
    pub async fn list_letters(&self, after: Option<&str>, limit: usize) -> Result<Vec<ListedLetter>, LettersError> {
        let (letters, mut limit) = (self.some_letters()?, limit.max(1));
        let page = loop {
            match self.step(FailedStore::DeadLetters, letters.list(self.endpoint(), after, limit)).await {
                Ok(page) => break page,
                // A page of large letters may take longer than the store has time for.
                Err(_) if limit > 1 => limit = (limit / 10).max(1),
                Err(error) => return Err(error.into()),
            }
        };
        // A store that loses its place would be asked for ever.
        if let (Some(first), Some(after)) = (page.first(), after)
            && key_of(first).event_id() <= after
        {
            return Err(LettersError::Failed("it listed the same letters twice".into()));
        }
        Ok(page)
    }

    /// How many letters of this endpoint there are, by reason. With the feature `metrics`, it sets the gauge
    /// [`OPEN_LETTERS`](crate::telemetry::metrics::OPEN_LETTERS) as well: call it once a minute.
    ///
    /// A file of dead letters and Redis read every letter for it, a hundred at a time. Letters that cannot be read are left out
    /// there.
    ///
    /// # Errors
    ///
    /// The inbox has no dead letters, or their store failed.
    pub async fn count_letters(&self) -> Result<HashMap<DeadLetterReason, u64>, LettersError> {
        let counts = match self.some_letters()?.count(self.endpoint()) {
            Some(count) => self.step(FailedStore::DeadLetters, count).await?,
            None => self.count_by_reading().await?,
        };
        self.telemetry().letters_counted(&counts);
        Ok(counts)
    }

    async fn count_by_reading(&self) -> Result<HashMap<DeadLetterReason, u64>, LettersError> {
        let (mut pages, mut counts) = (LetterPages::new(self), HashMap::new());
        while let Some(page) = pages.next().await? {
            for letter in page.into_iter().flatten() {
                *counts.entry(letter.reason).or_default() += 1;
            }
        }
        Ok(counts)
    }

    pub(super) fn some_letters(&self) -> Result<&dyn DeadLetters, LettersError> {
        self.letters().ok_or(LettersError::NoDeadLetters)
    }
}

/// All letters of an inbox, a page at a time.
pub(super) struct LetterPages<'a> {
    inbox: &'a Inbox,
    /// The last event id that was read.
    after: Option<String>,
}

impl<'a> LetterPages<'a> {
    pub(super) fn new(inbox: &'a Inbox) -> Self {
        Self { inbox, after: None }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Vec<ListedLetter>>, LettersError> {
        let page = self.inbox.list_letters(self.after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(None) };
        self.after = Some(key_of(last).event_id().to_owned());
        Ok(Some(page))
    }
}

impl From<StepError> for LettersError {
    fn from(error: StepError) -> Self {
        Self::Failed(error.cause)
    }
}
