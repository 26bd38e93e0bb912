//! The errors of a request's body, and reading on after a refusal.

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Receiver;
use crate::logging::causes;
use crate::outcome::RefusalKind;

/// An error of a body, whatever the server.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What an error of a body means: a limit or a decoder of an outer layer keeps its own meaning, and anything else is a
/// connection that broke off.
pub(super) fn kind_of_error(error: &(dyn Error + 'static)) -> RefusalKind {
    causes(error).find_map(kind).unwrap_or(RefusalKind::BodyIncomplete)
}

fn kind(error: &(dyn Error + 'static)) -> Option<RefusalKind> {
    #[cfg(feature = "tower")]
    if error.is::<http_body_util::LengthLimitError>() {
        return Some(RefusalKind::BodyTooLarge);
    }
    #[cfg(feature = "actix")]
    match error.downcast_ref() {
        Some(actix_web::error::PayloadError::Overflow) => return Some(RefusalKind::BodyTooLarge),
        Some(actix_web::error::PayloadError::EncodingCorrupted) => return Some(RefusalKind::BodyUndecodable),
        _ => {}
    }
    match error.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Some(RefusalKind::BodyUndecodable),
        _ => None,
    }
}

/// How many bodies are discarded at the same time. Beyond them a refused request's connection is closed at once, with its body unread.
pub(super) const MAX_DISCARDS: usize = 1024;

/// For how long a body in HTTP/1 that is longer than the limit is held, unread, before it is dropped: time for the sender,
/// which cannot write any more, to read the answer.
const HOLD: Duration = Duration::from_secs(1);

/// How many times the limit of a body is read on in HTTP/2, where holding it would take room from the other requests of the
/// connection.
const STREAM_LIMITS: usize = 32;

impl Receiver {
    /// Reads on what is left of a refused request's body in HTTP/1, and discards it.
    ///
    /// A server that closes a connection while its client is still sending resets it, and the client may never see the
    /// answer: a proxy then takes this server for a broken one (RFC 9112, 9.6). So send the answer at once, with
    /// `Connection: close`, and run this in a task beside it. It ends with the body, after the
    /// [`body_limit`](super::ReceiverBuilder::body_limit) and a second, or after the
    /// [`body_timeout`](super::ReceiverBuilder::body_timeout). It keeps nothing of what it reads, and [`drain`](Self::drain)
    /// does not wait for it. A body that was too slow, or has broken off, is not worth it.
    ///
    /// `None`: 1,024 bodies are being discarded already, and this one should be dropped.
    ///
    /// The adapters for tower, axum and actix-web do this by themselves.
    pub fn discard<E, F>(&self, poll_chunk: F) -> Option<impl Future<Output = ()> + use<E, F>>
    where
        F: FnMut(&mut Context<'_>) -> Poll<Option<Result<Bytes, E>>>,
    {
        self.discard_up_to(self.settings().body_limit, HOLD, poll_chunk)
    }

    /// As [`discard`](Self::discard), for a stream of HTTP/2, which shares its connection with others: it is never held
    /// unread, and read on up to 32 times the limit.
    pub fn discard_stream<E, F>(&self, poll_chunk: F) -> Option<impl Future<Output = ()> + use<E, F>>
    where
        F: FnMut(&mut Context<'_>) -> Poll<Option<Result<Bytes, E>>>,
    {
        self.discard_up_to(self.settings().body_limit.saturating_mul(STREAM_LIMITS), Duration::ZERO, poll_chunk)
    }

    fn discard_up_to<E, F>(
        &self,
        limit: usize,
        hold: Duration,
        mut poll_chunk: F,
    ) -> Option<impl Future<Output = ()> + use<E, F>>
    where
        F: FnMut(&mut Context<'_>) -> Poll<Option<Result<Bytes, E>>>,
    {
        let end = Instant::now() + self.settings().body_timeout;
        let place = Arc::clone(&self.0.discards).try_acquire_owned().ok()?;
        Some(async move {
            let mut read: usize = 0;
            let reading = async {
                while let Some(Ok(chunk)) = poll_fn(&mut poll_chunk).await {
                    read = read.saturating_add(chunk.len());
                    if read > limit {
                        return true;
                    }
                }
                false
            };
            if timeout_at(end, reading).await == Ok(true) {
                sleep_until(end.min(Instant::now() + hold)).await;
            }
            drop((poll_chunk, place));
        })
    }
}
