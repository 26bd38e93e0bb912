//! Whether deliveries can be taken now.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::futures::StepError;
use super::{Draining, Inbox};
use crate::telemetry::FailedStore;

/// No event has this id: ids of events that look like a digest are digests themselves.
const NO_EVENT: &str = "sha256:readiness";

/// How long an answer counts.
const FRESH: Duration = Duration::from_secs(1);

/// What the stores last answered, and when. One call asks at a time.
pub(super) type Readiness = Mutex<Option<(Instant, Result<(), NotReady>)>>;

impl Inbox {
    /// Asks the dedup store and the dead letters for an event that is not there, both within one
    /// [`store_timeout`](super::InboxBuilder::store_timeout). For a load balancer: while it fails, deliveries are answered 503.
    ///
    /// One call asks at a time, and an answer counts for a second: a flood of calls does not reach the store.
    ///
    /// It reads, so it does not see that a disk is full.
    ///
    /// # Errors
    ///
    /// The inbox is draining, or one of the two stores failed or took too long.
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.enter()?;
        let mut readiness = self.0.readiness.lock().await;
        if let Some((at, answer)) = &*readiness
            && at.elapsed() < FRESH
        {
            return answer.clone();
        }
        let limit = self.settings().store_timeout;
        // The first step has this limit too, and ends before it is over here.
        let answer = timeout(limit, self.ask_stores()).await.unwrap_or_else(|_| {
            self.telemetry().store_failed(FailedStore::DeadLetters);
            Err(StepError::late(FailedStore::DeadLetters, limit))
        });
        let answer = answer.map_err(NotReady::from);
        *readiness = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn ask_stores(&self) -> Result<(), StepError> {
        let key = self.key(NO_EVENT);
        self.step(FailedStore::Dedup, self.store().is_completed(&key)).await?;
        if let Some(letters) = self.letters() {
            self.step(FailedStore::DeadLetters, letters.get(&key)).await?;
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
