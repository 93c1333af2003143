//! The files beside a SQLite database: its write-ahead log, its shared-memory index, and the high-water mark of this
//! program.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::domain::event::{EventId, Timestamp};
use crate::domain::log::{LogId, MARGIN, Seen};

/// The device and the inode of a file. Together they identify it, whatever its name.
pub(super) type FileId = (u64, u64);

pub(super) fn identity(file: &Metadata) -> FileId {
    (file.dev(), file.ino())
}

fn file_id(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().as_ref().map(identity)
}

/// The write-ahead log that an open connection uses.
///
/// SQLite finds the write-ahead log by its name alone. If another file takes the place of the database, SQLite would
/// replay the log of the old file into the new one.
pub(super) struct WriteAheadLog {
    path: PathBuf,
    id: Option<FileId>,
}

impl WriteAheadLog {
    /// The write-ahead log of an open connection. The connection must have read something, because only then does the
    /// file exist.
    pub fn of(database: &Path) -> Self {
        let path = beside(database, "-wal");
        Self { id: file_id(&path), path }
    }

    /// Whether the name still leads to the file that the connection uses.
    pub fn is_current(&self) -> bool {
        self.id.is_none() || file_id(&self.path) == self.id
    }

    /// Removes the write-ahead log and the index of the old file. To be called when another file has taken the place of
    /// `database`.
    pub fn discard(&self, database: &Path) {
        if self.id.is_some() && self.is_current() {
            // The index goes first: without it SQLite ignores the log.
            for path in [&beside(database, "-shm"), &self.path] {
                if let Err(error) = fs::remove_file(path) {
                    log::warn!(file:% = path.display(), error:%; "a file of the former database cannot be removed");
                }
            }
        }
    }
}

/// The high-water mark: a hidden file that says up to which id events were shown to anybody. A database file that is
/// restored from an older copy does not take it along, so that the loss is noticed and no id is given out twice.
///
/// It is written after each commit and before the commit is announced. It is synced only now and then: the end of the
/// process loses nothing of it, and a loss of power loses less than [`MARGIN`] ids. Its name begins with a dot, so that
/// copying files by a pattern leaves it out.
pub(super) struct HighWaterMark {
    path: PathBuf,
    file: Option<File>,
    synced: EventId,
    is_in_trouble: bool,
}

impl HighWaterMark {
    /// The mark of the database file `database`.
    pub fn of(database: &Path) -> Self {
        let name = database.file_name().unwrap_or_default();
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(".mark");
        Self { path: database.with_file_name(hidden), file: None, synced: 0, is_in_trouble: false }
    }

    /// Reads the mark. `None` means that the file is missing or damaged.
    pub fn read(&self) -> Option<Seen> {
        let text = fs::read_to_string(&self.path).ok()?;
        let mut words = text.split_whitespace();
        let log = LogId::parse(words.next()?)?;
        let (last, at) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Seen { log, last, at: Timestamp(at) })
    }

    /// Writes the mark. An error does not refuse events, because the mark only detects a rare mistake; the first of
    /// several errors is logged.
    pub fn write(&mut self, seen: &Seen) {
        let is_first = self.file.is_none();
        let is_far = seen.last.saturating_sub(self.synced) >= MARGIN / 2;
        let written = self.try_write(seen, is_first || is_far);
        if let Err(error) = &written
            && !self.is_in_trouble
        {
            log::warn!(file:% = self.path.display(), error:%; "the high-water mark cannot be written: the restore of an older database file may go unnoticed");
        }
        self.is_in_trouble = written.is_err();
    }

    fn try_write(&mut self, seen: &Seen, is_to_disk: bool) -> std::io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                let open = fs::OpenOptions::new().create(true).write(true).truncate(false).open(&self.path)?;
                self.file.insert(open)
            }
        };
        // All marks have the same length and are written at once, so that a reader never finds parts of two.
        file.write_all_at(format!("{} {:020} {:+021}\n", seen.log, seen.last, seen.at.0).as_bytes(), 0)?;
        if is_to_disk {
            file.sync_data()?;
            self.synced = seen.last;
        }
        Ok(())
    }
}

/// The path of `path` with `suffix` appended to the file name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_what_was_written_last() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let database = dir.path().join("events.db");
        let mut mark = HighWaterMark::of(&database);
        assert_eq!(mark.read(), None);
        for (last, at) in [(1, 5), (i64::MAX, i64::MAX), (2, -7), (0, 0)] {
            let seen = Seen { log: LogId::new(7), last, at: Timestamp(at) };
            mark.write(&seen);
            assert_eq!((mark.read(), HighWaterMark::of(&database).read()), (Some(seen), Some(seen)));
        }
        fs::write(dir.path().join(".events.db.mark"), "damaged").expect("written");
        assert_eq!(mark.read(), None);
    }
}
