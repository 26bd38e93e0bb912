//! A mail state as a destination.

use super::{Destination, DestinationFuture};
use crate::inbox::Delivery;
use crate::mail::{Mail, MailStore};
use crate::store::{ClaimState, CommitError};

impl<S: MailStore> Mail<S> {
    /// Records an event: suppression, the message's state, the timeline, the counters, *and the completion of its claim*, in
    /// one transaction. Call it last in the handler: what fails afterwards is not tried again.
    ///
    /// The claim must be one of the same store. To write more in the same transaction, call `record_in`, and then the
    /// store's `commit`.
    ///
    /// # Errors
    ///
    /// [`CommitError::TakenOver`] if the claim was lost, [`CommitError::AlreadyCommitted`] if it has been completed, and
    /// [`CommitError::Failed`] if the database failed. Then nothing was recorded, or the next delivery finds it.
    pub async fn record(&self, delivery: &Delivery) -> Result<(), CommitError> {
        let claim = delivery.claim();
        // A memory completes nothing: the inbox does, once the handler has succeeded.
        let committing = if S::COMPLETES { Some(claim.begin_commit()?) } else { None };
        let record = self.record_of(delivery.event());
        let changes = self.changes_sink();
        let recorded =
            self.store().record(&record, claim, self.soft_bounces(), changes).await.map_err(CommitError::Failed)?;
        if let Some(status) = recorded.status {
            changes.send(&record.message_id, &record.address, status);
        }
        let Some(committing) = committing else { return Ok(()) };
        let state = if recorded.completed {
            Some(ClaimState::Completed)
        } else {
            self.store().claim_state(claim).await.map_err(CommitError::Failed)?
        };
        committing.conclude(recorded.completed, state)
    }
}

impl<S: MailStore> Destination for Mail<S> {
    fn take(&self, delivery: Delivery) -> DestinationFuture {
        let mail = self.clone();
        Box::pin(async move { Ok(mail.record(&delivery).await?) })
    }
}
