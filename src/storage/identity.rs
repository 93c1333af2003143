//! Which log the store has.

use diesel::{OptionalExtension as _, QueryDsl as _, RunQueryDsl as _};

use crate::domain::log::LogId;

use super::connection::{Connection, on_backend};
use super::error::{StoreError, StoreErrorKind};
use super::schema::log;

/// Its identity.
pub(super) fn id(connection: &mut Connection) -> Result<LogId, StoreError> {
    let row: Option<String> = on_backend!(connection, c => log::table.select(log::id).first(c).optional())?;
    let unreadable = || StoreError::new(StoreErrorKind::Corrupt, "the table log has no identity of this log");
    row.as_deref().and_then(LogId::parse).ok_or_else(unreadable)
}
