//! Whether deliveries can be taken now.

use std::time::Duration;

use tokio::time::Instant;

use super::futures::StepError;
use super::{Draining, Inbox};
use crate::telemetry::FailedStore;

/// No event has this id: ids of events that look like a digest are digests themselves.
const NO_EVENT: &str = "sha256:readiness";

/// How long a success counts.
const FRESH: Duration = Duration::from_secs(1);

impl Inbox {
    /// Asks the dedup store and the dead letters for an event that is not there, one after the other, each
    /// within the [`store_timeout`](super::InboxBuilder::store_timeout). For a load balancer: while it fails, deliveries are
    /// answered 503.
    ///
    /// One call asks at a time, and a success counts for a second: a flood of calls does not reach the store.
    ///
    /// It reads, so it does not see that a disk is full.
    ///
    /// # Errors
    ///
    /// The inbox is draining, or one of the two stores failed or took too long.
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.enter()?;
        let mut ready_at = self.0.ready_at.lock().await;
        if ready_at.is_some_and(|ready_at| ready_at.elapsed() < FRESH) {
            return Ok(());
        }
        let key = self.key(NO_EVENT);
        self.step(FailedStore::Dedup, self.store().is_completed(&key)).await?;
        if let Some(letters) = self.letters() {
            self.step(FailedStore::DeadLetters, letters.get(&key)).await?;
        }
        *ready_at = Some(Instant::now());
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
