//! Finding positions in the log.

use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _};

use crate::domain::event::{EventId, LogBounds, Timestamp};

use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::schema::events;
use super::writer::Tail;

/// The retained ids.
pub(super) fn bounds(connection: &mut Connection) -> Result<LogBounds, StoreError> {
    let earliest = events::table.select(events::id).order(events::id.asc()).limit(1).single_value();
    let last = events::table.select(events::id).order(events::id.desc()).limit(1).single_value();
    let query = diesel::select((earliest, last));
    let (earliest, last): (Option<i64>, Option<i64>) = on_backend!(connection, c => query.first(c))?;
    Ok(LogBounds { earliest: earliest.unwrap_or(1), last: last.unwrap_or(0) })
}

/// The first id for which `is_past` holds; it must hold for all later rows, too.
pub(super) fn first_id(
    connection: &mut Connection,
    is_past: impl Fn(&Tail) -> bool,
) -> Result<Option<EventId>, StoreError> {
    let LogBounds { earliest: mut low, last: mut high } = bounds(connection)?;
    let mut found = None;
    while low <= high {
        let middle = low + (high - low) / 2;
        // Where ids are missing, the next row answers for them.
        let next = events::table
            .filter(events::id.ge(middle))
            .order(events::id.asc())
            .select((events::id, events::created_at, events::log_offset))
            .limit(1);
        let row: Option<(i64, i64, i64)> = on_backend!(connection, c => next.first(c).optional())?;
        match row {
            Some((id, created_at, log_offset)) if id <= high => {
                if is_past(&Tail { id, created_at: Timestamp(created_at), log_offset }) {
                    found = Some(id);
                    high = middle - 1;
                } else {
                    low = id + 1;
                }
            }
            _ => high = middle - 1,
        }
    }
    Ok(found)
}
