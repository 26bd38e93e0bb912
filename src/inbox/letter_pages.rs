//! The dead letters of an endpoint, a page at a time.

use std::error::Error;

use super::Inbox;
use super::futures::StepError;
use crate::dead_letter::{ListedLetter, key_of};
use crate::telemetry::FailedStore;

/// How many letters are in memory at a time.
const PAGE: usize = 100;

/// The dead letters of an inbox cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LettersError {
    /// The inbox keeps no dead letters.
    #[error("there are no dead letters; give the builder some with `dead_letters`")]
    NoDeadLetters,
    /// The dead-letter store failed or took too long. The cause is the driver's.
    #[error("the dead-letter store failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

pub(super) struct LetterPages {
    inbox: Inbox,
    /// The last event id that was read.
    after: Option<String>,
}

impl LetterPages {
    pub(super) fn new(inbox: Inbox) -> Self {
        Self { inbox, after: None }
    }

    pub(super) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// The next page; an empty one after the last.
    pub(super) async fn next(&mut self) -> Result<Vec<ListedLetter>, LettersError> {
        let letters = self.inbox.letters().ok_or(LettersError::NoDeadLetters)?;
        let mut limit = PAGE;
        let page = loop {
            let page = letters.list(self.inbox.endpoint(), self.after.as_deref(), limit);
            match self.inbox.step(FailedStore::DeadLetters, page).await {
                Ok(page) => break page,
                // A page of large letters may take longer than the store has time for.
                Err(_) if limit > 1 => limit /= 10,
                Err(error) => return Err(error.into()),
            }
        };
        let ids = |listed: Option<&ListedLetter>| listed.map(|listed| key_of(listed).event_id().to_owned());
        // A store that loses its place would be asked for ever.
        if let Some(first) = ids(page.first())
            && self.after.as_ref().is_some_and(|after| first <= *after)
        {
            return Err(LettersError::Failed("it listed the same letters twice".into()));
        }
        self.after = ids(page.last()).or(self.after.take());
        Ok(page)
    }
}

impl From<StepError> for LettersError {
    fn from(error: StepError) -> Self {
        Self::Failed(error.into_cause())
    }
}
