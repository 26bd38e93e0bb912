//! The file that grows, and how it makes place for the next.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;

use super::JsonLinesBuilder;
use crate::event::Timestamp;
use crate::locked_file::{Found, LockedFile, with_suffix};
use crate::logging::TARGET;

/// The first bytes of each line.
const LINE_START: &[u8] = b"{\"event_id\":";

/// The file that grows.
pub(super) struct Lines {
    file: LockedFile,
    /// When its first line came.
    since: SystemTime,
    max_bytes: u64,
    max_age: Duration,
    /// Whether the file may end with what is no line.
    is_unchecked: bool,
    /// Whether finished files are compressed.
    #[cfg(feature = "gzip")]
    compressor: Option<super::gzip::Compressor>,
}

impl Lines {
    pub(super) fn open(settings: &JsonLinesBuilder) -> io::Result<Self> {
        let JsonLinesBuilder { path, max_bytes, max_age, .. } = settings;
        let file = LockedFile::open(path)?;
        let since = file.created()?;
        let mut lines = Self {
            since,
            max_bytes: *max_bytes,
            max_age: *max_age,
            is_unchecked: true,
            #[cfg(feature = "gzip")]
            compressor: settings.compressed.then(|| super::gzip::Compressor::start(&stem(file.path()))),
            file,
        };
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
                tracing::warn!(target: TARGET, %path, len, "{message}");
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
    pub(super) fn append(&mut self, lines: &[&[u8]]) -> io::Result<()> {
        self.find_place()?;
        self.rotate_if_over()?;
        let is_first = self.file.end() == 0;
        self.file.append(&lines.concat())?;
        if is_first {
            self.since = SystemTime::now();
        }
        Ok(())
    }

    pub(super) fn room(&self) -> u64 {
        self.max_bytes.saturating_sub(if self.is_over() { 0 } else { self.file.end() })
    }

    fn is_over(&self) -> bool {
        let age = self.since.elapsed().unwrap_or_default();
        self.file.end() > 0 && (self.file.end() >= self.max_bytes || age >= self.max_age)
    }

    /// Leaves the file under a name that tells when, for the loader, and begins another.
    pub(super) fn rotate_if_over(&mut self) -> io::Result<()> {
        if !self.is_over() || self.file.look()? != Found::Same {
            return Ok(());
        }
        let stem = stem(self.file.path());
        let now = Timestamp::from(SystemTime::now()).to_string().replace(':', "-");
        let names = (0..).map(|again| {
            let again = if again == 0 { String::new() } else { format!("-{again}") };
            with_suffix(&stem, &format!(".{now}{again}.jsonl"))
        });
        let is_free = |name: &PathBuf| !name.exists() && !with_suffix(name, ".gz").exists();
        let finished = names.into_iter().find(is_free).unwrap_or_default();
        self.file.leave_as(&finished)?;
        self.since = SystemTime::now();
        #[cfg(feature = "gzip")]
        if let Some(compressor) = &self.compressor {
            compressor.compress(finished);
        }
        Ok(())
    }
}

/// What the names of finished files begin with.
fn stem(path: &Path) -> PathBuf {
    match path.extension() {
        Some(extension) if extension == "jsonl" => path.with_extension(""),
        _ => path.to_owned(),
    }
}
