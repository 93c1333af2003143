//! One connection to either backend, set up for its use.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::{Connection as _, SqliteConnection};

use super::error::{StoreError, StoreErrorKind};
use super::options::{Durability, StoreOptions};
use super::session::PostgresSession;
use super::url::{StoreUrl, sqlite_uri};
use super::{postgres, sqlite};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Creates what is missing, if the options say so.
    Write,
    /// Changes nothing.
    Read,
}

/// An open connection.
pub(super) enum Connection {
    Sqlite(SqliteFile),
    Postgres(PostgresSession),
}

/// Runs one body on whichever backend `$connection` is: the same diesel query, compiled for both.
macro_rules! on_backend {
    ($connection:expr, $c:ident => $body:expr) => {
        match $connection {
            $crate::storage::connection::Connection::Sqlite($crate::storage::connection::SqliteFile {
                connection: $c,
                ..
            }) => $body,
            $crate::storage::connection::Connection::Postgres($crate::storage::session::PostgresSession {
                connection: $c,
                ..
            }) => $body,
        }
    };
}
pub(super) use on_backend;

impl Connection {
    /// Connects, with bounded waits everywhere.
    pub fn open(options: &StoreOptions, access: Access) -> Result<Self, StoreError> {
        match &options.url {
            StoreUrl::Sqlite(path) => SqliteFile::open(path, options, access).map(Self::Sqlite),
            StoreUrl::Postgres(url) => PostgresSession::open(url, options, access).map(Self::Postgres),
        }
    }

    /// Begins a transaction that writes; of all processes, one at a time has one open.
    pub fn begin(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(file) => sqlite::begin(&mut file.connection),
            Self::Postgres(session) => postgres::begin(session),
        }
    }

    /// Ends the transaction; what it wrote is durable.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        Ok(on_backend!(self, c => c.batch_execute("COMMIT"))?)
    }

    /// Fails if what is connected is no longer what the URL names.
    pub fn verify(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(file) => file.verify(),
            Self::Postgres(_) => Ok(()),
        }
    }
}

/// An open SQLite database, and which file it is.
pub(super) struct SqliteFile {
    pub connection: SqliteConnection,
    path: PathBuf,
    identity: (u64, u64),
}

impl SqliteFile {
    fn open(path: &Path, options: &StoreOptions, access: Access) -> Result<Self, StoreError> {
        let create = access == Access::Write && options.create;
        if create {
            create_directory(path)?;
        }
        let before = identity(path);
        if access == Access::Write && !create && before.is_none() {
            return Err(gone(path));
        }
        let mode = if create { "rwc" } else { "rw" };
        let mut connection = SqliteConnection::establish(&sqlite_uri(path, mode))?;
        set_up(&mut connection, options, access)?;
        let file = identity(path).filter(|after| before.is_none_or(|before| before == *after));
        let identity = file.ok_or_else(|| vanished(path))?;
        Ok(Self { connection, path: path.to_owned(), identity })
    }

    /// Fails if the file was deleted or replaced: what is written to it now would be lost.
    fn verify(&self) -> Result<(), StoreError> {
        if identity(&self.path) == Some(self.identity) { Ok(()) } else { Err(vanished(&self.path)) }
    }
}

/// SQLite does not wait for its lock to change the journal mode: a file that several open at once is tried again.
fn set_up(connection: &mut SqliteConnection, options: &StoreOptions, access: Access) -> Result<(), StoreError> {
    const PAUSE: Duration = Duration::from_millis(5);
    let begin = Instant::now();
    loop {
        match connection.batch_execute(&sqlite_settings(options, access)).map_err(StoreError::from) {
            Err(error) if error.kind == StoreErrorKind::Locked && begin.elapsed() < options.busy_timeout => {
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

fn sqlite_settings(options: &StoreOptions, access: Access) -> String {
    let busy = options.busy_timeout.as_millis();
    if access == Access::Read {
        return format!("PRAGMA busy_timeout = {busy}; PRAGMA query_only = ON; PRAGMA cache_size = -4096;");
    }
    let synchronous = match options.durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    format!(
        "PRAGMA busy_timeout = {busy}; PRAGMA journal_mode = WAL; \
         PRAGMA synchronous = {synchronous}; PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 4000; \
         PRAGMA journal_size_limit = 67108864;"
    )
}

fn create_directory(path: &Path) -> Result<(), StoreError> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull => StoreErrorKind::Full,
            std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => StoreErrorKind::ReadOnly,
            _ => StoreErrorKind::Unavailable,
        };
        StoreError::new(kind, format!("cannot create the directory {}: {error}", directory.display()))
    })
}

fn gone(path: &Path) -> StoreError {
    let message = format!("the database file {} is gone; restore it, or restart to begin anew", path.display());
    StoreError::new(StoreErrorKind::Unavailable, message)
}

/// Device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn vanished(path: &Path) -> StoreError {
    let message = format!("the database file {} was deleted or replaced while in use", path.display());
    StoreError::new(StoreErrorKind::Unavailable, message)
}
