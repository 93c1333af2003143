//! What lies beside a SQLite file: its write-ahead log and index, and the mark of how far its log was shown.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::domain::event::{EventId, Timestamp};
use crate::domain::log::{LogId, MARGIN, Seen};

/// Device and inode.
pub(super) type FileId = (u64, u64);

pub(super) fn identity(file: &Metadata) -> FileId {
    (file.dev(), file.ino())
}

fn file_id(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().as_ref().map(identity)
}

/// The write-ahead log that an open connection uses.
///
/// SQLite finds it by its name alone. If another file takes the place of the database, the log of the old one would be
/// played into it.
pub(super) struct WriteAheadLog {
    path: PathBuf,
    id: Option<FileId>,
}

impl WriteAheadLog {
    /// That of a connection that has read something.
    pub fn of(database: &Path) -> Self {
        let path = beside(database, "-wal");
        Self { id: file_id(&path), path }
    }

    /// Whether it is still the one that is found by its name.
    pub fn is_current(&self) -> bool {
        self.id.is_none() || file_id(&self.path) == self.id
    }

    /// Another file has taken the place of `database`: what belongs to the old one is removed.
    pub fn discard(&self, database: &Path) {
        if self.id.is_some() && self.is_current() {
            // First the index, without which the log is only a file.
            for path in [&beside(database, "-shm"), &self.path] {
                if let Err(error) = fs::remove_file(path) {
                    log::warn!(file:% = path.display(), error:%; "what belongs to the former database file cannot be removed");
                }
            }
        }
    }
}

/// A file that says how far the log in a database file was shown: whoever sets back the one leaves the other.
///
/// It is written after each commit, before anybody is told, and brought to disk now and then: the end of a process
/// loses nothing of it, a loss of power less than [`MARGIN`] ids. Its name begins with a dot, so that who copies files
/// by a pattern does not take it along.
pub(super) struct HighWaterMark {
    path: PathBuf,
    file: Option<File>,
    synced: EventId,
    is_in_trouble: bool,
}

impl HighWaterMark {
    /// That of `database`.
    pub fn of(database: &Path) -> Self {
        let name = database.file_name().unwrap_or_default();
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(".mark");
        Self { path: database.with_file_name(hidden), file: None, synced: 0, is_in_trouble: false }
    }

    /// What it says; none if there is none.
    pub fn read(&self) -> Option<Seen> {
        let text = fs::read_to_string(&self.path).ok()?;
        let mut words = text.split_whitespace();
        let log = LogId::parse(words.next()?)?;
        let (last, at) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Seen { log, last, at: Timestamp(at) })
    }

    /// Writes down what was seen. A mark that cannot be written is no reason to refuse events: it is told once.
    pub fn write(&mut self, seen: &Seen) {
        let is_first = self.file.is_none();
        let is_far = seen.last.saturating_sub(self.synced) >= MARGIN / 2;
        let written = self.try_write(seen, is_first || is_far);
        if let Err(error) = &written
            && !self.is_in_trouble
        {
            log::warn!(file:% = self.path.display(), error:%; "the mark cannot be written: a database file that is set back may not be noticed");
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
        // Always of the same length, in one write: it is never half of one and half of another.
        file.write_all_at(format!("{} {:020} {:+021}\n", seen.log, seen.last, seen.at.0).as_bytes(), 0)?;
        if is_to_disk {
            file.sync_data()?;
            self.synced = seen.last;
        }
        Ok(())
    }
}

/// The file that has the name of the database and `suffix`.
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
