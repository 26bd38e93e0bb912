//! Events in files of lines, as warehouses load them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
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
/// again: load those. One that is moved or deleted by somebody else is begun anew. A process that was killed leaves at most
/// a part of a line, which was not acknowledged and is cut off at the next start.
///
/// One process may have it open; another is refused. It holds recipients, and only its owner can read it. Dropping it waits
/// for the disk.
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

    /// Opens or makes the file. A new one begins once so many bytes are reached, by the line that reaches them, or so long
    /// after the first event in it.
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
                // What nobody waits for any more comes again.
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

/// So many lines wait for the disk at most. More are refused, and come again.
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

/// As what [`line`] writes begins.
const LINE_START: &[u8] = b"{\"event_id\":";

/// The file that grows.
struct Lines {
    path: PathBuf,
    file: File,
    /// Where the next line goes. What a failed write left behind it is overwritten.
    end: u64,
    /// When its first line came.
    since: SystemTime,
    /// Whether a failed write may have left something behind the end.
    is_spoilt: bool,
    /// Whether the names in the directory may not be on the disk.
    is_unnamed: bool,
    max_bytes: u64,
    max_age: Duration,
    _lock: FileLock,
}

impl Lines {
    fn open(path: &Path, max_bytes: u64, max_age: Duration) -> io::Result<Self> {
        private_file(path)?;
        // By whatever symbolic link it is reached, one file has one lock.
        let path = path.canonicalize()?;
        let lock = FileLock::of(&path)?;
        let file = private_file(&path)?;
        let metadata = file.metadata()?;
        let since = metadata.created().or_else(|_| metadata.modified())?;
        let (end, is_spoilt, is_unnamed) = (metadata.len(), false, true);
        let mut lines = Self { path, file, end, since, is_spoilt, is_unnamed, max_bytes, max_age, _lock: lock };
        lines.cut_off_part_of_a_line()?;
        lines.make_names_durable()?;
        Ok(lines)
    }

    /// What a crash has left of a line that nobody acknowledged. A whole line whose end is missing is an editor's doing, and
    /// a file without any line is somebody else's.
    fn cut_off_part_of_a_line(&mut self) -> io::Result<()> {
        let (mut start, mut byte) = (self.end, [0]);
        while start > 0 {
            self.file.seek(SeekFrom::Start(start - 1))?;
            self.file.read_exact(&mut byte)?;
            if byte == *b"\n" {
                break;
            }
            start -= 1;
        }
        let mut tail = Vec::new();
        self.file.seek(SeekFrom::Start(start))?;
        self.file.read_to_end(&mut tail)?;
        if tail.is_empty() {
            return Ok(());
        }
        if serde_json::from_slice::<&RawValue>(&tail).is_ok() && start > 0 {
            self.end += self.file.write(b"\n")? as u64;
            return self.file.sync_data();
        }
        if start == 0 && !tail.starts_with(LINE_START) {
            return Err(io::Error::other("it has other content than events"));
        }
        self.end = start;
        self.file.set_len(start)
    }

    /// Begins anew if the file has been moved or deleted: what is written to it now, nobody would find.
    fn find_again(&mut self) -> io::Result<()> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let mine = self.file.metadata()?;
            let is_there = |there: &std::fs::Metadata| (there.dev(), there.ino()) == (mine.dev(), mine.ino());
            match std::fs::metadata(&self.path) {
                Ok(there) if is_there(&there) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            self.file = private_file(&self.path)?;
            (self.end, self.since) = (self.file.metadata()?.len(), SystemTime::now());
            (self.is_spoilt, self.is_unnamed) = (false, true);
            self.cut_off_part_of_a_line()?;
        }
        Ok(())
    }

    /// Returns once the lines are on the disk. If it fails, none of them counts, and whatever is there of them goes.
    fn append(&mut self, lines: &[&[u8]]) -> io::Result<()> {
        self.find_again()?;
        self.rotate_if_over()?;
        self.make_names_durable()?;
        if self.is_spoilt {
            self.file.set_len(self.end)?;
        }
        let bytes = lines.concat();
        self.file.seek(SeekFrom::Start(self.end))?;
        self.is_spoilt = true;
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // A loader must not take for an event what comes again. If this fails too, the next write does it.
            self.is_spoilt = self.file.set_len(self.end).is_err();
            return written;
        }
        self.is_spoilt = false;
        if self.end == 0 {
            self.since = SystemTime::now();
        }
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn room(&self) -> u64 {
        self.max_bytes.saturating_sub(if self.is_over() { 0 } else { self.end })
    }

    fn is_over(&self) -> bool {
        let age = self.since.elapsed().unwrap_or_default();
        self.end > 0 && (self.end >= self.max_bytes || age >= self.max_age)
    }

    /// Leaves the file under a name that tells when, for the loader, and begins another.
    fn rotate_if_over(&mut self) -> io::Result<()> {
        if !self.is_over() {
            return Ok(());
        }
        let stem = match self.path.extension() {
            Some(extension) if extension == "jsonl" => self.path.with_extension(""),
            _ => self.path.clone(),
        };
        let now = Timestamp::from(SystemTime::now()).to_string().replace(':', "-");
        let names = (0..).map(|again| {
            let again = if again == 0 { String::new() } else { format!("-{again}") };
            with_suffix(&stem, &format!(".{now}{again}.jsonl"))
        });
        let finished = names.into_iter().find(|name| !name.exists()).unwrap_or_default();
        std::fs::rename(&self.path, finished)?;
        self.file = private_file(&self.path)?;
        (self.end, self.since, self.is_spoilt, self.is_unnamed) = (0, SystemTime::now(), false, true);
        Ok(())
    }

    /// A line in a file that has no name after a power failure would be lost.
    fn make_names_durable(&mut self) -> io::Result<()> {
        if self.is_unnamed {
            sync_directory(&self.path)?;
            self.is_unnamed = false;
        }
        Ok(())
    }
}
