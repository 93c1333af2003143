//! Returns the free pages of a SQLite file to the file system. PostgreSQL does this by itself.

use diesel::connection::SimpleConnection;
use diesel::sql_types::Integer;
use diesel::{RunQueryDsl as _, SqliteConnection};

use super::connection::{Connection, SqliteFile};
use super::error::StoreError;
use super::options::{Access, StoreOptions};
use super::{migrate, sqlite};

/// Free pages that stay in the file for new rows: at least this many, and at least this share of the file.
const KEPT_PAGES: i32 = 256;
const KEPT_SHARE: i32 = 16;

/// The size of the file before and after [`compact`], in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    pub before: u64,
    pub after: u64,
}

/// Rewrites the SQLite file without its free pages and turns on incremental vacuum, so that the file shrinks by itself
/// from then on. The caller must hold the [`super::StoreLock`]. While it runs, it needs as much space again. Returns
/// `None` on PostgreSQL.
pub fn compact(options: &StoreOptions) -> Result<Option<Compacted>, StoreError> {
    let options = StoreOptions { create: false, ..options.clone() };
    let mut connection = Connection::open(&options, Access::Write)?;
    // This refuses databases of other programs.
    migrate::is_behind(&mut connection, migrate::Use::First)?;
    let Connection::Sqlite(file) = &mut connection else { return Ok(None) };
    sqlite::checkpoint(&mut file.connection)?;
    let before = file.length()?;
    file.connection.batch_execute("PRAGMA auto_vacuum = INCREMENTAL; VACUUM")?;
    sqlite::checkpoint(&mut file.connection)?;
    Ok(Some(Compacted { before, after: file.length()? }))
}

/// Removes up to `max_pages` free pages from the end of the file. Does nothing if the file has no incremental vacuum,
/// or has no more free pages than it should keep. Returns whether more pages can be removed.
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
        // SQLite shortens the file only when a checkpoint has moved the write-ahead log into it.
        connection.batch_execute("PRAGMA wal_checkpoint(PASSIVE)")?;
    }
    Ok(more)
}

/// The value of `PRAGMA auto_vacuum` for incremental vacuum.
const INCREMENTAL: i32 = 2;

fn pragma(connection: &mut SqliteConnection, sql: &str) -> Result<i32, StoreError> {
    Ok(diesel::dsl::sql::<Integer>(sql).get_result(connection)?)
}
