//! A file that one process at a time appends to, while others may move it, delete it or cut it short.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The file, locked for as long as this lives.
///
/// There are two locks. The one on the data file holds whatever happens to names; the one on a file beside it holds while
/// the data file is being replaced by another.
#[derive(Debug)]
pub(crate) struct LockedFile {
    path: PathBuf,
    data: Locked,
    /// Where the next line goes.
    end: u64,
    /// Whether a failed write may have left something behind the end.
    is_spoilt: bool,
    /// Whether the file's name may not be on the disk yet: a line in a file without a name is lost in a power failure.
    is_unnamed: bool,
    _beside: Locked,
}

/// What has become of the file's name and length since the last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Same,
    /// The file was moved or deleted: its name leads to another one, or to none.
    Another,
    /// The file has lost its end, and has this many bytes now.
    Shorter(u64),
}

impl LockedFile {
    /// Opens the file, or creates it for its owner alone. A file that is there keeps its mode.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // One file has one lock, by whatever link it is reached. Only a file that is there has such a path.
        drop(open_data(path)?);
        let path = path.canonicalize()?;
        let beside = Locked::new(open_data(&with_suffix(&path, ".lock"))?)?;
        let data = Locked::data(open_data(&path)?)?;
        let end = data.0.metadata()?.len();
        let mut file = Self { path, data, end, is_spoilt: false, is_unnamed: true, _beside: beside };
        file.make_name_durable()?;
        Ok(file)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn created(&self) -> io::Result<std::time::SystemTime> {
        let metadata = self.data.0.metadata()?;
        metadata.created().or_else(|_| metadata.modified())
    }

    /// Looks whether the next line would be found where the ones before it are.
    pub(crate) fn look(&self) -> io::Result<Found> {
        let mine = self.data.0.metadata()?;
        let is_mine = match fs::metadata(&self.path) {
            Ok(there) => is_same(&there, &mine),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        Ok(if !is_mine {
            Found::Another
        } else if mine.len() < self.end {
            Found::Shorter(mine.len())
        } else {
            Found::Same
        })
    }

    /// Goes on with the file that the name leads to now, or with a new one of the same mode. Returns the one before.
    pub(crate) fn follow_name(&mut self) -> io::Result<Old> {
        let is_new = fs::metadata(&self.path).is_err();
        let data = Locked::data(open_data(&self.path)?)?;
        if is_new {
            data.0.set_permissions(self.data.0.metadata()?.permissions())?;
        }
        let end = data.0.metadata()?.len();
        let (is_spoilt, is_unnamed) = (self.is_spoilt, self.is_unnamed);
        (self.is_spoilt, self.is_unnamed) = (false, true);
        let old_end = std::mem::replace(&mut self.end, end);
        Ok(Old { data: std::mem::replace(&mut self.data, data), end: old_end, is_spoilt, is_unnamed })
    }

    /// Undoes [`follow_name`](Self::follow_name).
    pub(crate) fn go_back(&mut self, old: Old) {
        (self.data, self.end, self.is_spoilt, self.is_unnamed) = (old.data, old.end, old.is_spoilt, old.is_unnamed);
    }

    /// Leaves the file under another name, and begins a new one.
    pub(crate) fn leave_as(&mut self, name: &Path) -> io::Result<()> {
        fs::rename(&self.path, name)?;
        self.follow_name().map(drop)
    }

    /// Writes a file beside this one, and puts it in its place. If that fails, nothing of it stays.
    ///
    /// The function writes into the new file, and returns how long it is then.
    pub(crate) fn replace(&mut self, write: impl FnOnce(&mut Self, &mut File) -> io::Result<u64>) -> io::Result<()> {
        let new_path = self.replacement();
        let written = self.write_replacement(&new_path, write);
        if written.is_err() {
            // It may hold the last free space.
            let _ = fs::remove_file(&new_path);
        }
        (self.data, self.end) = written?;
        (self.is_spoilt, self.is_unnamed) = (false, true);
        // Should this fail, a crash may bring the old file back, which holds the same; the next append tries again.
        let _ = self.make_name_durable();
        Ok(())
    }

    fn write_replacement(
        &mut self,
        new_path: &Path,
        write: impl FnOnce(&mut Self, &mut File) -> io::Result<u64>,
    ) -> io::Result<(Locked, u64)> {
        let mut new = Locked::data(open_data(new_path)?)?;
        new.0.set_len(0)?;
        new.0.set_permissions(self.data.0.metadata()?.permissions())?;
        let end = write(self, &mut new.0)?;
        new.0.sync_all()?;
        fs::rename(new_path, &self.path)?;
        Ok((new, end))
    }

    /// Removes what a crash has left of a file that was to take this one's place.
    pub(crate) fn clear_replacement(&self) {
        let _ = fs::remove_file(self.replacement());
    }

    fn replacement(&self) -> PathBuf {
        with_suffix(&self.path, ".new")
    }

    /// Returns once the text is on the disk. If that fails, nothing of it counts, and what is there of it is overwritten.
    pub(crate) fn append(&mut self, text: &[u8]) -> io::Result<()> {
        self.make_name_durable()?;
        if self.is_spoilt {
            self.data.0.set_len(self.end)?;
        }
        self.is_spoilt = true;
        self.data.0.seek(SeekFrom::Start(self.end))?;
        if let Err(error) = self.data.0.write_all(text).and_then(|()| self.data.0.sync_data()) {
            // If this fails too, what stays is overwritten, or cut off when the file is opened again.
            self.is_spoilt = self.data.0.set_len(self.end).is_err();
            return Err(error);
        }
        self.is_spoilt = false;
        self.end += text.len() as u64;
        Ok(())
    }

    /// Cuts the file off, also where it is longer than is known here.
    pub(crate) fn cut_off(&mut self, end: u64) -> io::Result<()> {
        self.data.0.set_len(end)?;
        self.data.0.sync_all()?;
        self.end = end;
        Ok(())
    }

    /// Reads this many bytes, and fails where there are fewer.
    pub(crate) fn read(&mut self, start: u64, len: u64) -> io::Result<Vec<u8>> {
        self.data.read(start, len)
    }

    /// A reader from the beginning.
    pub(crate) fn reader(&self) -> io::Result<File> {
        let mut file = self.data.0.try_clone()?;
        file.rewind()?;
        Ok(file)
    }

    /// The bytes behind the last line break, and where they begin.
    pub(crate) fn tail(&mut self) -> io::Result<(u64, Vec<u8>)> {
        const BLOCK: u64 = 64 * 1024;
        let (mut start, mut tail) = (self.end, Vec::new());
        while start > 0 {
            let len = start.min(BLOCK);
            let mut block = self.read(start - len, len)?;
            let found = block.iter().rposition(|byte| *byte == b'\n');
            let rest = block.split_off(found.map_or(0, |found| found + 1));
            start -= rest.len() as u64;
            tail.splice(..0, rest);
            if found.is_some() {
                break;
            }
        }
        Ok((start, tail))
    }

    fn make_name_durable(&mut self) -> io::Result<()> {
        if self.is_unnamed {
            sync_directory(&self.path)?;
            self.is_unnamed = false;
        }
        Ok(())
    }
}

/// A file that another one is taking the place of.
#[derive(Debug)]
pub(crate) struct Old {
    data: Locked,
    end: u64,
    is_spoilt: bool,
    is_unnamed: bool,
}

impl Old {
    pub(crate) fn read(&mut self, start: u64, len: u64) -> io::Result<Vec<u8>> {
        self.data.read(start, len)
    }
}

/// An open file with a lock that keeps other processes, and other handles of this one, away.
#[derive(Debug)]
struct Locked(File);

impl Locked {
    fn new(file: File) -> io::Result<Self> {
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(io::Error::other("another process, or this one, has it open already")),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Where a lock keeps readers away as well, that on the file beside it has to do.
    fn data(file: File) -> io::Result<Self> {
        if cfg!(unix) { Self::new(file) } else { Ok(Self(file)) }
    }

    fn read(&mut self, start: u64, len: u64) -> io::Result<Vec<u8>> {
        self.0.seek(SeekFrom::Start(start))?;
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing the file is not enough while a process is being spawned, which for a moment has it open as well.
        let _ = self.0.unlock();
    }
}

/// Opens a file to read and write, and creates it for its owner alone. One that is there keeps its mode; anything but a
/// file, such as a device, is refused before it is opened.
fn open_data(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(unix)]
fn is_same(there: &fs::Metadata, mine: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (there.dev(), there.ino()) == (mine.dev(), mine.ino())
}

/// Where an open file can be neither moved nor deleted, its name leads to it.
#[cfg(not(unix))]
fn is_same(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

/// Makes the names in the file's directory durable, where the system has such a thing.
fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
