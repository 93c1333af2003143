//! The lock that keeps a second process away from a SQLite file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use super::beside::beside;
use super::connection;
use super::error::{StoreError, StoreErrorKind};
use super::options::StoreOptions;
use super::url::StoreUrl;

/// The exclusive right to use a SQLite file. PostgreSQL needs no such lock, because several processes may share a
/// database.
///
/// It is a lock of the operating system on a file beside the database, and ends with the process in every case. The
/// file is never removed: another process might just have locked it.
#[derive(Debug)]
#[must_use = "given back when dropped"]
pub struct StoreLock(Option<File>);

impl StoreLock {
    /// Takes the lock. Creates the default directory if it is missing.
    ///
    /// Fails with [`StoreErrorKind::Locked`] if another process has it, and names that process.
    pub fn take(options: &StoreOptions) -> Result<Self, StoreError> {
        let StoreUrl::Sqlite(path) = &options.url else { return Ok(Self(None)) };
        connection::prepare(path)?;
        let lock = lock_path(path);
        let mut open = OpenOptions::new();
        let mut file = open.read(true).write(true).create(true).truncate(false).open(&lock).map_err(cannot(&lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(path, &mut file)),
            Err(TryLockError::Error(error)) => return Err(cannot(&lock)(error)),
        }
        // The process id only informs whoever finds the file locked, so errors are ignored.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self(Some(file)))
    }

    /// Keeps the lock until the process ends.
    pub fn keep(self) {
        std::mem::forget(self.0);
    }
}

/// The lock file of the real database file, so that all paths and links to it share one lock.
fn lock_path(path: &Path) -> PathBuf {
    beside(&path.canonicalize().unwrap_or_else(|_| path.to_owned()), ".lock")
}

fn held(path: &Path, file: &mut File) -> StoreError {
    let mut holder = String::new();
    let _ = file.take(32).read_to_string(&mut holder);
    let holder = match holder.trim() {
        "" => "another process".to_owned(),
        pid => format!("process {pid}"),
    };
    let message = format!("the database file {} is in use by {holder}", path.display());
    StoreError::new(StoreErrorKind::Locked, message)
}

fn cannot(lock: &Path) -> impl Fn(io::Error) -> StoreError {
    move |error| connection::cannot("lock", lock, &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_whichever_way_leads_there() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (path, link) = (dir.path().join("events.db"), dir.path().join("link.db"));
        std::fs::write(&path, "").expect("a file");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        let options = |path: &Path| StoreOptions::new(StoreUrl::Sqlite(path.to_owned()));
        let lock = StoreLock::take(&options(&path)).expect("free");
        let error = StoreLock::take(&options(&link)).expect_err("held");
        assert_eq!(error.kind, StoreErrorKind::Locked);
        let holder = format!("is in use by process {}", std::process::id());
        assert!(error.message.ends_with(&holder), "{error}");
        drop(lock);
        drop(StoreLock::take(&options(&link)).expect("free again"));
    }
}
