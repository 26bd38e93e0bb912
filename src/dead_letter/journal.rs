//! The file behind [`FileDeadLetters`](super::FileDeadLetters): lines that are appended, synced, and compacted.
//!
//! What is in memory is where each letter stands in the file, not the letter.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::record::{Record, StoredLetter};
use super::{DeadLetter, History};
use crate::file::{FileLock, private_file, sync_directory, with_suffix};
use crate::store::EventKey;
use crate::telemetry::TARGET;

/// What can happen to a letter.
pub(super) enum Change {
    Record(DeadLetter),
    Resolve(EventKey),
}

/// Which letters are not resolved, and where their lines are.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<EventKey, Entry>,
    /// Letters that are on their way to the file, and how often.
    queued: HashMap<EventKey, usize>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    line: Line,
    history: History,
}

/// A line's bytes in the file, with its line break.
#[derive(Clone, Copy, Debug)]
struct Line {
    start: u64,
    len: u64,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is a letter to resolve, now or before long.
    pub(super) fn may_hold(&self, key: &EventKey) -> bool {
        self.entries.contains_key(key) || self.queued.contains_key(key)
    }

    pub(super) fn enqueue(&mut self, key: &EventKey) {
        *self.queued.entry(key.clone()).or_default() += 1;
    }

    pub(super) fn dequeue(&mut self, key: &EventKey) {
        if let Some(count) = self.queued.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.queued.remove(key);
            }
        }
    }
}

pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Where the next line goes. What a failed write left behind it is overwritten.
    end: u64,
    /// How many of the bytes before it nobody needs: resolved letters, and lines with a newer one.
    garbage: u64,
    index: Arc<Mutex<Index>>,
    /// Lines that nobody can read. They are reported, and kept for whoever can.
    unreadable: Vec<Line>,
    /// Held open for its lock, which keeps other processes out.
    _lock: FileLock,
}

/// Less garbage is not worth compacting while the file is in use.
const COMPACT_FROM_BYTES: u64 = 1024 * 1024;

impl Journal {
    pub(super) fn open(path: &Path, index: Arc<Mutex<Index>>) -> io::Result<Self> {
        // One file has one lock, by whatever link it is reached, and compaction replaces the file and not the link. Only
        // a file that is there has such a path.
        private_file(path)?;
        let path = path.canonicalize()?;
        sync_directory(&path)?;
        let lock = FileLock::of(&path)?;
        let file = private_file(&path)?;
        let unreadable = Vec::new();
        let mut journal = Self { path, file, end: 0, garbage: 0, index, unreadable, _lock: lock };
        journal.recover()?;
        if journal.garbage > 0 {
            journal.compact()?;
        }
        Ok(journal)
    }

    /// Appends what the changes come to, and returns once it is on the disk. If it fails, none of them has happened.
    pub(super) fn write(&mut self, changes: &[Change]) -> io::Result<()> {
        let written = self.append_changes(changes);
        for change in changes {
            if let Change::Record(letter) = change {
                self.index().dequeue(&letter.key);
            }
        }
        written
    }

    fn append_changes(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut text = Vec::new();
        let mut after: HashMap<&EventKey, Option<Entry>> = HashMap::new();
        for change in changes {
            let start = self.end + text.len() as u64;
            let key = change.key();
            let before = after.get(key).copied().unwrap_or_else(|| self.index().entries.get(key).copied());
            let entry = match (change, before) {
                (Change::Resolve(_), None) => continue,
                (Change::Resolve(_), Some(_)) => {
                    Record::Resolved(key.into()).append_to(&mut text)?;
                    None
                }
                (Change::Record(letter), before) => {
                    let letter = before.iter().fold(letter.clone(), |letter, entry| letter.after(entry.history));
                    Record::Letter(StoredLetter::new(&letter)).append_to(&mut text)?;
                    let len = self.end + text.len() as u64 - start;
                    Some(Entry { line: Line { start, len }, history: letter.history() })
                }
            };
            after.insert(key, entry);
        }
        if text.is_empty() {
            return Ok(());
        }
        self.append(&text)?;
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = 0;
        for (key, entry) in after {
            let before = match entry {
                Some(entry) => {
                    kept += entry.line.len;
                    index.entries.insert(key.clone(), entry)
                }
                None => index.entries.remove(key),
            };
            self.garbage += before.map_or(0, |entry| entry.line.len);
        }
        self.garbage += text.len() as u64 - kept;
        Ok(())
    }

    pub(super) fn get(&mut self, key: &EventKey) -> io::Result<Option<DeadLetter>> {
        let line = self.index().entries.get(key).map(|entry| entry.line);
        line.map(|line| self.read(line)).transpose()
    }

    pub(super) fn letters(&mut self) -> io::Result<Vec<DeadLetter>> {
        let mut lines: Vec<Line> = self.index().entries.values().map(|entry| entry.line).collect();
        lines.sort_unstable_by_key(|line| line.start);
        lines.into_iter().map(|line| self.read(line)).collect()
    }

    pub(super) fn list(&mut self, endpoint: &str, after: Option<&str>, limit: usize) -> io::Result<Vec<DeadLetter>> {
        let mut entries: Vec<(EventKey, Line)> = {
            let index = self.index();
            let wanted = index
                .entries
                .iter()
                .filter(|(key, _)| key.endpoint() == endpoint && after.is_none_or(|after| key.event_id() > after));
            wanted.map(|(key, entry)| (key.clone(), entry.line)).collect()
        };
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        entries.into_iter().take(limit).map(|(_, line)| self.read(line)).collect()
    }

    pub(super) fn compact_if_due(&mut self) -> io::Result<()> {
        if self.garbage >= COMPACT_FROM_BYTES && self.garbage >= self.end / 2 { self.compact() } else { Ok(()) }
    }

    /// Reads every line, and cuts off a last one that was torn.
    fn recover(&mut self) -> io::Result<()> {
        let mut reader = BufReader::new(self.file.try_clone()?);
        let mut index: HashMap<EventKey, Entry> = HashMap::new();
        let mut text = Vec::new();
        loop {
            text.clear();
            let len = reader.read_until(b'\n', &mut text)? as u64;
            if len == 0 {
                break;
            }
            let mut line = Line { start: self.end, len };
            let record = Record::read(&text).map_err(io::Error::from).and_then(Change::try_from);
            if text.last() != Some(&b'\n') {
                if record.is_err() {
                    let path = self.path.display();
                    let message = "dropped the torn last line of the dead-letter file";
                    tracing::warn!(target: TARGET, %path, bytes = len, message);
                    self.file.set_len(line.start)?;
                    self.file.sync_all()?;
                    break;
                }
                // Not torn by a crash: an editor took the line break away.
                self.file.seek(SeekFrom::End(0))?;
                self.file.write_all(b"\n")?;
                line.len += 1;
            }
            match record {
                Ok(Change::Record(letter)) => {
                    let history = letter.history();
                    index.insert(letter.key, Entry { line, history });
                }
                Ok(Change::Resolve(key)) => drop(index.remove(&key)),
                Err(error) => {
                    let (path, at) = (self.path.display(), line.start);
                    let message = "a line of the dead-letter file cannot be read; it is kept";
                    tracing::error!(target: TARGET, %path, at, %error, message);
                    self.unreadable.push(line);
                }
            }
            self.end += line.len;
        }
        let kept = index.values().map(|entry| entry.line).chain(self.unreadable.iter().copied());
        self.garbage = self.end - kept.map(|line| line.len).sum::<u64>();
        self.index().entries = index;
        Ok(())
    }

    /// Puts the lines that are needed into a new file, and that file in the place of the old one.
    fn compact(&mut self) -> io::Result<()> {
        let mut entries: Vec<(EventKey, Entry)> =
            self.index().entries.iter().map(|(key, entry)| (key.clone(), *entry)).collect();
        entries.sort_unstable_by_key(|(_, entry)| entry.line.start);

        let new_path = with_suffix(&self.path, ".new");
        let file = private_file(&new_path)?;
        file.set_len(0)?;
        let mut new = BufWriter::new(file);
        let mut end = 0;
        let mut unreadable = self.unreadable.clone();
        let lines = unreadable.iter_mut().chain(entries.iter_mut().map(|(_, entry)| &mut entry.line));
        for line in lines {
            new.write_all(&self.read_bytes(*line)?)?;
            line.start = end;
            end += line.len;
        }
        let new = new.into_inner().map_err(io::IntoInnerError::into_error)?;
        new.sync_all()?;
        std::fs::rename(&new_path, &self.path)?;
        self.file = new;
        self.end = end;
        self.garbage = 0;
        self.unreadable = unreadable;
        self.index().entries = entries.into_iter().collect();
        // Only now would a crash not bring the old file back, which would be right as well.
        sync_directory(&self.path)
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let written = self
            .file
            .seek(SeekFrom::Start(self.end))
            .and_then(|_| self.file.write_all(text))
            .and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.end += text.len() as u64,
            // What stays if this fails too is a torn line, or a letter that the sender delivers again.
            Err(_) => drop(self.file.set_len(self.end)),
        }
        written
    }

    fn read(&mut self, line: Line) -> io::Result<DeadLetter> {
        let text = self.read_bytes(line)?;
        match Record::read(&text)?.try_into()? {
            Change::Record(letter) => Ok(letter),
            Change::Resolve(_) => Err(io::Error::other("the file was changed while it was in use")),
        }
    }

    fn read_bytes(&mut self, line: Line) -> io::Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(line.start))?;
        let mut text = Vec::new();
        (&self.file).take(line.len).read_to_end(&mut text)?;
        Ok(text)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a line says, if all of it can be read.
impl TryFrom<Record<'_>> for Change {
    type Error = io::Error;

    fn try_from(record: Record<'_>) -> io::Result<Self> {
        Ok(match record {
            Record::Letter(letter) => Self::Record(letter.try_into()?),
            Record::Resolved(key) => Self::Resolve(key.into()),
        })
    }
}

impl Change {
    fn key(&self) -> &EventKey {
        match self {
            Self::Record(letter) => &letter.key,
            Self::Resolve(key) => key,
        }
    }
}
