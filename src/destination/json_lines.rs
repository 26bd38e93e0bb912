//! Events in files of lines, as warehouses load them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{Destination, DestinationFuture};
use crate::event::{SendarixEvent, Timestamp};
use crate::inbox::{Delivery, HandlerError};
use crate::locked_file::{Found, LockedFile, with_suffix};
use crate::logging::TARGET;

/// Appends each event as one line of JSON to a file, and begins a new file now and then.
///
/// A line has `event_id`, `event_type`, `timestamp`, `message_id`, `recipient` and `data`, as Sendarix sent it or `null`. An
/// event counts as taken once its line is on the disk; lines that come at the same time are written together. An event can
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

/// 64 MiB, of which warehouses like to load a few at a time.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// An hour, so that a warehouse is not much behind on a quiet day.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);

impl JsonLines {
    /// Opens or makes the file. A new one begins after 64 MiB or an hour.
    ///
    /// # Errors
    ///
    /// The file cannot be made or written, or is open in another process.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JsonLinesError> {
        Self::rotating(path, MAX_BYTES, MAX_AGE)
    }

    /// Opens or makes the file. A new one begins with the line that reaches `max_bytes`, or `max_age` after the first
    /// event in it.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn rotating(path: impl AsRef<Path>, max_bytes: u64, max_age: Duration) -> Result<Self, JsonLinesError> {
        let path = path.as_ref().to_owned();
        let failed = |source| JsonLinesError { path: path.clone(), source };
        let mut file = Lines::open(&path, max_bytes, max_age).map_err(failed)?;
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
        Ok(Self { path, appends: Some(appends), writer: Some(writer) })
    }
}

/// How many lines wait for the disk, at most. More are refused, and come again.
const MAX_WAITING: usize = 10_000;

/// How often an idle file's age is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Destination for JsonLines {
    fn take(&self, delivery: Delivery) -> DestinationFuture {
        let (done, written) = oneshot::channel();
        let sent = line(delivery.event())
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

fn line(event: &SendarixEvent) -> Result<Vec<u8>, serde_json::Error> {
    #[derive(Serialize)]
    struct Line<'a> {
        event_id: &'a str,
        event_type: &'a str,
        timestamp: Timestamp,
        message_id: &'a str,
        recipient: &'a str,
        data: Option<Box<RawValue>>,
    }
    // A line break in JSON is white space between its parts: inside a text it would be escaped.
    let on_one_line = |data: &str| RawValue::from_string(data.replace(['\n', '\r'], " "));
    let mut line = serde_json::to_vec(&Line {
        event_id: &event.event_id,
        event_type: event.type_name(),
        timestamp: event.timestamp,
        message_id: &event.message_id,
        recipient: &event.recipient,
        data: event.data().map(on_one_line).transpose()?,
    })?;
    line.push(b'\n');
    Ok(line)
}

/// The first bytes of each [`line`].
const LINE_START: &[u8] = b"{\"event_id\":";

/// The file that grows.
struct Lines {
    file: LockedFile,
    /// When its first line came.
    since: SystemTime,
    max_bytes: u64,
    max_age: Duration,
    /// Whether the file may end with what is no line.
    is_unchecked: bool,
}

impl Lines {
    fn open(path: &Path, max_bytes: u64, max_age: Duration) -> io::Result<Self> {
        let file = LockedFile::open(path)?;
        let since = file.created()?;
        let mut lines = Self { file, since, max_bytes, max_age, is_unchecked: true };
        lines.find_place()?;
        Ok(lines)
    }

    /// Cuts off what a crash has left of a line that was not acknowledged: a part of it, or the zeros that some file systems
    /// leave of what was never written. A whole line without its end is an editor's doing, and a file that begins otherwise
    /// than with a line is another program's.
    fn cut_off_part_of_a_line(&mut self) -> io::Result<()> {
        let (start, tail) = self.file.tail()?;
        if tail.is_empty() {
            return Ok(());
        }
        let zeros = tail.iter().rev().take_while(|byte| **byte == 0).count();
        let text = tail.get(..tail.len() - zeros).unwrap_or_default();
        let is_ours = start > 0 || text.starts_with(LINE_START) || LINE_START.starts_with(text);
        if !is_ours {
            return Err(io::Error::other("it has other content than events"));
        }
        if zeros == 0 && serde_json::from_slice::<&RawValue>(text).is_ok() {
            return self.file.append(b"\n");
        }
        self.file.cut_off(start)
    }

    /// Finds the place for the next line, where a loader would find it.
    fn find_place(&mut self) -> io::Result<()> {
        match self.file.look()? {
            Found::Same => {}
            Found::Another => {
                self.file.follow_name()?;
                (self.since, self.is_unchecked) = (SystemTime::now(), true);
            }
            Found::Shorter(len) => {
                let path = self.file.path().display();
                let message = "the file of lines was cut short while it was in use; the next line follows what is left";
                tracing::warn!(target: TARGET, %path, len, message);
                self.file.cut_off(len)?;
                (self.since, self.is_unchecked) = (SystemTime::now(), true);
            }
        }
        if self.is_unchecked {
            self.cut_off_part_of_a_line()?;
            self.is_unchecked = false;
        }
        Ok(())
    }

    /// Returns once the lines are on the disk. If it fails, none of them counts, and whatever is there of them goes.
    fn append(&mut self, lines: &[&[u8]]) -> io::Result<()> {
        self.find_place()?;
        self.rotate_if_over()?;
        let is_first = self.file.end() == 0;
        self.file.append(&lines.concat())?;
        if is_first {
            self.since = SystemTime::now();
        }
        Ok(())
    }

    fn room(&self) -> u64 {
        self.max_bytes.saturating_sub(if self.is_over() { 0 } else { self.file.end() })
    }

    fn is_over(&self) -> bool {
        let age = self.since.elapsed().unwrap_or_default();
        self.file.end() > 0 && (self.file.end() >= self.max_bytes || age >= self.max_age)
    }

    /// Leaves the file under a name that tells when, for the loader, and begins another.
    fn rotate_if_over(&mut self) -> io::Result<()> {
        if !self.is_over() || self.file.look()? != Found::Same {
            return Ok(());
        }
        let path = self.file.path();
        let stem = match path.extension() {
            Some(extension) if extension == "jsonl" => path.with_extension(""),
            _ => path.to_owned(),
        };
        let now = Timestamp::from(SystemTime::now()).to_string().replace(':', "-");
        let names = (0..).map(|again| {
            let again = if again == 0 { String::new() } else { format!("-{again}") };
            with_suffix(&stem, &format!(".{now}{again}.jsonl"))
        });
        let finished = names.into_iter().find(|name| !name.exists()).unwrap_or_default();
        self.file.leave_as(&finished)?;
        self.since = SystemTime::now();
        Ok(())
    }
}
