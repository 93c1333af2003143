//! Giving what is free in a SQLite file back to the file system. PostgreSQL does so by itself.

use diesel::connection::SimpleConnection;
use diesel::sql_types::Integer;
use diesel::{RunQueryDsl as _, SqliteConnection};

use super::connection::{Connection, SqliteFile};
use super::error::StoreError;
use super::options::{Access, StoreOptions};
use super::{migrate, sqlite};

/// Pages that stay in the file for what comes next: so many, or this share of the file.
const KEPT_PAGES: i32 = 256;
const KEPT_SHARE: i32 = 16;

/// What [`compact`] did: bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    pub before: u64,
    pub after: u64,
}

/// Writes the SQLite file anew without what is free in it; from then on it shrinks by itself. Nobody else may use it
/// meanwhile: see [`super::StoreLock`]. It takes as much space again while it lasts. None on PostgreSQL.
pub fn compact(options: &StoreOptions) -> Result<Option<Compacted>, StoreError> {
    let options = StoreOptions { create: false, ..options.clone() };
    let mut connection = Connection::open(&options, Access::Write)?;
    // Refuses what is not ours.
    migrate::is_behind(&mut connection)?;
    let Connection::Sqlite(file) = &mut connection else { return Ok(None) };
    sqlite::checkpoint(&mut file.connection)?;
    let before = file.length()?;
    file.connection.batch_execute("PRAGMA auto_vacuum = INCREMENTAL; VACUUM")?;
    sqlite::checkpoint(&mut file.connection)?;
    Ok(Some(Compacted { before, after: file.length()? }))
}

/// Moves up to `max_pages` free pages out of the file, if it is one that can, and more are free than it needs; whether
/// there are more to go.
pub(super) fn release_pages(file: &mut SqliteFile, max_pages: u16) -> Result<bool, StoreError> {
    let connection = &mut file.connection;
    let free = pragma(connection, "PRAGMA freelist_count")?;
    if free <= KEPT_PAGES {
        return Ok(false);
    }
    let surplus = free - KEPT_PAGES.max(pragma(connection, "PRAGMA page_count")? / KEPT_SHARE);
    if surplus <= 0 || pragma(connection, "PRAGMA auto_vacuum")? != INCREMENTAL {
        return Ok(false);
    }
    let more = surplus > i32::from(max_pages);
    connection.batch_execute(&format!("PRAGMA incremental_vacuum({max_pages})"))?;
    if !more {
        // The file ends earlier once nothing of it is in the write-ahead log only.
        connection.batch_execute("PRAGMA wal_checkpoint(PASSIVE)")?;
    }
    Ok(more)
}

/// The value of `PRAGMA auto_vacuum` of a file that gives pages back when it is asked to.
const INCREMENTAL: i32 = 2;

fn pragma(connection: &mut SqliteConnection, sql: &str) -> Result<i32, StoreError> {
    Ok(diesel::dsl::sql::<Integer>(sql).get_result(connection)?)
}
