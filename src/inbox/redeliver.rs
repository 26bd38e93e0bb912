//! Events that the application delivers again, such as those of a queue.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::attempt::{Attempt, Proof, Source};
use super::delivering::{Delivering, LocalDelivering, LocalTask};
use super::handler::{Delivery, HandlerError, HandlerResponse};
use super::ready::Readiness;
use super::settings::check_name;
use super::{ConfigError, DrainGuard, Draining, Inbox, Inner, UnknownTypes};
use crate::event::SendarixEvent;
use crate::outcome::Outcome;
use crate::telemetry::Telemetry;

/// An event that was verified when it came, and is delivered here.
#[derive(Debug)]
#[must_use = "nothing is delivered before `deliver` is called"]
pub struct Redelivery(Attempt);

impl Redelivery {
    /// Claims the event, runs the handler and settles the claim: as
    /// [`Verified::deliver`](crate::receiver::Verified::deliver).
    pub fn deliver<H, F, R>(self, handler: H) -> Delivering<R>
    where
        H: FnOnce(Delivery) -> F + Send + 'static,
        F: Future<Output = Result<R, HandlerError>> + Send + 'static,
        R: HandlerResponse + Send + 'static,
    {
        self.0.deliver(handler)
    }

    /// As [`deliver`](Self::deliver), for a handler that must stay on this thread: as
    /// [`Verified::deliver_local`](crate::receiver::Verified::deliver_local).
    pub fn deliver_local<H, F, R>(self, spawn_local: fn(LocalTask), handler: H) -> LocalDelivering<R>
    where
        H: FnOnce(Delivery) -> F + 'static,
        F: Future<Output = Result<R, HandlerError>> + 'static,
        R: HandlerResponse + 'static,
    {
        self.0.deliver_local(spawn_local, handler)
    }
}

/// Why an event was not handled that the application has delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The inbox takes nothing new.
    #[error(transparent)]
    Draining(#[from] Draining),
    /// The handler failed, or what became of the event could not be recorded.
    #[error("{outcome}; deliver the event again: {error}")]
    Failed {
        /// What became of the delivery.
        outcome: Outcome,
        /// What went wrong.
        error: String,
    },
}

/// How long a worker waits, at most, before it tries again to claim an event: another worker has it, or the store failed.
const PROCESS_AGAIN_AFTER: Duration = Duration::from_secs(5);

impl Inbox {
    /// Handles one event of the application, such as a job of a queue. Returns once the event needs no other delivery:
    /// [handled](Outcome::Processed), handled before, not wanted, or kept as a dead letter.
    ///
    /// While a store fails, or another worker handles the event, this waits and tries again: then the handler has not run,
    /// and a queue that counts attempts must not count these.
    ///
    /// The event is claimed, so that a queue that delivers at least once has no duplicate effects. This must not be the inbox
    /// of the receiver that put the event into the queue, nor one of its [endpoint](super::InboxBuilder::endpoint): there it is
    /// a duplicate. The age of the event does not count.
    ///
    /// # Errors
    ///
    /// The handler failed, and the queue should deliver the job again; or the inbox is draining.
    pub async fn process<H, F, R>(&self, event: SendarixEvent, handler: H) -> Result<Outcome, ProcessError>
    where
        H: Fn(Delivery) -> F + Clone + Send + 'static,
        F: Future<Output = Result<R, HandlerError>> + Send + 'static,
        R: HandlerResponse + Send + 'static,
    {
        loop {
            let settlement = self.redeliver(event.clone())?.deliver(handler.clone()).await;
            match settlement.outcome() {
                outcome if outcome.is_acknowledged() => return Ok(outcome),
                // Without a claim, the handler has not run.
                Outcome::StoreUnavailable | Outcome::InFlight if settlement.attempt().is_none() => {
                    let lease = settlement.retry_after().unwrap_or(PROCESS_AGAIN_AFTER);
                    sleep(lease.clamp(PROCESS_AGAIN_AFTER / 100, PROCESS_AGAIN_AFTER)).await;
                }
                Outcome::Draining => return Err(Draining.into()),
                outcome => {
                    let error = settlement.error().unwrap_or_default().to_owned();
                    return Err(ProcessError::Failed { outcome, error });
                }
            }
        }
    }

    /// Takes one event of the application for a single delivery, with whatever outcome it has. A worker calls
    /// [`process`](Self::process).
    ///
    /// An outcome that is not [acknowledged](Outcome::is_acknowledged) means: deliver the event again. It is never
    /// [`Slow`](Outcome::Slow), since no sender waits.
    ///
    /// # Errors
    ///
    /// The inbox is draining.
    pub fn redeliver(&self, event: SendarixEvent) -> Result<Redelivery, Draining> {
        let (guard, body) = (self.enter()?, event.body().clone());
        Ok(self.redelivery(Source::Application(event), body, None, guard))
    }

    /// As [`redeliver`](Self::redeliver), for a part of a delivery that is under way.
    pub(crate) fn redeliver_part(&self, event: SendarixEvent) -> Redelivery {
        let (guard, body) = (self.0.drain.enter_part(), event.body().clone());
        self.redelivery(Source::Part(event), body, None, guard)
    }

    pub(super) fn redelivery(
        &self,
        source: Source,
        body: Bytes,
        proof: Option<Proof>,
        guard: DrainGuard,
    ) -> Redelivery {
        Redelivery(Attempt { inbox: self.clone(), source, body, proof, began: Instant::now(), guard })
    }

    /// The inbox of one destination of a [`FanOut`](crate::destination::FanOut): its letters are read, redriven and discarded
    /// by it. It is this inbox in everything but its name, which is `NAME/DESTINATION`, and takes all types.
    ///
    /// # Errors
    ///
    /// The destination's name is not made of 1 to 64 ASCII letters, digits, `.`, `_` or `-`.
    pub fn destination(&self, name: &str) -> Result<Self, ConfigError> {
        check_name(name)?;
        let mut settings = self.0.settings.clone();
        // No endpoint has a name with this in it, so none shares its events with a part.
        settings.endpoint = format!("{}/{name}", settings.endpoint).into();
        (settings.wanted, settings.unknown_types) = (None, UnknownTypes::Deliver);
        Ok(Self(Arc::new(Inner {
            store: Arc::clone(&self.0.store),
            letters: self.0.letters.clone(),
            clock: Arc::clone(&self.0.clock),
            telemetry: Telemetry::new(settings.endpoint.clone()),
            settings,
            drain: Arc::clone(&self.0.drain),
            readiness: Readiness::default(),
        })))
    }
}
