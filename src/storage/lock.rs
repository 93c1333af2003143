//! One process for each SQLite file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use super::beside::beside;
use super::connection;
use super::error::{StoreError, StoreErrorKind};
use super::options::StoreOptions;
use super::url::StoreUrl;

/// The right to use a SQLite file, which no other process has meanwhile. PostgreSQL takes any number of processes.
///
/// It is a lock of the system on a file beside the database, which goes with the process, however that ends. The file
/// stays: whoever removed it might remove the one that another process has just locked.
#[derive(Debug)]
#[must_use = "given back when dropped"]
pub struct StoreLock(Option<File>);

impl StoreLock {
    /// Takes the lock, and makes the default directory if it is missing.
    ///
    /// [`StoreErrorKind::Locked`]: another process has it, and is named.
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
        // For whoever finds it locked; the lock holds without it.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self(Some(file)))
    }

    /// Keeps the lock until the process has ended.
    pub fn keep(self) {
        std::mem::forget(self.0);
    }
}

/// Beside the database itself, whichever way leads there.
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
