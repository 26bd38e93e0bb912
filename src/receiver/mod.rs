//! The one pipeline, whatever the framework: from the head of a request to its answer.
//!
//! ```text
//! head ──admit──▶ Admitted ──read──▶ bytes ──verify──▶ Verified ──deliver──▶ Reply
//! ```
//!
//! The adapters for tower, axum and actix-web only move a head, a body and a response in and out of it, and so does
//! whoever wires it into another server. Each type on the way can only be had from the step before, so no handler can be
//! reached around a check.
//!
//! | step | takes | refuses or answers |
//! |---|---|---|
//! | [`admit`](Receiver::admit) | method and headers | what the head alone gives away, before the body |
//! | [`read`](Admitted::read) | a function that polls the body | a body too large, too slow, or broken off |
//! | [`verify`](Admitted::verify) | the exact bytes that arrived | a body that no active secret has signed |
//! | [`deliver`](Verified::deliver) | the handler | everything from then on, with one [`Reply`] |
//!
//! # Where the body comes whole
//!
//! As in AWS Lambda, poem or a test. There is nothing to `read` then, but let the framework limit the body to
//! [`body_limit`](ReceiverBuilder::body_limit), so that nobody can make it collect more.
//!
//! ```
//! use sendarix_webhooks::{Answer, Delivery, HandlerError, Head, Receiver};
//!
//! async fn on_event(delivery: Delivery) -> Result<(), HandlerError> {
//!     println!("{:?}", delivery.event().kind);
//!     Ok(())
//! }
//!
//! async fn receive(receiver: &Receiver, method: &str, headers: &[(&str, &[u8])], body: Vec<u8>) -> Answer {
//!     let admitted = match receiver.admit(&Head::new(method, headers.iter().copied())) {
//!         Ok(admitted) => admitted,
//!         Err(refusal) => return refusal.into(),
//!     };
//!     let verified = match admitted.verify(body) {
//!         Ok(verified) => verified,
//!         Err(refusal) => return refusal.into(),
//!     };
//!     verified.deliver(on_event).await.into_answer()
//! }
//!
//! # #[cfg(all(feature = "memory", feature = "testing"))]
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! # use sendarix_webhooks::{EventType, SigningSecret, testing::{Sample, signed_headers}};
//! let secret = SigningSecret::new("a secret from the dashboard")?;
//! let receiver = Receiver::builder(secret.clone()).build()?; // once, for the life of the process
//! # let body = Sample::new(EventType::Open).body();
//! # let headers = signed_headers(&secret, &body, std::time::SystemTime::now());
//! # let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
//! let answer = receive(&receiver, "POST", &headers, body).await; // its status, headers and text go back
//! assert_eq!(answer.status(), 200);
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! AWS Lambda stops a process between two requests. Choose a [`handler_limit`](ReceiverBuilder::handler_limit) two
//! [store timeouts](ReceiverBuilder::store_timeout) below the
//! [`acknowledgement_deadline`](ReceiverBuilder::acknowledgement_deadline), so that no handler is still running when the
//! answer has gone out, and a store that all instances share. Where it hands over a body as base64, decode it first: the
//! signature is that of the bytes.
//!
//! # Where the body is a stream
//!
//! `examples/hyper_server.rs` does it for plain hyper, in 20 lines. On a server whose handlers must not leave their
//! thread, [`deliver_local`](Verified::deliver_local) takes the place of `deliver`.
//!
//! # In a queue consumer
//!
//! A gateway may put whole requests into a queue, with their headers and exact bodies, and acknowledge them. Then the
//! outcome decides what becomes of the message. It may be older than any tolerance of its timestamp, so the receiver is
//! told to ignore that, and to look at the time in the signed body instead:
//!
//! ```
//! # use sendarix_webhooks::{Delivery, HandlerError, Head, RETRY_SCHEDULE, Receiver, SigningSecret};
//! # async fn on_event(_: Delivery) -> Result<(), HandlerError> { Ok(()) }
//! /// Whether the message is done with; if not, it must come again.
//! async fn consume(receiver: &Receiver, headers: &[(&str, &[u8])], body: Vec<u8>) -> bool {
//!     let verified = match receiver.admit(&Head::new("POST", headers.iter().copied())) {
//!         Ok(admitted) => admitted.verify(body),
//!         Err(refusal) => Err(refusal),
//!     };
//!     match verified {
//!         Ok(verified) => verified.deliver(on_event).await.outcome().is_acknowledged(),
//!         // Forged, or the secret here is wrong: the queue's own place for what nobody could handle keeps it.
//!         Err(_) => false,
//!     }
//! }
//!
//! # #[cfg(all(feature = "memory", feature = "testing"))]
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! # use sendarix_webhooks::{EventType, testing::{Sample, signed_headers}};
//! # let secret = SigningSecret::new("a secret from the dashboard")?;
//! let receiver = Receiver::builder(secret.clone());
//! let receiver = receiver.dangerously_ignore_timestamps().max_event_age(RETRY_SCHEDULE).build()?;
//! # let body = Sample::new(EventType::Open).body();
//! # let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
//! # let headers = signed_headers(&secret, &body, long_ago);
//! # let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
//! # assert!(consume(&receiver, &headers, body.clone()).await);
//! # assert!(consume(&receiver, &headers, body).await);
//! # assert!(!consume(&receiver, &headers, b"changed".to_vec()).await);
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod answer;
mod body;
mod builder;
mod claim;
mod deliver;
mod detach;
mod handler;
mod head;
mod redrive;
mod refusal;
mod resume;
mod running;
mod settings;
mod time_limit;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span};

use self::body::Discards;
use self::running::{Running, RunningGuard};
use self::settings::Settings;
use crate::dead_letter::DeadLetters;
use crate::event::{DecodeError, SendarixEvent};
use crate::outcome::{Outcome, RefusalKind};
use crate::store::DedupStore;
use crate::telemetry::{self, Chain, Telemetry, Way};
use crate::verify::{Clock, Signature, SigningSecrets, check_fresh, parse_timestamp};

pub use self::answer::{Answer, Reply};
pub use self::body::BoxError;
pub use self::builder::ReceiverBuilder;
pub use self::detach::{Delivering, LocalDelivering};
pub use self::handler::{Delivery, HandlerError, HandlerResponse};
pub use self::head::Head;
use self::redrive::RedrivenLetter;
pub use self::redrive::{RedriveError, RedriveErrorKind, Redriven, Redrives};
pub use self::refusal::Refusal;
pub use self::resume::ResumeError;
pub use self::settings::{ConfigError, UnknownTypes};

/// Receives the events of one endpoint. Clones are cheap and share everything.
///
/// Build it once and give clones of it to every layer, worker and thread. One that is built a second time remembers
/// nothing of what the first one handled, unless both are given the same store.
#[derive(Clone, Debug)]
pub struct Receiver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    secrets: SigningSecrets,
    store: Arc<dyn DedupStore>,
    dead_letters: Option<Arc<dyn DeadLetters>>,
    clock: Arc<dyn Clock>,
    settings: Settings,
    telemetry: Telemetry,
    running: Arc<Running>,
    discards: Discards,
}

/// A request whose head is in order; its body is still to come.
#[derive(Debug)]
#[must_use]
pub struct Admitted {
    receiver: Receiver,
    signature: Signature,
    timestamp_header: Option<u64>,
    admitted_at: Instant,
    running: RunningGuard,
    /// Neither verified nor refused yet. If it ends so, nobody has been answered.
    undecided: AtomicBool,
}

/// A request that goes away between its head and its proof leaves a line in the log.
impl Drop for Admitted {
    fn drop(&mut self) {
        if *self.undecided.get_mut() {
            self.receiver.telemetry().abandoned(self.admitted_at.elapsed());
        }
    }
}

/// A request whose body was signed with one of the active secrets.
#[derive(Debug)]
#[must_use]
pub struct Verified {
    pub(super) request: Admitted,
    pub(super) body: Bytes,
    pub(super) origin: Origin,
}

/// How a delivery came here.
#[derive(Debug)]
pub(super) enum Origin {
    /// Sendarix sent it, signed with the secret of this label.
    Sender(Arc<str>),
    /// It was a dead letter.
    Letter(RedrivenLetter),
    /// It is a part of a delivery that is under way.
    Part(SendarixEvent),
    /// The application has had it since it was verified.
    Application(SendarixEvent),
}

impl Receiver {
    /// Starts a receiver that accepts what these secrets signed.
    pub fn builder(secrets: impl Into<SigningSecrets>) -> ReceiverBuilder {
        ReceiverBuilder::new(secrets.into())
    }

    /// A receiver with every default, and the secrets from the environment: see [`SigningSecrets::from_env`].
    ///
    /// # Errors
    ///
    /// `SENDARIX_WEBHOOK_SECRET` is unset, empty or has white space around it; the feature `memory` is off, and with it
    /// the default store.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::builder(SigningSecrets::from_env()?).build()
    }

    /// Takes no new deliveries any more (they are answered 503), and waits for those under way, also those whose
    /// connection is gone.
    ///
    /// Call it when the process is told to stop, before the runtime is shut down. There is no way back. It returns after
    /// the [`body_timeout`](ReceiverBuilder::body_timeout), the [`lease`](ReceiverBuilder::lease) and four
    /// [store timeouts](ReceiverBuilder::store_timeout) at the latest, 73 s by default: what is still under way then
    /// blocks its thread, and has lost its claim. Only a handler that blocks the very thread that drains can hold it up
    /// longer.
    pub async fn drain(&self) {
        let settings = self.settings();
        let limit = settings.body_timeout.saturating_add(settings.lease).saturating_add(settings.store_timeout * 4);
        if let Err(deliveries) = self.0.running.drain(limit).await {
            let message = "deliveries have not ended within their limits: their handlers block their threads, or the \
                server holds them without polling them";
            tracing::error!(target: telemetry::TARGET, deliveries, message);
        }
    }

    /// The receiver's name, under which it keeps claims and dead letters.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.settings().endpoint
    }

    /// The secrets that are active. A clone of them exchanges them in this receiver as well.
    #[must_use]
    pub fn secrets(&self) -> &SigningSecrets {
        &self.0.secrets
    }

    /// Judges a request by its head alone, before a byte of its body is read.
    ///
    /// # Errors
    ///
    /// The method is not POST; the signature or timestamp header is missing, repeated or malformed; the timestamp is
    /// not fresh; the body says that it is too large; the receiver is draining.
    pub fn admit(&self, head: &Head<'_>) -> Result<Admitted, Refusal> {
        let settings = self.settings();
        if head.method != "POST" {
            let mut refusal = self.refuse(RefusalKind::MethodNotAllowed, Some(&head.method));
            if head.method == "HEAD" {
                refusal.answer = refusal.answer.without_text();
            }
            return Err(refusal);
        }
        let running = self.0.running.enter().ok_or_else(|| self.refuse(RefusalKind::Draining, None))?;
        let signature = head
            .signature
            .single(RefusalKind::SignatureMissing, RefusalKind::SignatureRepeated)
            .map_err(|kind| self.refuse(kind, None))?;
        let signature =
            Signature::parse(signature).map_err(|error| self.refuse(RefusalKind::SignatureMalformed, Some(&error)))?;
        let timestamp_header = match settings.timestamp_tolerance {
            None => None,
            Some(tolerance) => {
                let fresh = || {
                    let header =
                        head.timestamp.single(RefusalKind::TimestampMissing, RefusalKind::TimestampRepeated)?;
                    let sent_at = parse_timestamp(header)?;
                    check_fresh(sent_at, self.clock().now(), tolerance)?;
                    Ok(sent_at)
                };
                // Beside the time of the log line, it shows by how much a clock is wrong.
                Some(fresh().map_err(|kind| self.refuse(kind, Some(&head.timestamp)))?)
            }
        };
        if let Some(length) = head.content_length().filter(|length| *length > settings.body_limit as u64) {
            return Err(self.refuse(RefusalKind::BodyTooLarge, Some(&length)));
        }
        let (admitted_at, undecided) = (Instant::now(), AtomicBool::new(true));
        Ok(Admitted { receiver: self.clone(), signature, timestamp_header, admitted_at, running, undecided })
    }

    /// Logs why a request is refused, and makes its answer.
    fn refuse(&self, kind: RefusalKind, detail: Option<&dyn fmt::Display>) -> Refusal {
        let answer = self.answer(kind.outcome()).because(kind, self.settings().status_of_refusal(kind));
        self.telemetry().refused(kind, answer.status(), detail);
        Refusal { kind, answer }
    }

    /// The answer that the receiver gives by itself.
    fn answer(&self, outcome: Outcome) -> Answer {
        let settings = self.settings();
        let answer = Answer::new(outcome, settings.status(outcome));
        match outcome {
            // By then the handler has ended, one way or the other.
            Outcome::Slow => answer.retry_after(settings.handler_limit),
            Outcome::StoreUnavailable | Outcome::Draining => answer.retry_after(RETRY_UNAVAILABLE),
            _ => answer,
        }
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }

    fn telemetry(&self) -> &Telemetry {
        &self.0.telemetry
    }

    fn store(&self) -> &Arc<dyn DedupStore> {
        &self.0.store
    }

    fn dead_letters(&self) -> Option<&Arc<dyn DeadLetters>> {
        self.0.dead_letters.as_ref()
    }

    fn clock(&self) -> &dyn Clock {
        self.0.clock.as_ref()
    }
}

/// What `Retry-After` says when nothing is known: as long as Sendarix waits before its first retry.
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(30);

impl Admitted {
    /// Collects the body, chunk by chunk as `poll_chunk` yields it, under the limits of size and time.
    ///
    /// # Errors
    ///
    /// The body is too large, takes too long, cannot be decoded, or breaks off.
    pub async fn read<E: Into<BoxError>>(
        &self,
        mut poll_chunk: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<Bytes, E>>>,
    ) -> Result<Bytes, Refusal> {
        let settings = self.receiver.settings();
        let collect = async {
            // Copied even when it is one chunk: a chunk may keep the connection's whole read buffer alive, and an
            // event may live long.
            let mut body = Vec::new();
            while let Some(chunk) = std::future::poll_fn(&mut poll_chunk).await {
                let chunk = chunk.map_err(|error| {
                    let error = error.into();
                    self.refuse(body::kind_of_error(&*error), Some(&Chain(&*error)))
                })?;
                if body.len() + chunk.len() > settings.body_limit {
                    return Err(self.refuse(RefusalKind::BodyTooLarge, None));
                }
                // As a vector grows by itself, but never beyond the limit.
                let (needed, room) = (body.len() + chunk.len(), body.capacity());
                if needed > room {
                    body.reserve_exact(needed.max(room * 2).min(settings.body_limit) - body.len());
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Bytes::from(body))
        };
        match timeout_at(self.admitted_at + settings.body_timeout, collect).await {
            Ok(result) => result,
            Err(_) => Err(self.refuse(RefusalKind::BodyTimeout, None)),
        }
    }

    /// Proves that one of the active secrets signed exactly these bytes.
    ///
    /// # Errors
    ///
    /// None of them did, or the body is too large.
    pub fn verify(mut self, body: impl Into<Bytes>) -> Result<Verified, Refusal> {
        let body = body.into();
        if body.len() > self.receiver.settings().body_limit {
            return Err(self.refuse(RefusalKind::BodyTooLarge, Some(&body.len())));
        }
        match self.receiver.secrets().verify(&body, &self.signature) {
            Some(secret) => {
                *self.undecided.get_mut() = false;
                self.receiver.telemetry().secret_matched(&secret);
                Ok(Verified { request: self, body, origin: Origin::Sender(secret) })
            }
            None => Err(self.refuse(RefusalKind::SignatureMismatch, Some(&format_args!("{} bytes", body.len())))),
        }
    }

    fn refuse(&self, kind: RefusalKind, detail: Option<&dyn fmt::Display>) -> Refusal {
        self.undecided.store(false, Relaxed);
        self.receiver.refuse(kind, detail)
    }
}

impl Verified {
    /// The bytes that were signed.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Decodes the event, claims it, runs the handler and settles the claim.
    ///
    /// The handler runs at most once, and only if it is this delivery's turn. An error says whether Sendarix should
    /// deliver again; a response decides by its status. A panic is caught and counts as a failure.
    pub fn deliver<H, F, R>(self, handler: H) -> Delivering<R>
    where
        H: FnOnce(Delivery) -> F + Send + 'static,
        F: Future<Output = Result<R, HandlerError>> + Send + 'static,
        R: HandlerResponse + Send + 'static,
    {
        let (event, span) = self.decode();
        let (receiver, admitted_at) = (self.request.receiver.clone(), self.awaited_since());
        Delivering::new(self.run(event, handler).instrument(span.clone()), receiver, admitted_at, span)
    }

    /// As [`deliver`](Self::deliver), for a handler that must stay on this thread, as in actix-web.
    pub fn deliver_local<H, F, R>(self, handler: H) -> LocalDelivering<R>
    where
        H: FnOnce(Delivery) -> F + 'static,
        F: Future<Output = Result<R, HandlerError>> + 'static,
        R: HandlerResponse + 'static,
    {
        let (event, span) = self.decode();
        let (receiver, admitted_at) = (self.request.receiver.clone(), self.awaited_since());
        LocalDelivering::new_local(self.run(event, handler).instrument(span.clone()), receiver, admitted_at, span)
    }

    pub(super) fn is_from_sender(&self) -> bool {
        matches!(self.origin, Origin::Sender(_))
    }

    /// The letter that this delivery was.
    pub(super) fn redriven(&self) -> Option<&RedrivenLetter> {
        match &self.origin {
            Origin::Letter(letter) => Some(letter),
            Origin::Sender(_) | Origin::Part(_) | Origin::Application(_) => None,
        }
    }

    /// As what this delivery counts.
    pub(super) fn way(&self) -> Way {
        match self.origin {
            Origin::Sender(_) => Way::Request,
            Origin::Letter(_) => Way::Redrive,
            Origin::Part(_) | Origin::Application(_) => Way::Resume,
        }
    }

    /// Since when the sender has been waiting for an answer, if there is one.
    fn awaited_since(&self) -> Option<Instant> {
        self.is_from_sender().then_some(self.request.admitted_at)
    }

    /// The event, and the span of its delivery.
    fn decode(&self) -> (Result<SendarixEvent, Box<DecodeError>>, Span) {
        let event = match &self.origin {
            Origin::Part(event) | Origin::Application(event) => Ok(event.clone()),
            Origin::Sender(_) | Origin::Letter(_) => SendarixEvent::decode(self.body.clone()).map_err(Box::new),
        };
        let span = self.request.receiver.telemetry().delivery_span(event.as_ref().ok());
        (event, span)
    }
}
