//! Whether deliveries can be taken now.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::futures::StepError;
use super::{Draining, Inbox};
use crate::logging::{Chain, TARGET};
use crate::storage::StoreError;
use crate::telemetry::FailedStore;

/// No event has this id: ids of events that look like a digest are digests themselves.
const NO_EVENT: &str = "sha256:readiness";

/// How long an answer counts.
const FRESH: Duration = Duration::from_secs(1);

/// What the stores last answered, and when. Held while they are asked.
pub(super) type Readiness = Arc<Mutex<Option<(Instant, Result<(), NotReady>)>>>;

impl Inbox {
    /// Asks the dedup store and the dead letters for an event that is not there, both within one
    /// [`store_timeout`](super::InboxBuilder::store_timeout). For a load balancer: while it fails, deliveries are answered 503.
    ///
    /// One call asks at a time, and an answer counts for a second, also where the caller has gone: a flood of calls does not
    /// reach the store.
    ///
    /// It reads, so it does not see that a disk is full.
    ///
    /// # Errors
    ///
    /// The inbox is draining, or one of the two stores failed or took too long.
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.enter()?;
        let mut readiness = Arc::clone(&self.0.readiness).lock_owned().await;
        if let Some((at, answer)) = &*readiness
            && at.elapsed() < FRESH
        {
            return answer.clone();
        }
        let inbox = self.clone();
        // In a task: a caller that goes would take a connection of the store with it.
        let asked = tokio::spawn(async move {
            let answer = inbox.ask_stores().await;
            if let Err(error) = &answer {
                tracing::warn!(target: TARGET, endpoint = inbox.endpoint(), error = %Chain(error), "not ready");
            }
            let answer = answer.map_err(NotReady::from);
            *readiness = Some((Instant::now(), answer.clone()));
            answer
        });
        asked.await.unwrap_or_else(|panic| Err(StepError::new(FailedStore::Dedup, StoreError::new(panic)).into()))
    }

    async fn ask_stores(&self) -> Result<(), StepError> {
        let (key, limit) = (self.key(NO_EVENT), self.settings().store_timeout);
        let end = Instant::now() + limit;
        self.step_within(limit, FailedStore::Dedup, self.store().is_completed(&key)).await?;
        if let Some(letters) = self.letters() {
            let left = end.saturating_duration_since(Instant::now());
            self.step_within(left, FailedStore::DeadLetters, letters.get(&key)).await?;
        }
        Ok(())
    }
}

/// Why deliveries cannot be taken now.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct NotReady(Arc<Cause>);

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Draining(Draining),
    #[error(transparent)]
    Store(StepError),
}

impl From<Draining> for NotReady {
    fn from(draining: Draining) -> Self {
        Self(Arc::new(Cause::Draining(draining)))
    }
}

impl From<StepError> for NotReady {
    fn from(error: StepError) -> Self {
        Self(Arc::new(Cause::Store(error)))
    }
}
