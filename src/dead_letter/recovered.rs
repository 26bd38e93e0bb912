//! What a file of dead letters holds when it is opened: letters, lines that cannot be read, and a torn end.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};

use super::DeadLetter;
use super::journal::{Entry, Line};
use super::record::Record;
use crate::event::EventKey;
use crate::locked_file::LockedFile;
use crate::logging::TARGET;

/// What a file holds.
pub(super) struct Recovered {
    pub(super) entries: BTreeMap<EventKey, Entry>,
    pub(super) unreadable: Vec<Line>,
    pub(super) garbage: u64,
}

impl Recovered {
    /// Reads every line, and cuts off a last one that was torn.
    pub(super) fn from(file: &mut LockedFile) -> io::Result<Self> {
        let mut reader = BufReader::new(file.reader()?);
        let (mut entries, mut unreadable) = (BTreeMap::new(), Vec::new());
        let (mut end, mut text) = (0, Vec::new());
        loop {
            text.clear();
            let len = reader.read_until(b'\n', &mut text)? as u64;
            if len == 0 {
                break;
            }
            let mut line = Line { start: end, len };
            let record = Record::read(&text);
            if text.last() != Some(&b'\n') {
                if record.is_err() {
                    if !is_torn(&text) {
                        return Err(io::Error::other("it has other content than dead letters"));
                    }
                    let path = file.path().display();
                    let message = "dropped the torn last line of the dead-letter file";
                    tracing::warn!(target: TARGET, %path, bytes = len, "{message}");
                    file.cut_off(line.start)?;
                    break;
                }
                // Not torn by a crash: an editor took the line break away.
                file.append(b"\n")?;
                line.len += 1;
            }
            let read = match record {
                Ok(Record::Letter(stored)) => {
                    // Listed by its key, also where the rest of it cannot be read.
                    entries.insert(stored.key(), Entry { line, history: stored.history() });
                    DeadLetter::try_from(stored).map(drop)
                }
                Ok(Record::Resolved { endpoint, event_id }) => {
                    entries.remove(&EventKey::new(endpoint, event_id));
                    Ok(())
                }
                Err(error) => {
                    unreadable.push(line);
                    Err(error)
                }
            };
            if let Err(error) = read {
                let (path, at) = (file.path().display(), line.start);
                let message = "a line of the dead-letter file cannot be read; it is kept";
                tracing::error!(target: TARGET, %path, at, %error, "{message}");
            }
            end += line.len;
        }
        let kept = entries.values().map(|entry| entry.line).chain(unreadable.iter().copied());
        let garbage = end - kept.map(|line| line.len).sum::<u64>();
        Ok(Self { entries, unreadable, garbage })
    }

    pub(super) fn unreadable_bytes(&self, file: &mut LockedFile) -> io::Result<Vec<Vec<u8>>> {
        self.unreadable.iter().map(|line| file.read(line.start, line.len)).collect()
    }
}

/// Whether this is what a crash leaves of a line: its beginning, or zeros that were never written.
fn is_torn(text: &[u8]) -> bool {
    let zeros = text.iter().rev().take_while(|byte| **byte == 0).count();
    let text = text.get(..text.len() - zeros).unwrap_or_default();
    Record::STARTS.iter().any(|start| start.starts_with(text) || text.starts_with(start))
}
