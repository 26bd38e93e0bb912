//! Dead letters that need not be handled any more.

use super::read_letters::LetterPages;
use super::{Inbox, LettersError};
use crate::dead_letter::{DeadLetter, LetterFilter};
use crate::event::Timestamp;
use crate::logging::{Clipped, TARGET};
use crate::telemetry::FailedStore;

impl Inbox {
    /// Deletes a letter whose event need not be handled, and says whether it did. The log keeps the event's id and the reason.
    ///
    /// `false`: the letter is gone, or it was recorded again since it was read, because its event has failed once more; then it
    /// stays. A letter with the reason [`Failed`](crate::dead_letter::DeadLetterReason::Failed) may come back with Sendarix's next attempt.
    ///
    /// # Errors
    ///
    /// The letter is of another endpoint, the inbox has no dead letters, or their store failed. If only the reply was lost, the
    /// letter is gone all the same.
    pub async fn discard(&self, letter: &DeadLetter, because: &str) -> Result<bool, LettersError> {
        let (inbox, letter, because) = (self.clone(), letter.clone(), because.to_owned());
        // In a task, so that a caller who goes away leaves no deletion without its log line.
        let deleting = tokio::spawn(async move {
            let is_deleted = inbox.delete(&letter).await?;
            if is_deleted {
                inbox.log_discarded(&letter, &because);
            }
            Ok(is_deleted)
        });
        deleting.await.unwrap_or_else(|ended| Err(LettersError::Failed(ended.into())))
    }

    /// Deletes the letters of this endpoint that a filter takes, as [`discard`](Self::discard) does, and returns how many
    /// there were. Letters that cannot be read stay.
    ///
    /// # Errors
    ///
    /// As those of [`discard`](Self::discard). What was deleted before is gone.
    pub async fn discard_all(&self, filter: &LetterFilter, because: &str) -> Result<u64, LettersError> {
        self.delete_all(filter, Some(because)).await
    }

    /// Deletes the letters of this endpoint that failed last before this time, so that no personal data is kept for ever.
    /// Returns how many there were. Letters that cannot be read stay: delete them in the store.
    ///
    /// # Errors
    ///
    /// As those of [`discard`](Self::discard). What was deleted before is gone.
    pub async fn purge_letters(&self, before: impl Into<Timestamp>) -> Result<u64, LettersError> {
        let before = before.into();
        let purged = self.delete_all(&LetterFilter::new().failed_before(before), None).await?;
        let endpoint = self.endpoint();
        tracing::info!(target: TARGET, endpoint, %before, purged, "purged dead letters");
        Ok(purged)
    }

    /// With a reason, each is logged.
    async fn delete_all(&self, filter: &LetterFilter, because: Option<&str>) -> Result<u64, LettersError> {
        let (mut pages, mut count, mut unreadable) = (LetterPages::new(self), 0, 0);
        while let Some(page) = pages.next().await? {
            unreadable += page.iter().filter(|listed| listed.is_err()).count();
            for letter in page.into_iter().flatten().filter(|letter| filter.matches(letter)) {
                let is_deleted = match because {
                    Some(because) => self.discard(&letter, because).await?,
                    None => self.delete(&letter).await?,
                };
                count += u64::from(is_deleted);
            }
        }
        if unreadable > 0 {
            let message = "some dead letters cannot be read, and stay; delete them in the store";
            tracing::warn!(target: TARGET, endpoint = self.endpoint(), unreadable, "{message}");
        }
        Ok(count)
    }

    async fn delete(&self, letter: &DeadLetter) -> Result<bool, LettersError> {
        if letter.key.endpoint() != self.endpoint() {
            let (found, expected) = (letter.key.endpoint().to_owned(), self.endpoint().to_owned());
            return Err(LettersError::OtherEndpoint { found, expected });
        }
        let letters = self.some_letters()?;
        let is_deleted = self.step(FailedStore::DeadLetters, letters.discard(letter)).await?;
        if is_deleted {
            self.telemetry().letter_discarded();
        }
        Ok(is_deleted)
    }

    fn log_discarded(&self, letter: &DeadLetter, because: &str) {
        let (endpoint, event_id, because) = (letter.key.endpoint(), Clipped(letter.key.event_id()), Clipped(because));
        tracing::info!(target: TARGET, endpoint, ?event_id, ?because, "discarded a dead letter");
    }
}
