//! The deliveries of one endpoint: filter, claim, handle, settle.
//!
//! ```text
//! request, verified by a Receiver ─┐
//! event of a queued job ───────────┼─▶ filter ─▶ claim ─▶ handle ─▶ settle ──▶ Settlement
//! dead letter ─────────────────────┘
//! ```
//!
//! An [`Inbox`] has a store, dead letters, limits and a clock. It has no secret and takes no requests: a
//! [`Receiver`](crate::Receiver) owns one, and gives it what is verified. A queue's worker, and an operator who redrives dead
//! letters, use an inbox alone.
//!
//! # In a worker
//!
//! ```
//! use sendarix_webhooks::inbox::{Inbox, ProcessError};
//! use sendarix_webhooks::{Delivery, HandlerError, SendarixEvent};
//!
//! async fn work(delivery: Delivery) -> Result<(), HandlerError> {
//!     println!("{:?}", delivery.event().kind);
//!     Ok(())
//! }
//!
//! /// A job of the queue. An error means: try it again.
//! async fn on_job(inbox: &Inbox, event: SendarixEvent) -> Result<(), ProcessError> {
//!     inbox.process(event, work).await.map(drop)
//! }
//! ```

mod attempt;
mod builder;
mod claim;
mod deliver;
mod delivering;
mod discard;
mod drain;
mod filter;
mod futures;
mod handler;
mod letters;
mod pace;
mod panics;
mod read_letters;
mod ready;
mod redeliver;
mod redrive;
mod redrive_all;
mod release;
mod settings;
mod settle;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use self::drain::Drain;
use self::ready::Readiness;
use self::settings::Settings;
use crate::contract::ATTEMPTS;
use crate::event::{EventKey, Timestamp};
use crate::logging::TARGET;
use crate::outcome::{Outcome, RefusalKind, Settled};
use crate::storage::{StoreError, StoreFuture};
use crate::store::DedupStore;
use crate::telemetry::{FailedStore, Telemetry};
use crate::verify::Clock;

pub(crate) use self::attempt::{Attempt, Proof};
pub use self::builder::InboxBuilder;
pub(crate) use self::builder::inbox_settings;
pub use self::delivering::{Delivering, LocalDelivering, LocalTask};
pub(crate) use self::drain::DrainGuard;
pub use self::drain::Draining;
use self::futures::{StepError, within};
pub use self::handler::{Delivery, HandlerError, HandlerResponse};
pub(crate) use self::letters::Letters;
pub use self::read_letters::LettersError;
pub use self::ready::NotReady;
pub use self::redeliver::{ProcessError, Redelivery};
pub use self::redrive::{RedriveError, RedriveErrorKind};
pub use self::redrive_all::{Redriven, Redrives};
pub(crate) use self::settings::less;
pub use self::settings::{ConfigError, UnknownTypes};
pub use self::settle::Settlement;

/// Delivers the events of one endpoint. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub struct Inbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn DedupStore>,
    letters: Letters,
    clock: Arc<dyn Clock>,
    settings: Settings,
    telemetry: Telemetry,
    drain: Arc<Drain>,
    readiness: Readiness,
}

/// What `Retry-After` says when nothing is known: as long as Sendarix waits before its first retry.
const RETRY_UNAVAILABLE: Duration = ATTEMPTS[1];

impl Inbox {
    /// Starts an inbox of this endpoint: see [`InboxBuilder::endpoint`].
    ///
    /// A worker needs a name that no receiver has, such as `default.jobs`: under the receiver's name, each job would be a
    /// duplicate of the event that it was made of. An operator who redrives letters names the endpoint that left them.
    pub fn builder(endpoint: impl Into<Arc<str>>) -> InboxBuilder {
        InboxBuilder::new().endpoint(endpoint)
    }

    /// The endpoint's name, under which the inbox keeps claims and dead letters.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.0.settings.endpoint
    }

    /// Takes no new deliveries any more, and waits for those under way.
    ///
    /// Call it when the process is told to stop, before the runtime is shut down. There is no way back. It returns after
    /// the [`lease`](InboxBuilder::lease) and four [store timeouts](InboxBuilder::store_timeout) at the latest, 68 s by
    /// default: what is still under way then blocks its thread, and has lost its claim. Only a handler that blocks the
    /// thread that drains can hold it up longer. The inbox of a [`Receiver`](crate::Receiver) waits for the requests as well,
    /// by the receiver's [`body_timeout`](crate::ReceiverBuilder::body_timeout) more.
    pub async fn drain(&self) {
        let settings = self.settings();
        let limit = settings.read_limit.saturating_add(settings.lease).saturating_add(settings.store_timeout * 4);
        let (endpoint, deliveries) = (self.endpoint(), self.0.drain.deliveries());
        tracing::info!(target: TARGET, endpoint, deliveries, "draining: new deliveries are answered 503, these run to their end");
        match self.0.drain.drain(limit).await {
            Ok(()) => tracing::info!(target: TARGET, endpoint, "drained"),
            Err(deliveries) => {
                let message = "deliveries have not ended within their limits: their handlers block their threads, or the \
                    server holds them without polling them";
                tracing::error!(target: TARGET, endpoint, deliveries, "{message}");
            }
        }
    }

    /// Counts a delivery as under way, unless the inbox is draining.
    pub(crate) fn enter(&self) -> Result<DrainGuard, Draining> {
        self.0.drain.enter()
    }

    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.0.telemetry
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.0.clock.as_ref()
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }

    fn store(&self) -> &dyn DedupStore {
        self.0.store.as_ref()
    }

    fn now(&self) -> Timestamp {
        self.clock().now().into()
    }

    fn key(&self, event_id: &str) -> EventKey {
        EventKey::new(self.endpoint(), event_id)
    }

    /// The summary of an outcome, with its status and its `Retry-After`.
    pub(crate) fn settled(&self, outcome: Outcome) -> Settled {
        let settled = Settled::new(outcome, self.settings().status(outcome, outcome.default_status()));
        match outcome {
            // By then the handler has ended.
            Outcome::Slow => settled.retry_after(self.settings().handler_limit),
            Outcome::StoreUnavailable | Outcome::Draining => settled.retry_after(RETRY_UNAVAILABLE),
            _ => settled,
        }
    }

    pub(crate) fn refused(&self, kind: RefusalKind) -> Settled {
        let outcome = kind.outcome();
        self.settled(outcome).status(self.settings().status(outcome, kind.default_status()))
    }

    /// Waits for one step of a store, as long as the settings allow.
    async fn step<T>(&self, store: FailedStore, step: StoreFuture<'_, T>) -> Result<T, StepError> {
        self.step_within(self.settings().store_timeout, store, step).await
    }

    async fn step_within<T>(
        &self,
        limit: Duration,
        store: FailedStore,
        mut step: StoreFuture<'_, T>,
    ) -> Result<T, StepError> {
        let done = match within(limit, Pin::new(&mut step)).await {
            Some(done) => done.map_err(|error| StepError::new(store, error)),
            None => Err(StepError::new(store, StoreError::new(format!("no answer within {limit:?}")))),
        };
        if done.is_err() {
            self.telemetry().store_failed(store);
        }
        done
    }
}
