//! Events that the application has had since they were verified.

use std::sync::atomic::AtomicBool;

use tokio::time::Instant;

use super::{Admitted, Origin, Receiver, UnknownTypes, Verified};
use crate::event::SendarixEvent;
use crate::receiver::running::RunningGuard;
use crate::receiver::settings::{ConfigError, check_name};
use crate::telemetry::Telemetry;

/// The receiver takes nothing new: it is draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the receiver is draining")]
pub struct ResumeError(());

impl Receiver {
    /// Takes an event that was verified before, so that it can be delivered here: one from a queue, in its worker.
    ///
    /// An outcome that is not [acknowledged](super::Outcome::is_acknowledged) means: try it again. After
    /// [`StoreUnavailable`](super::Outcome::StoreUnavailable) and [`InFlight`](super::Outcome::InFlight) the handler has not run
    /// and nothing is kept, so a queue that counts attempts, and gives a job up, must not count these.
    ///
    /// It goes through the same steps as one from Sendarix: it is claimed, so that a queue which delivers at least once has no
    /// duplicate effects, and kept as a dead letter if it fails, from where it can be redriven. Give this receiver an
    /// [`endpoint`](super::ReceiverBuilder::endpoint) of its own: under the name of the one that put the event into the queue
    /// it would be a duplicate.
    ///
    /// Nobody waits for an acknowledgement, so it is never [`Slow`](super::Outcome::Slow), and its age is not looked at. A dead
    /// letter has the signature that this receiver's first secret makes of the body.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use sendarix_webhooks::{Delivery, HandlerError, Outcome, Receiver, SendarixEvent};
    /// # async fn work(_: Delivery) -> Result<(), HandlerError> { Ok(()) }
    /// /// What a worker does with a job.
    /// async fn on_job(receiver: &Receiver, event: SendarixEvent) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    ///     loop {
    ///         match receiver.resume(event.clone())?.deliver(work).await.outcome() {
    ///             outcome if outcome.is_acknowledged() => return Ok(()),
    ///             Outcome::StoreUnavailable | Outcome::InFlight => tokio::time::sleep(Duration::from_secs(5)).await,
    ///             outcome => return Err(format!("{outcome}; try it again").into()),
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The receiver is draining.
    pub fn resume(&self, event: SendarixEvent) -> Result<Verified, ResumeError> {
        let running = self.0.running.enter().ok_or(ResumeError(()))?;
        Ok(self.deliver_from(Origin::Application, event, running))
    }

    /// As [`resume`](Self::resume), for what is a part of a delivery that is under way.
    pub(crate) fn resume_part(&self, event: SendarixEvent) -> Verified {
        self.deliver_from(Origin::Part, event, self.0.running.enter_part())
    }

    fn deliver_from(
        &self,
        origin: impl FnOnce(SendarixEvent) -> Origin,
        event: SendarixEvent,
        running: RunningGuard,
    ) -> Verified {
        let body = event.body().clone();
        let request = Admitted {
            receiver: self.clone(),
            signature: self.secrets().sign(&body),
            timestamp_header: None,
            admitted_at: Instant::now(),
            undecided: AtomicBool::new(false),
            running,
        };
        Verified { request, body, origin: origin(event) }
    }

    /// A receiver for a part of each of this one's deliveries: the same in everything but its name, and for all types.
    pub(crate) fn for_part(&self, name: &str) -> Result<Self, ConfigError> {
        let inner = &self.0;
        let mut settings = inner.settings.clone();
        check_name(name)?;
        // No receiver has a name with this in it, so none shares its events with a part.
        settings.endpoint = format!("{}/{name}", settings.endpoint).into();
        (settings.wanted, settings.unknown_types) = (None, UnknownTypes::Deliver);
        Ok(Self(std::sync::Arc::new(super::Inner {
            secrets: inner.secrets.clone(),
            store: inner.store.clone(),
            dead_letters: inner.dead_letters.clone(),
            clock: inner.clock.clone(),
            telemetry: Telemetry::new(settings.endpoint.clone()),
            settings,
            running: inner.running.clone(),
            discards: super::body::Discards::default(),
        })))
    }
}
