//! Finished files, compressed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::locked_file::with_suffix;
use crate::logging::TARGET;

/// A thread that compresses one file after the other, so that no event waits for it.
pub(super) struct Compressor {
    /// Both are there until it is dropped.
    files: Option<mpsc::Sender<PathBuf>>,
    thread: Option<JoinHandle<()>>,
}

impl Compressor {
    /// Begins with the files that an earlier process has left, whose names begin with the stem.
    pub(super) fn start(stem: &Path) -> Self {
        let (files, queue) = mpsc::channel::<PathBuf>();
        finished(stem).into_iter().for_each(|left| drop(files.send(left)));
        let compress_all = move || {
            for file in queue {
                if let Err(error) = compress(&file) {
                    let path = file.display();
                    let message = "a finished file of events could not be compressed; it stays as it is";
                    tracing::warn!(target: TARGET, %path, %error, "{message}");
                }
            }
        };
        // Without the thread the files stay as they are, which loses nothing.
        let thread = thread::Builder::new().name("sendarix-gzip".to_owned()).spawn(compress_all).ok();
        Self { files: Some(files), thread }
    }

    pub(super) fn compress(&self, file: PathBuf) {
        if let Some(files) = &self.files {
            let _ = files.send(file);
        }
    }
}

/// Waits for the files that are on their way.
impl Drop for Compressor {
    fn drop(&mut self) {
        drop(self.files.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The files `STEM.TIME.jsonl`.
fn finished(stem: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (stem.parent(), stem.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_finished = |path: &PathBuf| {
        let time = path
            .file_name()
            .and_then(|file| file.to_str()?.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".jsonl"));
        time.is_some_and(|time| time.starts_with(|first: char| first.is_ascii_digit()) && time.contains('T'))
    };
    entries.filter(is_finished).collect()
}

/// Puts the compressed file in the place of the other, once it is on the disk.
fn compress(path: &Path) -> io::Result<()> {
    let (part, done) = (with_suffix(path, ".gz.part"), with_suffix(path, ".gz"));
    let mut from = File::open(path)?;
    // As private as the file itself.
    let to = File::create(&part)?;
    to.set_permissions(from.metadata()?.permissions())?;
    let mut encoder = GzEncoder::new(to, Compression::default());
    io::copy(&mut from, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::rename(&part, &done)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    fs::remove_file(path)
}
