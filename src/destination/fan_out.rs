//! One endpoint that feeds several destinations, each of them reliably.

use std::fmt;
use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::Instrument;

use super::{Destination, DestinationFuture};
use crate::event::{EventType, SendarixEvent};
use crate::inbox::{ConfigError, Delivery, HandlerError, Inbox, RedriveError, Redrives};

/// A handler that passes every event on to several destinations.
///
/// The event is acknowledged once each destination that wants it has taken it, or has said that it never can. One that no
/// destination wants is acknowledged too, unless its type is not documented: then it is kept as a dead letter. Otherwise
/// Sendarix delivers it again, and only what has not been taken is tried. The destinations run at the same time, each with
/// its claim, which `PostgresStore::commit` and `SqliteStore::commit` take as well. They take two more steps of the
/// store each.
///
/// ```
/// # #[cfg(feature = "axum")]
/// # fn example(receiver: sendarix_webhooks::Receiver) -> Result<(), Box<dyn std::error::Error>> {
/// use axum::{Router, routing::post};
/// use sendarix_webhooks::destination::{FanOut, JsonLines};
/// use sendarix_webhooks::{Delivery, EventType, HandlerError, SendarixLayer};
///
/// async fn bill(delivery: Delivery) -> Result<(), HandlerError> { Ok(()) }
/// async fn alert(delivery: Delivery) -> Result<(), HandlerError> { Ok(()) }
///
/// let fan_out = FanOut::builder(receiver.inbox())
///     .to("billing", bill)
///     .to_types("alerts", [EventType::Bounce, EventType::Complaint], alert)
///     .to("warehouse", JsonLines::open("events.jsonl")?)
///     .build()?;
/// let layer = SendarixLayer::new(receiver);
/// let app: Router = Router::new().route("/webhooks/sendarix", post(fan_out.handler()).layer(layer));
/// # Ok(()) }
/// ```
///
/// On actix-web the route is the same, inside of the middleware:
///
/// ```
/// # #[cfg(feature = "actix")]
/// # fn example(receiver: sendarix_webhooks::Receiver, fan_out: sendarix_webhooks::destination::FanOut) -> actix_web::Resource<
/// #     impl actix_web::dev::ServiceFactory<
/// #         actix_web::dev::ServiceRequest,
/// #         Config = (),
/// #         Response = actix_web::dev::ServiceResponse<impl actix_web::body::MessageBody>,
/// #         Error = actix_web::Error,
/// #         InitError = (),
/// #     >,
/// # > {
/// use actix_web::web;
/// use sendarix_webhooks::SendarixMiddleware;
///
/// web::resource("/webhooks/sendarix").wrap(SendarixMiddleware::new(receiver)).route(web::post().to(fan_out.handler()))
/// # }
/// ```
///
/// # Time
///
/// The receiver's [`handler_limit`](crate::ReceiverBuilder::handler_limit) is for all of them together. What is still
/// running then goes on by itself, and the event comes again. Each destination runs in a task, where task-locals of the
/// application are missing.
///
/// # Dead letters
///
/// What a destination has failed at is kept under the endpoint's name, a slash and the destination's:
/// `default/billing`. [`redrive_all`](Self::redrive_all) tries it again at that destination alone. There is no letter of the
/// whole event, unless a destination could not even be asked.
///
/// # Names
///
/// A destination's name is what its record is kept under. Two fan-outs behind one receiver must not share any, or
/// they take each other's events for their own. A queue or a stream takes an event once, so two
/// destinations need two of them.
#[derive(Clone)]
pub struct FanOut(Arc<Inner>);

struct Inner {
    /// The receiver that it is behind.
    endpoint: Arc<str>,
    routes: Vec<Route>,
}

struct Route {
    name: String,
    /// `None`: all types.
    types: Option<Vec<EventType>>,
    inbox: Inbox,
    destination: Arc<dyn Destination>,
}

/// Sets up a [`FanOut`].
#[must_use]
pub struct FanOutBuilder {
    inbox: Inbox,
    planned: Vec<Planned>,
}

/// A route whose name has not been checked.
struct Planned {
    name: String,
    types: Option<Vec<EventType>>,
    destination: Arc<dyn Destination>,
}

/// Why there can be no such fan-out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FanOutError {
    /// Two destinations would take each other's events for their own.
    #[error("two destinations are called `{0}`")]
    Twice(String),
    /// The name cannot be part of a key.
    #[error("a destination cannot be called `{name}`")]
    Name {
        /// The name that was given.
        name: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// Every event would be acknowledged, and none passed on.
    #[error("there is no destination, so that every event would be dropped")]
    Empty,
}

impl FanOut {
    /// A fan-out behind the receiver of this inbox, whose store, dead letters and settings its destinations share.
    pub fn builder(inbox: &Inbox) -> FanOutBuilder {
        FanOutBuilder { inbox: inbox.clone(), planned: Vec::new() }
    }

    /// The handler: for axum, for actix-web, for a [`Terminal`](super::Terminal) service and for
    /// [`Verified::deliver`](crate::receiver::Verified::deliver).
    pub fn handler(&self) -> impl Fn(Delivery) -> DestinationFuture + Clone + Send + Sync + 'static {
        let fan_out = self.clone();
        move |delivery| fan_out.take(delivery)
    }

    async fn deliver_to_each(&self, delivery: Delivery) -> Result<(), HandlerError> {
        let (expected, found) = (&*self.0.endpoint, delivery.claim().key().endpoint());
        if expected != found {
            // Its destinations would share their records with those of the other one.
            let message =
                format!("this fan-out is behind the endpoint `{expected}` and was given an event of `{found}`");
            return Err(HandlerError::retry(message));
        }
        let event = delivery.event();
        let mut deliveries = JoinSet::new();
        for (number, route) in self.0.routes.iter().enumerate().filter(|(_, route)| route.wants(event)) {
            let delivery = route.inbox.redeliver_part(event.clone()).deliver(route.handler());
            deliveries.spawn(async move { (number, delivery.await) }.in_current_span());
        }
        if deliveries.is_empty() && event.kind.event_type().is_none() {
            return Err(HandlerError::unknown_type());
        }
        let mut failures = deliveries.join_all().await;
        failures.retain(|(_, settlement)| !settlement.outcome().is_acknowledged());
        failures.sort_unstable_by_key(|(number, _)| *number);
        if failures.is_empty() {
            return Ok(());
        }
        let name = |number: usize| self.0.routes.get(number).map_or("", |route| &route.name);
        let failed: Vec<String> =
            failures.iter().map(|(number, failure)| format!("{}: {}", name(*number), failure.outcome())).collect();
        // A letter of the whole event would, redriven long after, be news for every destination.
        let kept = failures.iter().all(|(_, failure)| failure.settled.is_kept);
        let error = if kept { HandlerError::retry_kept } else { HandlerError::retry };
        Err(error(failed.join(", ")))
    }

    /// Tries what the destinations have failed at again, each at its own. Where the letters of one cannot be listed, the
    /// others have their turn all the same.
    ///
    /// # Errors
    ///
    /// As [`Inbox::redrive_all`].
    pub fn redrive_all(&self) -> Result<Redrives, RedriveError> {
        let routes = self.0.routes.iter();
        let mut each = routes.map(|route| route.inbox.redrive_all(route.handler()));
        each.try_fold(Redrives::default(), |all, redrives| Ok(all.and(redrives?)))
    }
}

/// A fan-out within another service, such as a [`Terminal`](super::Terminal).
impl Destination for FanOut {
    fn take(&self, delivery: Delivery) -> DestinationFuture {
        let fan_out = self.clone();
        Box::pin(async move { fan_out.deliver_to_each(delivery).await })
    }
}

impl Route {
    fn wants(&self, event: &SendarixEvent) -> bool {
        let Some(types) = &self.types else { return true };
        event.kind.event_type().is_some_and(|event_type| types.contains(&event_type))
    }

    fn handler(&self) -> impl Fn(Delivery) -> DestinationFuture + Clone + Send + 'static {
        let destination = Arc::clone(&self.destination);
        move |delivery| destination.take(delivery)
    }
}

impl FanOutBuilder {
    /// Passes every event on to this destination, under a name that stays the same as long as its record should: 1 to 64
    /// letters, digits, `.`, `_` or `-`.
    pub fn to(mut self, name: impl Into<String>, destination: impl Destination) -> Self {
        self.planned.push(Planned { name: name.into(), types: None, destination: Arc::new(destination) });
        self
    }

    /// Passes events of these types on.
    pub fn to_types(
        mut self,
        name: impl Into<String>,
        types: impl IntoIterator<Item = EventType>,
        destination: impl Destination,
    ) -> Self {
        let types = Some(types.into_iter().collect());
        self.planned.push(Planned { name: name.into(), types, destination: Arc::new(destination) });
        self
    }

    /// Checks the names.
    ///
    /// # Errors
    ///
    /// A name stands twice or cannot be one, or there is no destination.
    pub fn build(self) -> Result<FanOut, FanOutError> {
        let mut routes: Vec<Route> = Vec::new();
        for Planned { name, types, destination } in self.planned {
            if routes.iter().any(|route| route.name == name) {
                return Err(FanOutError::Twice(name));
            }
            match self.inbox.destination(&name) {
                Ok(inbox) => routes.push(Route { name, types, inbox, destination }),
                Err(source) => return Err(FanOutError::Name { name, source }),
            }
        }
        let endpoint = self.inbox.endpoint().into();
        if routes.is_empty() { Err(FanOutError::Empty) } else { Ok(FanOut(Arc::new(Inner { endpoint, routes }))) }
    }
}

impl fmt::Debug for FanOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.routes.iter().map(|route| &route.name)).finish()
    }
}

impl fmt::Debug for FanOutBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.planned.iter().map(|planned| &planned.name)).finish()
    }
}
