//! Requests of Sendarix, whatever the framework: from the head of a request to its answer.
//!
//! ```text
//! head ──admit──▶ Admitted ──read──▶ bytes ──verify──▶ Verified ──deliver──▶ Settlement
//! ```
//!
//! The adapters for tower, axum and actix-web only move a head, a body and a response in and out of it. Each type on the way
//! can only be had from the step before, so no handler can be reached around a check. What is verified goes to the
//! receiver's [`Inbox`].
//!
//! | step | takes | refuses or answers |
//! |---|---|---|
//! | [`admit`](Receiver::admit) | method and headers | what the head alone gives away, before the body |
//! | [`read`](Admitted::read) | a function that polls the body | a body too large, too slow, or broken off |
//! | [`verify`](Admitted::verify) | the exact bytes that arrived | a body that no active secret has signed |
//! | [`deliver`](Verified::deliver) | the handler | everything from then on, with one [`Settlement`](crate::inbox::Settlement) |
//!
//! # Where the body comes whole
//!
//! As in AWS Lambda, poem or a test. There is nothing to `read` then, but let the framework limit the body to
//! [`body_limit`](ReceiverBuilder::body_limit), so that no sender can make it collect more.
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
//! let receiver = Receiver::builder(secret.clone()).dangerously_without_dead_letters().build()?; // once, for the life of the process
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
//! `examples/hyper` does it for plain hyper, in 20 lines. On a server whose handlers must not leave their
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
//!         // Forged, or the secret here is wrong: the queue's dead letters keep it.
//!         Err(_) => false,
//!     }
//! }
//!
//! # #[cfg(all(feature = "memory", feature = "testing"))]
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! # use sendarix_webhooks::{EventType, testing::{Sample, signed_headers}};
//! # let secret = SigningSecret::new("a secret from the dashboard")?;
//! let receiver = Receiver::builder(secret.clone()).dangerously_without_dead_letters();
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

mod admitted;
mod answer;
mod body;
mod builder;
mod refusal;
mod settings;
mod verified;

use std::fmt;
use std::sync::Arc;

use tokio::sync::Semaphore;

use self::admitted::Undecided;
use self::settings::Settings;
use crate::inbox::{Draining, Inbox, NotReady};
use crate::outcome::RefusalKind;
use crate::verify::{Head, SigningSecrets, check_head, check_method};

pub use self::admitted::Admitted;
pub use self::answer::Answer;
pub use self::body::BoxError;
pub use self::builder::ReceiverBuilder;
pub use self::refusal::Refusal;
pub use self::verified::Verified;

/// Receives the events of one endpoint. Clones are cheap and share everything.
///
/// Build it once and give clones of it to every layer, worker and thread. One that is built a second time remembers
/// nothing of what the first one handled, unless both are given the same store.
#[derive(Clone, Debug)]
pub struct Receiver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    secrets: SigningSecrets,
    settings: Settings,
    inbox: Inbox,
    /// A place for each body that is being discarded.
    discards: Arc<Semaphore>,
}

impl Receiver {
    /// Starts a receiver that accepts what these secrets signed.
    pub fn builder(secrets: impl Into<SigningSecrets>) -> ReceiverBuilder {
        ReceiverBuilder::new(secrets.into())
    }

    /// Where the verified events go. With it, dead letters are [redriven](Inbox::redrive_all).
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.0.inbox
    }

    /// Takes no new deliveries any more (they are answered 503), and waits for those under way, also those whose
    /// connection is gone.
    ///
    /// Call it when the process is told to stop, before the runtime is shut down. There is no way back. It returns after
    /// the [`body_timeout`](ReceiverBuilder::body_timeout), the [`lease`](ReceiverBuilder::lease) and four
    /// [store timeouts](ReceiverBuilder::store_timeout) at the latest, 73 s by default: what is still under way then
    /// blocks its thread, and has lost its claim. Only a handler that blocks the thread that drains can hold it up longer.
    pub async fn drain(&self) {
        self.inbox().drain().await;
    }

    /// Whether deliveries can be taken now: see [`Inbox::ready`](crate::Inbox::ready).
    ///
    /// # Errors
    ///
    /// The receiver is draining, or one of its stores failed or took too long.
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.inbox().ready().await
    }

    /// The receiver's name, under which it keeps claims and dead letters.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.inbox().endpoint()
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
        check_method(head).map_err(|kind| {
            let refusal = self.refuse(kind, Some(&head.method));
            if head.method == "HEAD" { refusal.without_text() } else { refusal }
        })?;
        let guard = self.inbox().enter().map_err(|Draining| self.refuse(RefusalKind::Draining, None))?;
        let now = || self.inbox().clock().now();
        let (signature, timestamp_header) = check_head(head, settings.timestamp_tolerance, now).map_err(|kind| {
            let detail = head.detail(kind);
            self.refuse(kind, detail.as_ref().map(|detail| detail as &dyn fmt::Display))
        })?;
        if let Some(length) = head.content_length().filter(|length| *length > settings.body_limit as u64) {
            return Err(self.refuse(RefusalKind::BodyTooLarge, Some(&length)));
        }
        Ok(Admitted { request: Undecided::new(self.clone()), signature, timestamp_header, guard })
    }

    /// Logs why a request is refused, and makes its answer.
    fn refuse(&self, kind: RefusalKind, detail: Option<&dyn fmt::Display>) -> Refusal {
        let answer = Answer::new(&self.inbox().refused(kind)).because(kind);
        self.inbox().telemetry().refused(kind, answer.status(), detail);
        Refusal { kind, answer }
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }
}
