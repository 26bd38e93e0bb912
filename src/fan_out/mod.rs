//! Who else wants to know? One endpoint that feeds several destinations, each of them reliably.
//!
//! A failing destination makes Sendarix deliver the event again, and then only that destination runs: each has its own
//! record of what it has taken, in the receiver's store, and its own dead letters. [`FanOut`] is the handler.
//!
//! | destination | for |
//! |---|---|
//! | a closure that takes a [`Delivery`] | anything |
//! | [`JsonLines`] | a file that rotates, which warehouses load |
//! | [`Enqueue`](crate::queue::Enqueue) (feature `apalis`) | work that takes longer |
//! | [`JetStream`] (feature `nats`) | other services |

#[cfg(feature = "nats")]
mod jet_stream;
mod json_lines;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::Instrument;

use crate::event::{EventType, SendarixEvent};
use crate::receiver::{ConfigError, Delivery, HandlerError, Receiver, RedriveError, Redrives};

#[cfg(feature = "nats")]
#[cfg_attr(docsrs, doc(cfg(feature = "nats")))]
pub use self::jet_stream::JetStream;
pub use self::json_lines::{JsonLines, JsonLinesError};

/// What a [`Destination`] returns.
pub type DestinationFuture = Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send>>;

/// Takes events. A function that takes a [`Delivery`] is one.
pub trait Destination: Send + Sync + 'static {
    /// Takes one event, which counts as taken once this has succeeded. An event may come again all the same: after a crash
    /// just then, for example.
    fn take(&self, delivery: Delivery) -> DestinationFuture;
}

impl<H, F> Destination for H
where
    H: Fn(Delivery) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    fn take(&self, delivery: Delivery) -> DestinationFuture {
        Box::pin(self(delivery))
    }
}

/// A handler that passes every event on to several destinations.
///
/// The event is acknowledged once each destination that wants it has taken it, or has said that it never can. One that no
/// destination wants is acknowledged too, unless its type is not documented: then it is kept as a dead letter. Otherwise
/// Sendarix delivers it again, and only what has not been taken is tried. The destinations run at the same time, each with
/// a claim of its own, which `PostgresStore::commit` and `SqliteStore::commit` take as well. They take two more steps of the
/// store each.
///
/// ```
/// # #[cfg(feature = "axum")]
/// # fn example(receiver: sendarix_webhooks::Receiver) -> Result<(), Box<dyn std::error::Error>> {
/// use axum::{Router, routing::post};
/// use sendarix_webhooks::fan_out::{FanOut, JsonLines};
/// use sendarix_webhooks::{Delivery, EventType, HandlerError, SendarixLayer};
///
/// async fn bill(delivery: Delivery) -> Result<(), HandlerError> { Ok(()) }
/// async fn alert(delivery: Delivery) -> Result<(), HandlerError> { Ok(()) }
///
/// let fan_out = FanOut::builder(&receiver)
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
/// # fn example(receiver: sendarix_webhooks::Receiver, fan_out: sendarix_webhooks::fan_out::FanOut) -> actix_web::Resource<
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
    /// All, if there is none.
    types: Option<Vec<EventType>>,
    receiver: Receiver,
    destination: Arc<dyn Destination>,
}

/// Sets up a [`FanOut`].
#[must_use]
pub struct FanOutBuilder {
    receiver: Receiver,
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
    /// A fan-out behind this receiver, whose store, dead letters and settings its destinations share.
    pub fn builder(receiver: &Receiver) -> FanOutBuilder {
        FanOutBuilder { receiver: receiver.clone(), planned: Vec::new() }
    }

    /// The handler: for axum, for actix-web, for a [`Terminal`](crate::middleware::Terminal) service and for
    /// [`Verified::deliver`](crate::receiver::Verified::deliver).
    pub fn handler(&self) -> impl Fn(Delivery) -> DestinationFuture + Clone + Send + Sync + 'static {
        let fan_out = self.clone();
        move |delivery| {
            let fan_out = fan_out.clone();
            Box::pin(async move { fan_out.pass_on(delivery).await })
        }
    }

    /// Passes one event on: what the [handler](Self::handler) does.
    ///
    /// # Errors
    ///
    /// A destination has not taken it, or the delivery is of another receiver than the one that this is behind.
    pub async fn pass_on(&self, delivery: Delivery) -> Result<(), HandlerError> {
        let (expected, found) = (&*self.0.endpoint, delivery.claim().key().endpoint());
        if expected != found {
            // Its destinations would share their records with those of the other one.
            let message =
                format!("this fan-out is behind the receiver `{expected}` and was given an event of `{found}`");
            return Err(HandlerError::retry(message));
        }
        let event = delivery.event();
        let mut deliveries = JoinSet::new();
        for (number, route) in self.0.routes.iter().enumerate().filter(|(_, route)| route.wants(event)) {
            let verified = route.receiver.resume_part(event.clone());
            let delivery = verified.deliver(route.handler());
            deliveries.spawn(async move { (number, delivery.await.into_answer()) }.in_current_span());
        }
        if deliveries.is_empty() && event.kind.event_type().is_none() {
            return Err(HandlerError::unknown_type());
        }
        let mut answers = deliveries.join_all().await;
        answers.retain(|(_, answer)| !answer.outcome().is_acknowledged());
        answers.sort_unstable_by_key(|(number, _)| *number);
        if answers.is_empty() {
            return Ok(());
        }
        let name = |number: usize| self.0.routes.get(number).map_or("", |route| &route.name);
        let failed: Vec<String> =
            answers.iter().map(|(number, answer)| format!("{}: {}", name(*number), answer.outcome())).collect();
        // A letter of the whole event would, redriven long after, be news for every destination.
        let kept = answers.iter().all(|(_, answer)| answer.is_kept());
        let error = if kept { HandlerError::retry_kept } else { HandlerError::retry };
        Err(error(failed.join(", ")))
    }

    /// Tries what the destinations have failed at again, each at its own. Where the letters of one cannot be listed, the
    /// others have their turn all the same.
    ///
    /// # Errors
    ///
    /// As [`Receiver::redrive_all`].
    pub fn redrive_all(&self) -> Result<Redrives, RedriveError> {
        let mut all: Option<Redrives> = None;
        for route in &self.0.routes {
            let redrives = route.receiver.redrive_all(route.handler())?;
            all = Some(match all {
                Some(all) => all.and(redrives),
                None => redrives,
            });
        }
        Ok(all.unwrap_or_default())
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
            match self.receiver.for_part(&name) {
                Ok(receiver) => routes.push(Route { name, types, receiver, destination }),
                Err(source) => return Err(FanOutError::Name { name, source }),
            }
        }
        let endpoint = self.receiver.endpoint().into();
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
