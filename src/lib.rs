//! Receive [Sendarix](https://sendarix.com) e-mail events: verified, deduplicated, typed.
//!
//! ```
//! # #[cfg(all(feature = "axum", feature = "memory"))]
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::{Router, routing::post};
//! use sendarix_webhooks::dead_letter::FileDeadLetters;
//! use sendarix_webhooks::{EventKind, HandlerError, Receiver, SendarixEvent, SendarixLayer, SigningSecrets};
//! # async fn suppress(_: &str) -> std::io::Result<()> { Ok(()) }
//! # async fn mark_delivered(_: &str) -> std::io::Result<()> { Ok(()) }
//!
//! async fn on_event(event: SendarixEvent) -> Result<(), HandlerError> {
//!     match &event.kind {
//!         EventKind::Bounce(bounce) if bounce.is_permanent() => suppress(&event.recipient).await?,
//!         EventKind::Delivered(_) => mark_delivered(&event.message_id).await?,
//!         _ => {}
//!     }
//!     Ok(())
//! }
//!
//! let receiver = Receiver::builder(SigningSecrets::from_env()?) // SENDARIX_WEBHOOK_SECRET
//!     .dead_letters(FileDeadLetters::open("sendarix.dead-letters.jsonl")?)
//!     .build()?;
//! let layer = SendarixLayer::new(receiver.clone());
//! let app: Router = Router::new().route("/webhooks/sendarix", post(on_event).layer(layer));
//! # Ok(()) }
//! ```
//!
//! # What it promises
//!
//! A forged or replayed request never reaches the handler. An acknowledged event has been handled or is kept as a dead
//! letter, whatever fails in between. Effects happen at least once, with duplicates suppressed;
//! they happen effectively once where they share a transaction with the record of it.
//!
//! *Replayed*: the memory of what was handled lasts for the retention, 24 h by default; beyond it,
//! [`max_event_age`](ReceiverBuilder::max_event_age) refuses a replay.
//!
//! # Where to look
//!
//! The [guide] answers one question a page.
//!
//! | you want to | look at |
//! |---|---|
//! | wrap an axum route or any tower service | [`SendarixLayer`] |
//! | wrap an actix-web resource | [`SendarixMiddleware`], [`actix`] |
//! | read an event | [`SendarixEvent`], [`EventKind`] |
//! | say that a handler failed | [`HandlerError`] |
//! | change a limit, a status, a store | [`ReceiverBuilder`] |
//! | run several instances, or survive a restart | [`store`] |
//! | do what takes longer | [`destination::Enqueue`], [`Inbox::process`] |
//! | feed several destinations from one endpoint | [`destination::FanOut`] |
//! | handle what could not be handled | [`Inbox::redrive_all`], [`dead_letter`] |
//! | know what became of a delivery | [`Outcome`] |
//! | keep a suppression list, the state of each message, timelines and rates | [`mail`], with the feature of that name |
//! | use it without a framework | [`receiver`] |
//! | write a store | [`store`], [`dead_letter`] |
//! | find something in the log, or count it | [`telemetry`] |
//! | test your handler | `testing`, with the feature of that name |
//!
//! # Features
//!
//! | feature | default | gives |
//! |---|---|---|
//! | `axum` | yes | [`SendarixEvent`] as an argument, [`HandlerError`] as a return value of axum handlers; includes `tower` |
//! | `memory` | yes | [`MemoryStore`](store::MemoryStore), the dedup memory of one process, on moka |
//! | `actix` | | [`SendarixMiddleware`], and the same argument and return value for actix-web handlers |
//! | `tower` | | [`SendarixLayer`] for any tower service |
//! | `sqlite` | | [`SqliteStore`], for all processes of one machine; needs Rust 1.94 |
//! | `redis` | | [`RedisStore`], for several instances |
//! | `postgres` | | [`PostgresStore`], for several instances; needs Rust 1.94 |
//! | `apalis` | | [`Enqueue`](destination::Enqueue), which puts events into a job queue of apalis 1; needs Rust 1.94 |
//! | `nats` | | [`JetStream`](destination::JetStream), which publishes events to NATS |
//! | `mail` | | [`Mail`](mail::Mail), which keeps a suppression list, message states, timelines and rates |
//! | `operator` | | [`operator::letters`], an axum router by which people look at dead letters, redrive and discard them |
//! | `gzip` | | compressed files of [`JsonLines`](destination::JsonLines) |
//! | `metrics` | | counters of what becomes of requests, for any exporter: [`telemetry::metrics`] |
//! | `testing` | | signed requests, sample events, a manual clock, a simulated Sendarix, the suites that stores must pass |
//! | `time-03`, `chrono-04`, `jiff-02` | | conversions of [`Timestamp`] |
//!
//! Without any of them the crate is the verifier, the decoder and the [`Receiver`].

#![cfg_attr(docsrs, feature(doc_cfg))]
// Documentation on its own is built with all features; with fewer, some of what it names is not there.
#![cfg_attr(
    not(all(
        feature = "actix",
        feature = "apalis",
        feature = "axum",
        feature = "gzip",
        feature = "mail",
        feature = "memory",
        feature = "metrics",
        feature = "nats",
        feature = "operator",
        feature = "postgres",
        feature = "redis",
        feature = "sqlite",
        feature = "testing"
    )),
    allow(rustdoc::broken_intra_doc_links)
)]

#[cfg(feature = "actix")]
#[cfg_attr(docsrs, doc(cfg(feature = "actix")))]
pub mod actix;
#[cfg(feature = "axum")]
mod axum;
mod closed_set;
pub mod contract;
pub mod dead_letter;
#[cfg(any(feature = "apalis", feature = "nats", feature = "postgres", feature = "redis", feature = "sqlite"))]
pub mod deps;
pub mod destination;
pub mod event;
pub mod guide;
pub mod inbox;
mod locked_file;
mod logging;
#[cfg(feature = "mail")]
#[cfg_attr(docsrs, doc(cfg(feature = "mail")))]
pub mod mail;
#[cfg(feature = "tower")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
pub mod middleware;
#[cfg(feature = "operator")]
#[cfg_attr(docsrs, doc(cfg(feature = "operator")))]
pub mod operator;
pub mod outcome;
#[cfg(feature = "postgres")]
mod postgres;
pub mod receiver;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
#[cfg(feature = "sqlite")]
mod sqlite;
mod storage;
pub mod store;
pub mod telemetry;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
pub mod verify;

#[cfg(feature = "actix")]
#[doc(inline)]
pub use actix::SendarixMiddleware;
#[cfg(feature = "axum")]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub use axum::MissingLayer;
#[doc(inline)]
pub use closed_set::UnknownName;
#[doc(inline)]
pub use contract::{MAX_LEASE, RETRY_SCHEDULE};
#[doc(inline)]
pub use event::{DecodeError, EventKey, EventKind, EventType, SendarixEvent, Suppression, Timestamp, TimestampError};
#[doc(inline)]
pub use inbox::{ConfigError, Delivery, HandlerError, Inbox, Settlement, UnknownTypes};
#[cfg(feature = "tower")]
#[doc(inline)]
pub use middleware::SendarixLayer;
#[doc(inline)]
pub use outcome::{Outcome, RefusalKind};
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use postgres::{PostgresBuilder, PostgresDeadLetters, PostgresStore};
#[doc(inline)]
pub use receiver::{Answer, Receiver, ReceiverBuilder};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use redis::{RedisDeadLetters, RedisStore};
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use sqlite::{SqliteDeadLetters, SqliteStore};
#[doc(inline)]
pub use verify::{Head, SecretError, Signature, SigningSecret, SigningSecrets};

/// The code in README.md, as tests.
#[cfg(all(doctest, feature = "actix", feature = "axum", feature = "memory"))]
#[doc = include_str!("../README.md")]
struct Readme;
