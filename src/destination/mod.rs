//! Destinations of events behind the receiver: several at once, a queue, a file, a bus, a service.
//!
//! A failing destination of a [`FanOut`] makes Sendarix deliver the event again, and then only that destination runs: each
//! has a record of what it has taken, in the receiver's store, and dead letters.
//!
//! | destination | for |
//! |---|---|
//! | a closure that takes a [`Delivery`] | anything |
//! | [`FanOut`] | several destinations behind one endpoint |
//! | [`JsonLines`] | a file that rotates, which warehouses load |
//! | [`Mail`](crate::mail::Mail) (feature `mail`) | a suppression list, message states, timelines and rates |
//! | [`Enqueue`] (feature `apalis`) | work that takes longer |
//! | [`JetStream`] (feature `nats`) | other services |
//!
//! A [`Terminal`] (feature `tower`) is the innermost service of a tower stack and gives every delivery to a destination.

mod fan_out;
#[cfg(feature = "nats")]
mod jet_stream;
mod json_lines;
#[cfg(feature = "mail")]
mod mail;
#[cfg(feature = "apalis")]
mod queue;
#[cfg(feature = "tower")]
mod terminal;
#[cfg(any(feature = "apalis", feature = "nats"))]
mod trace_context;

use std::pin::Pin;

use crate::inbox::{Delivery, HandlerError};

pub use self::fan_out::{FanOut, FanOutBuilder, FanOutError};
#[cfg(feature = "nats")]
#[cfg_attr(docsrs, doc(cfg(feature = "nats")))]
pub use self::jet_stream::JetStream;
pub use self::json_lines::{JsonLines, JsonLinesBuilder, JsonLinesError};
#[cfg(feature = "apalis")]
#[cfg_attr(docsrs, doc(cfg(feature = "apalis")))]
pub use self::queue::{Enqueue, EnqueueError};
#[cfg(feature = "tower")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
pub use self::terminal::Terminal;

/// What a [`Destination`] returns.
pub type DestinationFuture = Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send>>;

/// Takes events. A function that takes a [`Delivery`] is one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot take events",
    note = "a destination is a function `async fn(Delivery) -> Result<(), HandlerError>`, or one of `JsonLines`, `Enqueue`, \
        `JetStream` and `FanOut`; a function that returns `anyhow::Result` calls the fallible part with `?` inside of one that \
        returns `Result<(), HandlerError>`"
)]
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
