//! Dead letters that need not be handled any more.

use super::letter_pages::LetterPages;
use super::{Inbox, LettersError};
use crate::dead_letter::{DeadLetter, LetterFilter};
use crate::event::Timestamp;
use crate::logging::{Clipped, TARGET};
use crate::telemetry::FailedStore;

impl Inbox {
    /// Deletes a letter whose event need not be handled, and says whether it did. The log keeps the event's id and the reason.
    ///
    /// A letter that was recorded again since it was read stays: its event has failed once more meanwhile. A letter with the
    /// reason [`Failed`](crate::dead_letter::DeadLetterReason::Failed) may come back with Sendarix's next attempt.
    ///
    /// # Errors
    ///
    /// The inbox has no dead letters, or their store failed. If only the reply was lost, the letter is gone all the same.
    pub async fn discard(&self, letter: &DeadLetter, because: &str) -> Result<bool, LettersError> {
        let is_deleted = self.delete(letter).await?;
        if is_deleted {
            self.log_discarded(letter, because);
        }
        Ok(is_deleted)
    }

    /// Deletes the letters of this endpoint that a filter takes, as [`discard`](Self::discard) does, and returns how many
    /// there were. Letters that cannot be read stay.
    ///
    /// # Errors
    ///
    /// As those of [`discard`](Self::discard). What was deleted before is gone.
    pub async fn discard_all(&self, filter: &LetterFilter, because: &str) -> Result<u64, LettersError> {
        self.delete_all(filter, |letter| self.log_discarded(letter, because)).await
    }

    /// Deletes the letters of this endpoint that failed last before this time, so that no personal data is kept for ever.
    /// Returns how many there were.
    ///
    /// # Errors
    ///
    /// As those of [`discard`](Self::discard). What was deleted before is gone.
    pub async fn purge_letters(&self, before: impl Into<Timestamp>) -> Result<u64, LettersError> {
        let before = before.into();
        let purged = self.delete_all(&LetterFilter::new().failed_before(before), |_| {}).await?;
        let endpoint = self.endpoint();
        tracing::info!(target: TARGET, endpoint, %before, purged, "purged dead letters");
        Ok(purged)
    }

    async fn delete_all(&self, filter: &LetterFilter, deleted: impl Fn(&DeadLetter)) -> Result<u64, LettersError> {
        let (mut pages, mut count) = (LetterPages::new(self.clone()), 0);
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                return Ok(count);
            }
            for letter in page.into_iter().flatten().filter(|letter| filter.matches(letter)) {
                if self.delete(&letter).await? {
                    deleted(&letter);
                    count += 1;
                }
            }
        }
    }

    async fn delete(&self, letter: &DeadLetter) -> Result<bool, LettersError> {
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
