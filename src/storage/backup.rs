//! Backups of a SQLite store, and how one is restored.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection as _;
use diesel::sql_types::Text;
use diesel::{Connection as _, RunQueryDsl as _, SqliteConnection};

use crate::domain::event::Timestamp;
use crate::domain::log::{Found, Restored};

use super::beside::HighWaterMark;
use super::beside::beside;
use super::connection::{self, Connection};
use super::error::{StoreError, StoreErrorKind};
use super::options::{Access, StoreOptions};
use super::url::{StoreUrl, sqlite_uri};
use super::{Writer, identity, migrate};

/// Copies a consistent state of the store to `to`, even while a server uses the store. Returns how far the log of the
/// copy goes.
///
/// The copy appears at `to` whole or not at all, with the permissions of the store. An existing file is never replaced.
pub fn backup(options: &StoreOptions, to: &Path) -> Result<Found, StoreError> {
    let StoreUrl::Sqlite(path) = &options.url else {
        let advice = "PostgreSQL is backed up with its own tools, such as pg_dump --format=custom";
        return Err(StoreError::new(StoreErrorKind::Unusable, advice));
    };
    if to.exists() {
        return Err(unusable(to, "exists; name a file that does not"));
    }
    let part = beside(to, ".part");
    remove(&part)?;
    let mut source = SqliteConnection::establish(&sqlite_uri(path, "rw"))?;
    source.batch_execute(&format!("PRAGMA busy_timeout = {}", options.busy_timeout.as_millis()))?;
    let Some(name) = part.to_str() else { return Err(unusable(to, "has a name that is not UTF-8")) };
    let copied =
        diesel::sql_query("VACUUM INTO ?").bind::<Text, _>(name).execute(&mut source).map_err(StoreError::from);
    let finished = copied.and_then(|_| {
        let permissions = fs::metadata(path).and_then(|store| fs::set_permissions(&part, store.permissions()));
        permissions.map_err(|error| connection::cannot("protect", &part, &error))?;
        let copy = StoreOptions { create: false, ..StoreOptions::new(StoreUrl::Sqlite(part.clone())) };
        let found = identity::found(&mut Connection::open(&copy, Access::Read)?, None)?;
        put(&part, to)?;
        Ok(found)
    });
    if finished.is_err() {
        let _ = remove(&part);
    }
    finished
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restoration {
    pub restored: Restored,
    /// Where the database that was replaced is kept.
    pub kept: Option<PathBuf>,
}

/// Replaces the store by the copy `from`; no process may use the store meanwhile. Without a copy, declares that the
/// store was restored by other means.
///
/// The log gets a new identity, so that readers notice, and new ids are greater than all that were ever given out.
pub fn restore(options: &StoreOptions, from: Option<&Path>, now: Timestamp) -> Result<Restoration, StoreError> {
    let kept = match (&options.url, from) {
        (_, None) => None,
        (StoreUrl::Sqlite(path), Some(from)) => replace(options, path, from)?,
        (StoreUrl::Postgres(_), Some(_)) => {
            let advice = "PostgreSQL is restored with its own tools, such as pg_restore; then say so with \
                          event-handler restore, without a file";
            return Err(StoreError::new(StoreErrorKind::Unusable, advice));
        }
    };
    let mut writer = Writer::open(StoreOptions { create: false, ..options.clone() })?;
    let restored = writer.declare_restored(now)?;
    drop(writer);
    connection::close(options)?;
    Ok(Restoration { restored, kept })
}

/// Replaces the store by a copy of `from`. Returns where the former database is kept.
fn replace(options: &StoreOptions, path: &Path, from: &Path) -> Result<Option<PathBuf>, StoreError> {
    if !from.is_file() {
        return Err(unusable(from, "is no file"));
    }
    let new = beside(path, ".restoring");
    remove(&new)?;
    for suffix in ["", "-wal"] {
        let source = beside(from, suffix);
        if source.exists() {
            fs::copy(&source, beside(&new, suffix)).map_err(|error| connection::cannot("copy", &source, &error))?;
        }
    }
    let checked = check(&StoreOptions { url: StoreUrl::Sqlite(new.clone()), create: false, ..options.clone() });
    if let Err(StoreError { kind, message }) = checked {
        remove(&new)?;
        return Err(StoreError::new(kind, format!("{} cannot be restored: {message}", from.display())));
    }
    let kept = path.exists().then(|| beside(path, ".before-restore"));
    if let Some(kept) = &kept {
        // Errors are ignored: a store that cannot be read is the very reason for a restore.
        let _ = connection::close(options);
        note_the_end(options, path);
        remove(kept)?;
        for suffix in ["", "-wal"] {
            if beside(path, suffix).exists() {
                put(&beside(path, suffix), &beside(kept, suffix))?;
            }
        }
    }
    remove_companions(path)?;
    put(&new, path)?;
    Ok(kept)
}

/// Fails if the file is damaged or is not a store of this program. Otherwise migrates it and moves its write-ahead log
/// into the file.
fn check(options: &StoreOptions) -> Result<(), StoreError> {
    let mut connection = Connection::open(options, Access::Write)?;
    if let Connection::Sqlite(file) = &mut connection {
        let check = diesel::dsl::sql::<Text>("PRAGMA quick_check(1)");
        let verdict: String = check.get_result(&mut file.connection)?;
        if verdict != "ok" {
            return Err(StoreError::new(StoreErrorKind::Corrupt, format!("it is damaged: {verdict}")));
        }
    }
    if !migrate::has_table(&mut connection, "events")? {
        return Err(StoreError::new(StoreErrorKind::Unusable, "it has no tables of a store"));
    }
    migrate::run(&mut connection, migrate::Use::First)?;
    drop(connection);
    connection::close(options)
}

/// Raises the high-water mark to the end of the log in the store that is about to be replaced, so that none of its ids
/// is given out again.
fn note_the_end(options: &StoreOptions, path: &Path) {
    let mut mark = HighWaterMark::of(path);
    let found = Connection::open(options, Access::Read).and_then(|mut store| identity::found(&mut store, None));
    if let Ok(found) = found
        && mark.read().is_none_or(|marked| marked.last < found.last)
    {
        mark.write(&found.seen());
    }
}

/// Renames `from` to `to` and syncs both the file and the directory, so that the rename survives a loss of power.
fn put(from: &Path, to: &Path) -> Result<(), StoreError> {
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let done = File::open(from)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(from, to))
        .and_then(|()| File::open(directory)?.sync_all());
    done.map_err(|error| connection::cannot("write", to, &error))
}

/// Removes a database file, if it exists, and the files that SQLite keeps beside it.
fn remove(path: &Path) -> Result<(), StoreError> {
    remove_file(path)?;
    remove_companions(path)
}

fn remove_companions(path: &Path) -> Result<(), StoreError> {
    ["-shm", "-wal", "-journal"].iter().try_for_each(|suffix| remove_file(&beside(path, suffix)))
}

fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(connection::cannot("remove", path, &error)),
        _ => Ok(()),
    }
}

fn unusable(file: &Path, why: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Unusable, format!("{} {why}", file.display()))
}
