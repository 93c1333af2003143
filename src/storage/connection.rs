//! A connection to SQLite or PostgreSQL, with the settings for its use.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::{Connection as _, SqliteConnection};

use super::beside::{FileId, WriteAheadLog, beside, identity};
use super::error::{StoreError, StoreErrorKind};
use super::options::{Access, Durability, StoreOptions};
use super::session::PostgresSession;
use super::url::{StoreUrl, sqlite_uri};
use super::{postgres, sqlite};

/// The first bytes of every SQLite database that is not empty.
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";

pub(super) enum Connection {
    Sqlite(SqliteFile),
    Postgres(PostgresSession),
}

/// Runs one diesel query on either backend: `$body` is compiled once for each, with `$c` as its connection.
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
    /// Connects. Every wait on the connection has a bound.
    pub fn open(options: &StoreOptions, access: Access) -> Result<Self, StoreError> {
        match &options.url {
            StoreUrl::Sqlite(path) => SqliteFile::open(path, options, access).map(Self::Sqlite),
            StoreUrl::Postgres(url) => PostgresSession::open(url, options, access).map(Self::Postgres),
        }
    }

    /// Begins a writing transaction. Only one process at a time can have one open; the others wait for its lock.
    pub fn begin(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(file) => sqlite::begin(&mut file.connection),
            Self::Postgres(session) => postgres::begin(session),
        }
    }

    /// Commits the transaction. When this returns, its writes are durable.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        Ok(on_backend!(self, c => c.batch_execute("COMMIT"))?)
    }

    /// The same, and notifies the other nodes of how far the log reaches now; `generation` is that of this node.
    pub fn commit_and_notify(&mut self, generation: i64) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(_) => self.commit(),
            Self::Postgres(session) => postgres::commit_and_notify(session, generation),
        }
    }

    /// Rolls back the transaction, if one is open. Returns whether the connection can still be used.
    pub fn roll_back(&mut self) -> bool {
        match on_backend!(self, c => c.batch_execute("ROLLBACK")) {
            Ok(()) => true,
            // This is what SQLite answers when no transaction was open.
            Err(error) => error.to_string().contains("no transaction is active"),
        }
    }

    /// Fails if the database was replaced or truncated since the connection was opened.
    pub fn verify(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(file) => file.verify(),
            Self::Postgres(_) => Ok(()),
        }
    }

    /// Like [`Self::verify`], but after a write, which may change the size of the file.
    pub fn verify_written(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(file) => file.verify_written(),
            Self::Postgres(_) => Ok(()),
        }
    }
}

/// An open SQLite database, and the identity of its file.
pub(super) struct SqliteFile {
    pub connection: SqliteConnection,
    path: PathBuf,
    state: FileState,
    write_ahead: WriteAheadLog,
}

/// What the file system says of a file.
#[derive(Debug, Clone, Copy)]
struct FileState {
    identity: FileId,
    /// In bytes.
    length: u64,
}

impl FileState {
    fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|file| Self { identity: identity(&file), length: file.len() })
    }
}

impl SqliteFile {
    fn open(path: &Path, options: &StoreOptions, access: Access) -> Result<Self, StoreError> {
        let create = access == Access::Write && options.create;
        if create {
            prepare(path)?;
        }
        let before = FileState::of(path);
        if access == Access::Write && !create && before.is_none() {
            return Err(gone(path));
        }
        // SQLite would treat an empty file as a new database and delete the write-ahead log beside it.
        let is_empty = before.is_some_and(|file| file.length == 0);
        if is_empty && (!create || FileState::of(&beside(path, "-wal")).is_some_and(|log| log.length > 0)) {
            return Err(truncated(path));
        }
        let mode = if create { "rwc" } else { "rw" };
        let mut connection = SqliteConnection::establish(&sqlite_uri(path, mode))?;
        // An empty database just takes this setting; later SQLite would have to rebuild the file for it.
        if create && (is_empty || before.is_none()) {
            let busy = options.busy_timeout.as_millis();
            connection.batch_execute(&format!("PRAGMA busy_timeout = {busy}; PRAGMA auto_vacuum = INCREMENTAL"))?;
        }
        set_up(&mut connection, options, access)?;
        let is_same = |after: &FileState| before.is_none_or(|before| before.identity == after.identity);
        let state = FileState::of(path).filter(is_same).ok_or_else(|| vanished(path))?;
        // The first read creates the write-ahead log, whose identity is noted below.
        connection.batch_execute("SELECT 1 FROM sqlite_schema LIMIT 1")?;
        Ok(Self { connection, path: path.to_owned(), state, write_ahead: WriteAheadLog::of(path) })
    }

    /// Fails if the file was deleted, replaced or truncated, because a write to it would be lost.
    fn verify(&self) -> Result<(), StoreError> {
        let now = self.current()?;
        if now.length < self.state.length { Err(truncated(&self.path)) } else { Ok(()) }
    }

    /// Like [`Self::verify`], but takes the present size as the new one: the write may have released pages.
    fn verify_written(&mut self) -> Result<(), StoreError> {
        self.state = self.current()?;
        Ok(())
    }

    /// The size of the file in bytes.
    pub fn length(&self) -> Result<u64, StoreError> {
        self.current().map(|file| file.length)
    }

    fn current(&self) -> Result<FileState, StoreError> {
        match FileState::of(&self.path) {
            Some(now) if now.identity == self.state.identity && self.write_ahead.is_current() => return Ok(now),
            Some(now) if now.identity != self.state.identity => self.write_ahead.discard(&self.path),
            _ => {}
        }
        Err(vanished(&self.path))
    }
}

/// Checkpoints the write-ahead log into the database file and closes it, so that a copy of this one file is the whole
/// store. Waits for other readers and writers up to the busy timeout. PostgreSQL needs no such step.
pub fn close(options: &StoreOptions) -> Result<(), StoreError> {
    let StoreUrl::Sqlite(_) = &options.url else { return Ok(()) };
    let options = StoreOptions { create: false, ..options.clone() };
    match Connection::open(&options, Access::Write)? {
        Connection::Sqlite(mut file) => sqlite::checkpoint(&mut file.connection),
        Connection::Postgres(_) => Ok(()),
    }
}

/// Applies the settings. SQLite does not wait for its lock when it changes the journal mode, so this retries while
/// other connections open the same file.
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
    if access != Access::Write {
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

/// Creates the default directory if it is missing, and fails early if no database can be opened or created at `path`.
pub(super) fn prepare(path: &Path) -> Result<(), StoreError> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if Some(directory) == Path::new(StoreUrl::DEFAULT_FILE).parent() {
        fs::create_dir_all(directory).map_err(|error| cannot("create the directory", directory, &error))?;
    }
    let unusable = |why: String| Err(StoreError::new(StoreErrorKind::Unusable, why));
    if !directory.is_dir() {
        return unusable(format!("there is no directory {}", directory.display()));
    }
    let mut head = Vec::new();
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot("open", path, &error)),
    };
    if path.is_dir() {
        return unusable(format!("{} is a directory, not a database file", path.display()));
    }
    file.take(SQLITE_MAGIC.len() as u64).read_to_end(&mut head).map_err(|error| cannot("read", path, &error))?;
    if !head.is_empty() && head != SQLITE_MAGIC {
        return unusable(format!("{} is not a SQLite database", path.display()));
    }
    Ok(())
}

/// The error for a file operation that failed; `what` is its verb.
pub(super) fn cannot(what: &str, path: &Path, error: &io::Error) -> StoreError {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => StoreErrorKind::ReadOnly,
        _ => StoreErrorKind::Unavailable,
    };
    StoreError::new(kind, format!("cannot {what} {}: {error}", path.display()))
}

fn gone(path: &Path) -> StoreError {
    let message = format!("the database file {} is gone; restore it, or restart to begin anew", path.display());
    StoreError::new(StoreErrorKind::Unavailable, message)
}

fn truncated(path: &Path) -> StoreError {
    let message = format!("the database file {} was truncated; restore it", path.display());
    StoreError::new(StoreErrorKind::Corrupt, message)
}

fn vanished(path: &Path) -> StoreError {
    let message = format!("the database file {} was deleted or replaced while in use", path.display());
    StoreError::new(StoreErrorKind::Unavailable, message)
}
