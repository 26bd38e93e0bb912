//! The receiver as actix-web middleware, the event as an argument of a handler, and a [`HandlerError`] as its result.
//!
//! ```no_run
//! use actix_web::{App, HttpServer, web};
//! use sendarix_webhooks::dead_letter::FileDeadLetters;
//! use sendarix_webhooks::{EventKind, HandlerError, Receiver, SendarixEvent, SendarixMiddleware, SigningSecrets};
//! # async fn suppress(_: &str) -> std::io::Result<()> { Ok(()) }
//!
//! async fn on_event(event: SendarixEvent) -> Result<(), HandlerError> {
//!     match &event.kind {
//!         EventKind::Bounce(bounce) if bounce.is_permanent() => suppress(&event.recipient).await?,
//!         EventKind::Complaint(_) => suppress(&event.recipient).await?,
//!         _ => {}
//!     }
//!     Ok(()) // which actix-web answers 204
//! }
//!
//! # #[actix_web::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let letters = FileDeadLetters::open("sendarix.dead-letters.jsonl")?;
//! let receiver = Receiver::builder(SigningSecrets::from_env()?).dead_letters(letters).build()?; // once, for all workers
//! HttpServer::new(move || {
//!     let sendarix = SendarixMiddleware::new(receiver.clone());
//!     App::new().service(web::resource("/webhooks/sendarix").wrap(sendarix).route(web::post().to(on_event)))
//! })
//! .bind("127.0.0.1:3000")?
//! .run()
//! .await?;
//! # Ok(()) }
//! ```
//!
//! [`SendarixMiddleware`] goes around whatever should handle the events: a resource, a scope, a whole `App`. What it
//! wraps only ever sees requests that carry an authentic, fresh event that is this delivery's to handle, with the exact
//! body that was signed and the [`Delivery`] in the request's extensions.
//!
//! # Build the receiver outside of the closure
//!
//! actix-web calls the closure of `HttpServer::new` once for every worker. A receiver that is built inside remembers
//! only what its own worker handled, and a duplicate that comes to another one is handled again. That is why the
//! middleware takes a receiver, and has no shortcut that makes one.
//!
//! # What is answered
//!
//! A handler's response decides what becomes of the event: a 2xx completes it; anything else, an error, a panic or running
//! longer than the handler limit gives it back. The receiver itself answers a [`HandlerError`], which says whether
//! delivering again can help, an error whose own response would acknowledge the event, and an `Err` of middleware inside
//! of this one.
//!
//! The text of a refusal goes out at once. The body of its response ends once the rest of the request's body has been read
//! and discarded, within 5 s: middleware outside that collects response bodies waits for that.
//!
//! A 2xx counts only if the handler [took](Delivery::take) the event, as the extractors do. One of a service that took no
//! notice of it, such as a scope's `default_service` behind a wrong path, is answered 500 with an error in the log
//! ([`NotTaken`](crate::Outcome::NotTaken)), and Sendarix delivers the event again.
//!
//! Refusals are `Ok` responses, so middleware outside of this one, such as CORS, treats them like any other. They carry
//! their [`Outcome`](crate::Outcome) and [`RefusalKind`](crate::RefusalKind) in their extensions, and all other `Ok`
//! responses their outcome. A response of actix-web needs the request, though, and there is only one of it: where a handler
//! has it and does not give it back (it is slow, panicked, or was stopped at its limit), the same answer is an `Err`, which
//! such middleware passes by. Its `as_response_error().error_response()` has the outcome.
//!
//! Middleware outside of this one must not keep a clone of the `HttpRequest` while it waits for the response: routing inside
//! changes the request, and actix-web panics if it is shared. Where nothing routes inside, as in a resource, such a clone
//! costs one thing: a `Content-Encoding` that stands in the request by mistake cannot be taken off, and a handler that
//! reads the body beside the event fails to decode it.
//!
//! # Shutting down
//!
//! actix-web waits for open connections, not for handlers whose client has gone. Let [`Receiver::drain`] come first, as in
//! `HttpServer::shutdown_signal(async move { terminated.await; receiver.drain().await })`, which replaces actix-web's own
//! handling of signals. It answers new deliveries 503 meanwhile, and returns when the last handler has ended.
//!
//! # What no middleware can do
//!
//! actix-web limits how long a request's head may take for the first request of a connection only, and not at all for a
//! connection of `bind_auto_h2c` that sends nothing; nor does it limit the streams of an HTTP/2 connection. Let a proxy
//! in front do that.

mod extract;
mod middleware;
mod response;

pub use self::extract::MissingMiddleware;
pub use self::middleware::{Sendarix, SendarixMiddleware};

#[cfg(doc)]
use crate::event::SendarixEvent;
#[cfg(doc)]
use crate::inbox::{Delivery, HandlerError};
#[cfg(doc)]
use crate::receiver::Receiver;
