//! Whether deliveries can be taken now.

use super::futures::StepError;
use super::{Draining, Inbox};
use crate::telemetry::FailedStore;

/// No event has this id: ids of events that look like a digest are digests themselves.
const NO_EVENT: &str = "sha256:readiness";

impl Inbox {
    /// Asks the dedup store and the dead letters for an event that is not there, one after the other, each
    /// within the [`store_timeout`](super::InboxBuilder::store_timeout). For a load balancer: while it fails, deliveries are
    /// answered 503.
    ///
    /// It reads, so it does not see that a disk is full.
    ///
    /// # Errors
    ///
    /// The inbox is draining, or one of the two stores failed or took too long.
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.enter()?;
        let key = self.key(NO_EVENT);
        self.step(FailedStore::Dedup, self.store().is_completed(&key)).await?;
        if let Some(letters) = self.letters() {
            self.step(FailedStore::DeadLetters, letters.get(&key)).await?;
        }
        Ok(())
    }
}

/// Why deliveries cannot be taken now.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NotReady(Cause);

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Draining(Draining),
    #[error(transparent)]
    Store(StepError),
}

impl From<Draining> for NotReady {
    fn from(draining: Draining) -> Self {
        Self(Cause::Draining(draining))
    }
}

impl From<StepError> for NotReady {
    fn from(error: StepError) -> Self {
        Self(Cause::Store(error))
    }
}
