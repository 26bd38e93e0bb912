//! Events in files of lines, as warehouses load them.

mod file;
#[cfg(feature = "gzip")]
mod gzip;
mod line;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;

use self::file::Lines;
use super::{Destination, DestinationFuture};
use crate::event::SendarixEvent;
use crate::inbox::{Delivery, HandlerError};

/// Appends each event as one line of JSON to a file, and begins a new file now and then.
///
/// A line has `event_id`, `event_type`, `timestamp`, `message_id`, `recipient` and `data`, as Sendarix sent it or `null`; or a
/// column for each field, with [`flat`](JsonLinesBuilder::flat). No line has a line break of any kind inside, also not U+0085,
/// U+2028 or U+2029. An event counts as taken once its line is on the disk; lines that come at the same time are written together. An event can
/// be there twice, after a crash just then: load by `event_id`.
///
/// The file of the given name grows. When it is full or old enough it is renamed to `NAME.TIME.jsonl` and never touched
/// again: load those. Where another process moves or deletes the file, the next line begins a new one; where it cuts the
/// file short, as `logrotate` does with `copytruncate`, the next line follows what is left. A process that was killed leaves
/// at most a part of a line, which was not acknowledged and is cut off at the next start.
///
/// One process may have it open; another is refused. It holds recipients, and is created for its owner alone. A mode that you
/// give it stays, also for the files that come after it: `chmod 640` lets a loader of the same group read them. Dropping it
/// waits for the disk.
pub struct JsonLines {
    path: PathBuf,
    line: fn(&SendarixEvent) -> Result<Vec<u8>, serde_json::Error>,
    /// Both are there until it is dropped.
    appends: Option<mpsc::SyncSender<Append>>,
    writer: Option<JoinHandle<()>>,
}

struct Append {
    line: Vec<u8>,
    done: oneshot::Sender<Result<(), String>>,
}

/// A file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot append events to {}", path.display())]
pub struct JsonLinesError {
    path: PathBuf,
    source: io::Error,
}

const MAX_BYTES: u64 = 64 * 1024 * 1024;

const MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// Sets up [`JsonLines`].
#[derive(Clone, Debug)]
#[must_use]
pub struct JsonLinesBuilder {
    path: PathBuf,
    max_bytes: u64,
    max_age: Duration,
    line: fn(&SendarixEvent) -> Result<Vec<u8>, serde_json::Error>,
    #[cfg(feature = "gzip")]
    compressed: bool,
}

impl JsonLines {
    /// Opens or makes the file, with every default.
    ///
    /// # Errors
    ///
    /// The file cannot be made or written, or is open in another process.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JsonLinesError> {
        Self::builder(path).open()
    }

    /// Starts a file of this name.
    pub fn builder(path: impl AsRef<Path>) -> JsonLinesBuilder {
        JsonLinesBuilder {
            path: path.as_ref().to_owned(),
            max_bytes: MAX_BYTES,
            max_age: MAX_AGE,
            line: line::nested,
            #[cfg(feature = "gzip")]
            compressed: false,
        }
    }
}

impl JsonLinesBuilder {
    /// A new file begins with the line that reaches this size. Default: 64 MiB, of which warehouses like to load a few at a time.
    pub fn max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes, ..self }
    }

    /// A new file begins this long after the first event in it. Default: an hour, so that a warehouse is not much behind on a
    /// quiet day.
    pub fn max_age(self, max_age: Duration) -> Self {
        Self { max_age, ..self }
    }

    /// Writes flat rows: every documented field of `data` is a column, and each line has all of them, `null` where the event has
    /// none. Default: `data` as one member.
    ///
    /// The columns and their types are part of this crate's interface, and later versions only add some at the end:
    ///
    /// | column | type | |
    /// |---|---|---|
    /// | `event_id`, `event_type`, `timestamp`, `message_id`, `recipient` | text | the envelope; the time as RFC 3339 in UTC, to the microsecond, and `null` before the year 1 |
    /// | `is_permanent` | boolean | whether delivery to the address failed for good |
    /// | `suppression` | text | `permanent_bounce`, `complaint` or `unsubscribe` |
    /// | `smtp_code` | integer | of a bounce |
    /// | `smtp_message`, `bounce_type`, `bounce_category` | text | of a bounce |
    /// | `was_automatic` | boolean | of a bounce |
    /// | `smtp_response`, `server` | text | of a delivery |
    /// | `delivery_latency_ms` | integer | of a delivery; `null` above 2⁶³ − 1 |
    /// | `complaint_type`, `feedback_type` | text | of a complaint |
    /// | `ip`, `user_agent`, `os`, `client` | text | of an open, a click, or a complaint (`user_agent`) |
    /// | `link_id`, `url` | text | of a click |
    /// | `data` | text | all of `data`, as Sendarix sent it |
    pub fn flat(self) -> Self {
        Self { line: line::flat, ..self }
    }

    /// Compresses each finished file, as `NAME.TIME.jsonl.gz`. A process that is stopped meanwhile leaves the finished file, which
    /// the next start compresses.
    #[cfg(feature = "gzip")]
    #[cfg_attr(docsrs, doc(cfg(feature = "gzip")))]
    pub fn compressed(self) -> Self {
        Self { compressed: true, ..self }
    }

    /// Opens or makes the file.
    ///
    /// # Errors
    ///
    /// The file cannot be made or written, or is open in another process.
    pub fn open(self) -> Result<JsonLines, JsonLinesError> {
        let failed = |source| JsonLinesError { path: self.path.clone(), source };
        let mut file = Lines::open(&self).map_err(failed)?;
        let (appends, queue) = mpsc::sync_channel::<Append>(MAX_WAITING);
        let write = move || {
            loop {
                let first = match queue.recv_timeout(LOOK_EVERY) {
                    Ok(first) => first,
                    Err(RecvTimeoutError::Timeout) => {
                        // An old file should not wait for the next event. If this fails, that will be told.
                        let _ = file.rotate_if_over();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                // As much as the file has room for, and at least one line.
                let mut room = file.room().saturating_sub(first.line.len() as u64);
                let mut batch = vec![first];
                while room > 0
                    && let Ok(next) = queue.try_recv()
                {
                    room = room.saturating_sub(next.line.len() as u64);
                    batch.push(next);
                }
                // A line whose caller was cancelled comes again.
                batch.retain(|append| !append.done.is_closed());
                let written = file.append(&batch.iter().map(|append| append.line.as_slice()).collect::<Vec<_>>());
                let written = written.map_err(|error| error.to_string());
                for append in batch {
                    let _ = append.done.send(written.clone());
                }
            }
        };
        let writer = thread::Builder::new().name("sendarix-lines".to_owned()).spawn(write).map_err(failed)?;
        Ok(JsonLines { path: self.path, line: self.line, appends: Some(appends), writer: Some(writer) })
    }
}

/// How many lines wait for the disk, at most. More are refused, and come again.
const MAX_WAITING: usize = 10_000;

/// How often an idle file's age is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Destination for JsonLines {
    fn take(&self, delivery: Delivery) -> DestinationFuture {
        let (done, written) = oneshot::channel();
        let sent = (self.line)(delivery.event())
            .map(|line| self.appends.as_ref().is_some_and(|appends| appends.try_send(Append { line, done }).is_ok()));
        Box::pin(async move {
            let gone =
                || HandlerError::retry("too many lines wait for the disk, or the thread that writes them has ended");
            if !sent.map_err(HandlerError::permanent)? {
                return Err(gone());
            }
            written.await.map_err(|_| gone())?.map_err(HandlerError::retry)
        })
    }
}

/// Waits for the lines that are on their way, so that the file can be opened again at once.
impl Drop for JsonLines {
    fn drop(&mut self) {
        drop(self.appends.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl fmt::Debug for JsonLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JsonLines").field(&self.path).finish()
    }
}
