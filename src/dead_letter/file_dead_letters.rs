//! Dead letters in a file: the front of the [`Journal`] for an asynchronous application.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::journal::{Change, Index, Journal};
use super::{DeadLetter, DeadLetters, ListedLetter};
use crate::event::EventKey;
use crate::storage::{StoreError, StoreFuture};

/// Keeps dead letters in a file of JSON lines, for one process.
///
/// A letter is written and synced to the disk before it counts as kept; letters that come at the same time share one
/// sync. A line that was torn by a crash is dropped when the file is opened again: it was never reported as kept.
/// Resolved letters are compacted away when the file is opened and closed, and while it is in use once they fill most of it.
///
/// The file holds recipients and whatever else the events and the handler's errors say. It is created for its owner alone; a
/// mode that you give it stays, also when it is compacted. It is locked, and so is an empty file beside it with the suffix
/// `.lock`: a second process is refused.
///
/// Where the file is moved or deleted while it is in use, the letters are written again under its name. Where it is cut
/// short, nothing more is written, since letters are lost: every event that needs a letter is answered 503 until the process
/// is restarted.
///
/// Read it with any tool for JSON lines: a line `{"letter": …}` is a letter, unless a later line has the same
/// `endpoint` and `event_id`; a line `{"resolved": …}` ends one.
pub struct FileDeadLetters {
    path: PathBuf,
    index: Arc<Mutex<Index>>,
    /// `None` only while it is dropped.
    writer: Option<SyncSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Change(Change, Reply<()>),
    Discard(DeadLetter, Reply<bool>),
    Get(EventKey, Reply<Option<DeadLetter>>),
    List { endpoint: String, after: Option<String>, limit: usize, reply: Reply<Vec<ListedLetter>> },
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;
type Answer<T> = oneshot::Receiver<Result<T, StoreError>>;

/// How many changes share one sync, at most.
const MAX_BATCH: usize = 256;

/// How many changes wait for the disk, at most. A disk that cannot keep up is an error, not a queue without end.
const MAX_WAITING: usize = 2048;

impl FileDeadLetters {
    /// Opens the file, or creates it, and reads which letters it holds. Blocks on the disk: call it at start-up.
    ///
    /// # Errors
    ///
    /// The file cannot be created, read or written, or another process has it open. The error names the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let at_path = |error: std::io::Error| StoreError::new(format!("{}: {error}", path.display()));
        let index = Arc::new(Mutex::new(Index::default()));
        let journal = Journal::open(&path, Arc::clone(&index)).map_err(at_path)?;
        let (writer, commands) = mpsc::sync_channel(MAX_WAITING);
        let thread = std::thread::Builder::new()
            .name("sendarix-dead-letters".to_owned())
            .spawn(move || write(journal, &commands))
            .map_err(at_path)?;
        Ok(Self { path, index, writer: Some(writer), thread: Some(thread) })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        self.send(command)?.await.map_err(|_| self.stopped())?
    }

    /// Hands a command to the thread, and returns where its answer will come.
    fn send<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<Answer<T>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let writer = self.writer.as_ref().ok_or_else(|| self.stopped())?;
        match writer.try_send(command(reply)) {
            Ok(()) => Ok(answer),
            Err(TrySendError::Disconnected(_)) => Err(self.stopped()),
            Err(TrySendError::Full(_)) => {
                let path = self.path.display();
                Err(StoreError::new(format!("{path}: {MAX_WAITING} letters wait for the disk already")))
            }
        }
    }

    fn stopped(&self) -> StoreError {
        StoreError::new(format!("{}: the writing thread has stopped", self.path.display()))
    }
}

impl DeadLetters for FileDeadLetters {
    fn record<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, ()> {
        StoreFuture::new(async move {
            // Before it is sent: a caller that gives up waiting may resolve it next.
            self.index().enqueue(&letter.key);
            let sent = self.send(|reply| Command::Change(Change::Record(letter.clone()), reply));
            let answer = sent.inspect_err(|_| self.index().dequeue(&letter.key))?;
            answer.await.map_err(|_| self.stopped())?
        })
    }

    fn resolve<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, ()> {
        StoreFuture::new(async move {
            // Most events leave no letter, and the writing thread need not know of them.
            if self.index().may_hold(key) {
                self.ask(|reply| Command::Change(Change::Resolve(key.clone()), reply)).await?;
            }
            Ok(())
        })
    }

    fn get<'a>(&'a self, key: &'a EventKey) -> StoreFuture<'a, Option<DeadLetter>> {
        StoreFuture::new(self.ask(|reply| Command::Get(key.clone(), reply)))
    }

    fn list<'a>(
        &'a self,
        endpoint: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<ListedLetter>> {
        let (endpoint, after) = (endpoint.to_owned(), after.map(str::to_owned));
        StoreFuture::new(self.ask(move |reply| Command::List { endpoint, after, limit, reply }))
    }

    fn discard<'a>(&'a self, letter: &'a DeadLetter) -> StoreFuture<'a, bool> {
        StoreFuture::new(self.ask(|reply| Command::Discard(letter.clone(), reply)))
    }
}

/// Serves commands in their order until the last sender is gone: changes that follow each other with one sync.
fn write(mut journal: Journal, commands: &Receiver<Command>) {
    while let Ok(first) = commands.recv() {
        let mut batch = Batch::default();
        for command in std::iter::once(first).chain(commands.try_iter()).take(MAX_BATCH) {
            // A caller may have been cancelled; then its reply is dropped.
            match command {
                Command::Change(change, reply) => batch.push(change, reply),
                Command::Discard(letter, reply) => {
                    batch.write(&mut journal);
                    drop(reply.send(journal.discard(&letter).map_err(StoreError::new)));
                }
                Command::Get(key, reply) => {
                    batch.write(&mut journal);
                    drop(reply.send(journal.get(&key).map_err(StoreError::new)));
                }
                Command::List { endpoint, after, limit, reply } => {
                    batch.write(&mut journal);
                    drop(reply.send(Ok(journal.list(&endpoint, after.as_deref(), limit))));
                }
            }
        }
        batch.write(&mut journal);
        journal.compact_if_due();
    }
    journal.close();
}

/// Changes that share a sync.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    replies: Vec<Reply<()>>,
}

impl Batch {
    fn push(&mut self, change: Change, reply: Reply<()>) {
        self.changes.push(change);
        self.replies.push(reply);
    }

    fn write(&mut self, journal: &mut Journal) {
        if self.changes.is_empty() {
            return;
        }
        let written = journal.write(&std::mem::take(&mut self.changes)).map_err(Arc::new);
        for reply in self.replies.drain(..) {
            let _ = reply.send(written.clone().map_err(StoreError::new));
        }
    }
}

/// Waits for the letters that are being written, and lets go of the file.
impl Drop for FileDeadLetters {
    fn drop(&mut self) {
        drop(self.writer.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for FileDeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileDeadLetters").field("path", &self.path).finish_non_exhaustive()
    }
}
