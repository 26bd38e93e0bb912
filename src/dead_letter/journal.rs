//! The file behind [`FileDeadLetters`](super::FileDeadLetters): lines that are appended, synced, and compacted.
//!
//! What is in memory is where each letter stands in the file, not the letter.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufWriter, Write};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::record::{Record, StoredLetter};
use super::recovered::Recovered;
use super::{DeadLetter, History, ListedLetter, UnreadableLetter};
use crate::event::EventKey;
use crate::locked_file::{Found, LockedFile};
use crate::logging::TARGET;
use crate::storage::StoreError;

/// What can happen to a letter.
pub(super) enum Change {
    Record(DeadLetter),
    Resolve(EventKey),
}

/// Which letters are not resolved, and where their lines are, in the order in which they are listed.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: BTreeMap<EventKey, Entry>,
    /// Letters that are on their way to the file, and how often.
    queued: HashMap<EventKey, usize>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) line: Line,
    pub(super) history: History,
}

/// A line's bytes in the file, with its line break.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Index {
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
    file: LockedFile,
    /// How many bytes of the file are not needed any more: resolved letters, and lines with a newer one.
    garbage: u64,
    index: Arc<Mutex<Index>>,
    /// Lines that cannot be read. They are reported, and kept: a newer version of the crate may read them.
    unreadable: Vec<Line>,
    /// When compaction may be tried again after it has failed.
    compact_after: Option<Instant>,
}

/// Less garbage is not worth compacting while the file is in use.
const COMPACT_FROM_BYTES: u64 = 1024 * 1024;

/// How long a compaction that has failed, for want of space perhaps, is left alone.
const COMPACT_AGAIN_AFTER: Duration = Duration::from_secs(60);

impl Journal {
    pub(super) fn open(path: &Path, index: Arc<Mutex<Index>>) -> io::Result<Self> {
        let mut file = LockedFile::open(path)?;
        file.clear_replacement();
        let Recovered { entries, unreadable, garbage } = Recovered::from(&mut file)?;
        let mut journal = Self { file, garbage, index, unreadable, compact_after: None };
        journal.index().entries = entries;
        if journal.garbage > 0 {
            journal.try_to_compact();
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

    /// Finds the place for the next line, where the letters are that this process knows.
    fn find_place(&mut self) -> io::Result<()> {
        match self.file.look()? {
            Found::Same => Ok(()),
            Found::Another => self.write_again(),
            Found::Shorter(len) => {
                let (path, known) = (self.file.path().display(), self.file.end());
                Err(io::Error::other(format!(
                    "{path} was cut from {known} to {len} bytes while it was in use, and dead letters with it; nothing is \
                     written before the file is whole again or the process has been restarted"
                )))
            }
        }
    }

    /// Writes every letter into the file that the name leads to now, since the one before was moved or deleted. What that
    /// file holds stays, but for letters with the same keys.
    fn write_again(&mut self) -> io::Result<()> {
        let mut old = self.file.follow_name()?;
        let written = (|| {
            let mut found = Recovered::from(&mut self.file)?;
            let mut text = Vec::new();
            let end = self.file.end();
            let mut place = |bytes: Vec<u8>| {
                let line = Line { start: end + text.len() as u64, len: bytes.len() as u64 };
                text.extend(bytes);
                line
            };
            for line in &self.unreadable {
                let bytes = old.read(line.start, line.len)?;
                if !found.unreadable_bytes(&mut self.file)?.contains(&bytes) {
                    found.unreadable.push(place(bytes));
                }
            }
            let entries = self.index().entries.clone();
            for (key, entry) in entries {
                let bytes = old.read(entry.line.start, entry.line.len)?;
                let entry = Entry { line: place(bytes), ..entry };
                found.garbage += found.entries.insert(key, entry).map_or(0, |there| there.line.len);
            }
            self.file.append(&text)?;
            Ok::<_, io::Error>(found)
        })();
        match written {
            Ok(Recovered { entries, unreadable, garbage }) => {
                let (path, letters) = (self.file.path().display(), entries.len());
                let message =
                    "the dead-letter file was moved or deleted while it was in use; its letters were written again";
                tracing::warn!(target: TARGET, %path, letters, "{message}");
                (self.unreadable, self.garbage) = (unreadable, garbage);
                self.index().entries = entries;
                Ok(())
            }
            Err(error) => {
                self.file.go_back(old);
                Err(error)
            }
        }
    }

    fn append_changes(&mut self, changes: &[Change]) -> io::Result<()> {
        self.find_place()?;
        let mut text = Vec::new();
        let mut after: HashMap<&EventKey, Option<Entry>> = HashMap::new();
        for change in changes {
            let start = self.file.end() + text.len() as u64;
            let key = change.key();
            let before = after.get(key).cloned().unwrap_or_else(|| self.index().entries.get(key).cloned());
            let entry = match (change, before) {
                (Change::Resolve(_), None) => continue,
                (Change::Resolve(_), Some(_)) => {
                    let (endpoint, event_id) = (key.endpoint().into(), key.event_id().into());
                    Record::Resolved { endpoint, event_id }.append_to(&mut text)?;
                    None
                }
                (Change::Record(letter), before) => {
                    let letter = before.iter().fold(letter.clone(), |letter, entry| letter.after(&entry.history));
                    Record::Letter(StoredLetter::new(&letter)).append_to(&mut text)?;
                    let len = self.file.end() + text.len() as u64 - start;
                    Some(Entry { line: Line { start, len }, history: letter.history() })
                }
            };
            after.insert(key, entry);
        }
        if text.is_empty() {
            return Ok(());
        }
        self.file.append(&text)?;
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

    /// Resolves a letter that is still as it was read.
    pub(super) fn discard(&mut self, letter: &DeadLetter) -> io::Result<bool> {
        let is_same = self.get(&letter.key)?.is_some_and(|kept| kept == *letter);
        if is_same {
            self.write(&[Change::Resolve(letter.key.clone())])?;
        }
        Ok(is_same)
    }

    /// A page costs no more than its letters, however many there are.
    pub(super) fn list(&mut self, endpoint: &str, after: Option<&str>, limit: usize) -> Vec<ListedLetter> {
        // No id is empty, so what comes behind the empty one is all.
        let first = Bound::Excluded(EventKey::new(endpoint, after.unwrap_or_default()));
        let entries: Vec<(EventKey, Line)> = {
            let index = self.index();
            let following = index.entries.range((first, Bound::Unbounded));
            let following = following.take_while(|(key, _)| key.endpoint() == endpoint).take(limit);
            following.map(|(key, entry)| (key.clone(), entry.line)).collect()
        };
        let read = |(key, line)| self.read(line).map_err(|error| UnreadableLetter::new(key, StoreError::new(error)));
        entries.into_iter().map(read).collect()
    }

    /// Leaves nothing of a letter that was resolved: it held personal data.
    pub(super) fn close(&mut self) {
        if self.garbage > 0 {
            self.try_to_compact();
        }
    }

    pub(super) fn compact_if_due(&mut self) {
        let is_due = self.garbage >= COMPACT_FROM_BYTES && self.garbage >= self.file.end() / 2;
        if is_due && self.compact_after.is_none_or(|time| Instant::now() >= time) {
            self.try_to_compact();
        }
    }

    /// Compaction is housekeeping: where it cannot be done, every letter is as safe as before.
    fn try_to_compact(&mut self) {
        self.compact_after = None;
        // Where the name leads to another file, the next write sees to it.
        if !matches!(self.file.look(), Ok(Found::Same)) {
            return;
        }
        if let Err(error) = self.compact() {
            let path = self.file.path().display();
            let message =
                "the dead-letter file could not be compacted; it goes on growing, and compaction is tried again later";
            tracing::warn!(target: TARGET, %path, %error, "{message}");
            self.compact_after = Some(Instant::now() + COMPACT_AGAIN_AFTER);
        }
    }

    /// Puts the lines that are needed into a new file, and that file in the place of the old one.
    fn compact(&mut self) -> io::Result<()> {
        let mut entries: Vec<(EventKey, Entry)> = {
            let index = self.index();
            index.entries.iter().map(|(key, entry)| (key.clone(), entry.clone())).collect()
        };
        entries.sort_unstable_by_key(|(_, entry)| entry.line.start);
        let mut unreadable = self.unreadable.clone();
        self.file.replace(|old, new| {
            let (mut new, mut end) = (BufWriter::new(new), 0);
            for line in unreadable.iter_mut().chain(entries.iter_mut().map(|(_, entry)| &mut entry.line)) {
                new.write_all(&old.read(line.start, line.len)?)?;
                line.start = end;
                end += line.len;
            }
            new.flush()?;
            Ok(end)
        })?;
        (self.garbage, self.unreadable) = (0, unreadable);
        self.index().entries = entries.into_iter().collect();
        Ok(())
    }

    fn read(&mut self, line: Line) -> io::Result<DeadLetter> {
        let text = self.file.read(line.start, line.len)?;
        match Record::read(&text)? {
            Record::Letter(stored) => stored.try_into(),
            Record::Resolved { .. } => Err(io::Error::other("the file was changed while it was in use")),
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
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
