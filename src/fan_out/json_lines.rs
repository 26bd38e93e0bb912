//! Events in files of lines, as warehouses load them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{Destination, DestinationFuture};
use crate::event::{SendarixEvent, Timestamp};
use crate::file::{FileLock, private_file, sync_directory, with_suffix};
use crate::receiver::{Delivery, HandlerError};

/// Appends each event as one line of JSON to a file, and begins a new file now and then.
///
/// A line has `event_id`, `event_type`, `timestamp`, `message_id`, `recipient` and `data`, as Sendarix sent it or `null`. An
/// event counts as taken once its line is on the disk; lines that come at the same time are written together. An event can
/// be there twice, after a crash just then: load by `event_id`.
///
/// The file of the given name grows. When it is full or old enough it is renamed to `NAME.TIME.jsonl` and never touched
/// again: load those. A process that was killed leaves at most a part of a line, which was not acknowledged and is cut
/// off at the next start.
///
/// One process may have it open; another is refused. It holds recipients, and only its owner can read it.
pub struct JsonLines {
    path: PathBuf,
    /// Both are there until it is dropped.
    appends: Option<mpsc::Sender<Append>>,
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

    /// Opens or makes the file. A new one begins with the first event after so many bytes, or so long after the first event
    /// in it.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn rotating(path: impl AsRef<Path>, max_bytes: u64, max_age: Duration) -> Result<Self, JsonLinesError> {
        let path = path.as_ref().to_owned();
        let failed = |source| JsonLinesError { path: path.clone(), source };
        let mut file = Lines::open(&path, max_bytes, max_age).map_err(failed)?;
        let (appends, queue) = mpsc::channel::<Append>();
        let write = move || {
            while let Ok(first) = queue.recv() {
                let batch: Vec<Append> = std::iter::once(first).chain(queue.try_iter().take(BATCH)).collect();
                let written = file.append(&batch.iter().map(|append| append.line.as_slice()).collect::<Vec<_>>());
                let written = written.map_err(|error| error.to_string());
                for append in batch {
                    // Nobody may be waiting any more.
                    let _ = append.done.send(written.clone());
                }
            }
        };
        let writer = thread::Builder::new().name("sendarix-lines".to_owned()).spawn(write).map_err(failed)?;
        Ok(Self { path, appends: Some(appends), writer: Some(writer) })
    }
}

/// So many lines at most are written at once.
const BATCH: usize = 1000;

impl Destination for JsonLines {
    fn take(&self, delivery: Delivery) -> DestinationFuture {
        let (done, written) = oneshot::channel();
        let sent = line(delivery.event())
            .map(|line| self.appends.as_ref().is_some_and(|appends| appends.send(Append { line, done }).is_ok()));
        Box::pin(async move {
            let gone = || HandlerError::retry("the thread that writes the file has ended");
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

/// The file that grows.
struct Lines {
    path: PathBuf,
    file: File,
    /// Where the next line goes. What a failed write left behind it is overwritten.
    end: u64,
    /// When its first line came.
    since: SystemTime,
    max_bytes: u64,
    max_age: Duration,
    _lock: FileLock,
}

impl Lines {
    fn open(path: &Path, max_bytes: u64, max_age: Duration) -> io::Result<Self> {
        private_file(path)?;
        // By whatever link it is reached, one file has one lock.
        let path = path.canonicalize()?;
        let lock = FileLock::of(&path)?;
        let file = private_file(&path)?;
        let metadata = file.metadata()?;
        let since = metadata.created().or_else(|_| metadata.modified())?;
        let mut lines = Self { path, file, end: metadata.len(), since, max_bytes, max_age, _lock: lock };
        lines.cut_off_part_of_a_line()?;
        sync_directory(&lines.path)?;
        Ok(lines)
    }

    /// What a crash has left of a line that nobody acknowledged.
    fn cut_off_part_of_a_line(&mut self) -> io::Result<()> {
        let mut last = [0];
        while self.end > 0 {
            self.file.seek(SeekFrom::Start(self.end - 1))?;
            self.file.read_exact(&mut last)?;
            if last == *b"\n" {
                break;
            }
            self.end -= 1;
        }
        self.file.set_len(self.end)
    }

    /// Returns once the lines are on the disk. If it fails, none of them counts, and whatever is there of them goes.
    fn append(&mut self, lines: &[&[u8]]) -> io::Result<()> {
        if self.is_over() {
            self.rotate()?;
        }
        let bytes = lines.concat();
        self.file.seek(SeekFrom::Start(self.end))?;
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // A loader must not take for an event what comes again. If this fails too, the next write goes over it.
            let _ = self.file.set_len(self.end);
            return written;
        }
        if self.end == 0 {
            self.since = SystemTime::now();
        }
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn is_over(&self) -> bool {
        let age = self.since.elapsed().unwrap_or_default();
        self.end > 0 && (self.end >= self.max_bytes || age >= self.max_age)
    }

    /// Leaves the file under a name that tells when, for the loader, and begins another.
    fn rotate(&mut self) -> io::Result<()> {
        let stem = self.path.with_extension("");
        let now = Timestamp::from(SystemTime::now()).to_string().replace(':', "-");
        let names = (0..).map(|again| {
            let again = if again == 0 { String::new() } else { format!("-{again}") };
            with_suffix(&stem, &format!(".{now}{again}.jsonl"))
        });
        let finished = names.into_iter().find(|name| !name.exists()).unwrap_or_default();
        match std::fs::rename(&self.path, finished) {
            // The last time, there was no new file to be had.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        self.file = private_file(&self.path)?;
        (self.end, self.since) = (0, SystemTime::now());
        sync_directory(&self.path)
    }
}
