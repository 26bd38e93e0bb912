//! A mail state as a destination.

use super::{Destination, DestinationFuture};
use crate::inbox::Delivery;
use crate::mail::{Mail, MailStore};
use crate::store::CommitError;

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
        self.record_claimed(delivery.event(), delivery.claim()).await
    }
}

impl<S: MailStore> Destination for Mail<S> {
    fn take(&self, delivery: Delivery) -> DestinationFuture {
        let mail = self.clone();
        Box::pin(async move { Ok(mail.record(&delivery).await?) })
    }
}
