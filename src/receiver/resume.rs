//! Events that the application has had since they were verified.

use tokio::time::Instant;

use super::{Admitted, Origin, Receiver, UnknownTypes, Verified};
use crate::event::SendarixEvent;
use crate::receiver::running::RunningGuard;
use crate::receiver::settings::ConfigError;
use crate::telemetry::Telemetry;

/// The receiver takes nothing new: it is draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the receiver is draining")]
pub struct ResumeError(());

impl Receiver {
    /// Takes an event that was verified before, so that it can be delivered here: one from a queue, in its worker.
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
    /// # use sendarix_webhooks::{Delivery, HandlerError, Outcome, Receiver, SendarixEvent};
    /// # async fn work(_: Delivery) -> Result<(), HandlerError> { Ok(()) }
    /// /// What a worker does with a job.
    /// async fn on_job(receiver: &Receiver, event: SendarixEvent) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    ///     match receiver.resume(event)?.deliver(work).await.outcome() {
    ///         outcome if outcome.is_acknowledged() => Ok(()),
    ///         outcome => Err(format!("{outcome}; try it again").into()),
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The receiver is draining.
    pub fn resume(&self, event: SendarixEvent) -> Result<Verified, ResumeError> {
        Ok(self.resumed(event, self.0.running.enter().ok_or(ResumeError(()))?))
    }

    /// As [`resume`](Self::resume), for what is a part of a delivery that is under way.
    pub(crate) fn resume_part(&self, event: SendarixEvent) -> Verified {
        self.resumed(event, self.0.running.enter_part())
    }

    fn resumed(&self, event: SendarixEvent, running: RunningGuard) -> Verified {
        let body = event.body().clone();
        let request = Admitted {
            receiver: self.clone(),
            signature: self.secrets().sign(&body),
            timestamp_header: None,
            admitted_at: Instant::now(),
            running,
        };
        Verified { request, body, origin: Origin::Application(event) }
    }

    /// A receiver for a part of each of this one's deliveries: the same in everything but its name, and for all types.
    pub(crate) fn for_part(&self, name: &str) -> Result<Self, ConfigError> {
        let inner = &self.0;
        let mut settings = inner.settings.clone();
        settings.endpoint = format!("{}.{name}", settings.endpoint).into();
        (settings.wanted, settings.unknown_types) = (None, UnknownTypes::Deliver);
        settings.check()?;
        Ok(Self(std::sync::Arc::new(super::Inner {
            secrets: inner.secrets.clone(),
            store: inner.store.clone(),
            dead_letters: inner.dead_letters.clone(),
            clock: inner.clock.clone(),
            telemetry: Telemetry::new(settings.endpoint.clone()),
            settings,
            running: inner.running.clone(),
        })))
    }
}
