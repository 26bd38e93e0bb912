//! A request whose head is in order: its body is read and proven.

use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::body::{BoxError, kind_of_error};
use super::{Receiver, Refusal, Verified};
use crate::inbox::{Attempt, DrainGuard, Proof};
use crate::logging::Chain;
use crate::outcome::RefusalKind;
use crate::verify::Signature;

/// A request whose head is in order; its body is still to come.
#[derive(Debug)]
#[must_use]
pub struct Admitted {
    pub(super) request: Undecided,
    pub(super) signature: Signature,
    pub(super) timestamp_header: Option<u64>,
    pub(super) guard: DrainGuard,
}

/// A request that is neither verified nor refused yet. If it goes away so, it leaves a line in the log.
#[derive(Debug)]
pub(super) struct Undecided {
    receiver: Receiver,
    admitted_at: Instant,
    decided: AtomicBool,
}

impl Undecided {
    pub(super) fn new(receiver: Receiver) -> Self {
        Self { receiver, admitted_at: Instant::now(), decided: AtomicBool::new(false) }
    }

    fn refuse(&self, kind: RefusalKind, detail: Option<&dyn fmt::Display>) -> Refusal {
        self.decided.store(true, Relaxed);
        self.receiver.refuse(kind, detail)
    }
}

impl Drop for Undecided {
    fn drop(&mut self) {
        if !*self.decided.get_mut() {
            self.receiver.inbox().telemetry().abandoned(self.admitted_at.elapsed());
        }
    }
}

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
        let settings = self.request.receiver.settings();
        let collect = async {
            // Copied even when it is one chunk: a chunk may keep the connection's whole read buffer alive, and an
            // event may live long.
            let mut body = Vec::new();
            while let Some(chunk) = poll_fn(&mut poll_chunk).await {
                let chunk = chunk.map_err(|error| {
                    let error = error.into();
                    self.request.refuse(kind_of_error(&*error), Some(&Chain(&*error)))
                })?;
                if body.len() + chunk.len() > settings.body_limit {
                    return Err(self.request.refuse(RefusalKind::BodyTooLarge, None));
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
        match timeout_at(self.request.admitted_at + settings.body_timeout, collect).await {
            Ok(result) => result,
            Err(_) => Err(self.request.refuse(RefusalKind::BodyTimeout, None)),
        }
    }

    /// Proves that one of the active secrets signed exactly these bytes.
    ///
    /// # Errors
    ///
    /// None of them did, or the body is too large.
    pub fn verify(self, body: impl Into<Bytes>) -> Result<Verified, Refusal> {
        let Self { mut request, signature, timestamp_header, guard } = self;
        let (body, receiver) = (body.into(), &request.receiver);
        if body.len() > receiver.settings().body_limit {
            return Err(request.refuse(RefusalKind::BodyTooLarge, Some(&body.len())));
        }
        let secret = receiver.secrets().verify(&body, &signature).ok_or_else(|| {
            request.refuse(
                RefusalKind::SignatureMismatch,
                Some(&format_args!("another secret signed the body of {} bytes, or it was changed", body.len())),
            )
        })?;
        let (inbox, proof) = (receiver.inbox().clone(), Proof { signature, timestamp_header });
        inbox.telemetry().secret_matched(&secret);
        *request.decided.get_mut() = true;
        Ok(Verified(Attempt::of_request(inbox, secret, body, proof, request.admitted_at, guard)))
    }
}
