//! Positions in the log: its bounds, and ids by date.

use diesel::sql_types::{BigInt, Nullable};
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _};

use crate::domain::event::{EventId, LogBounds, Timestamp};

use super::append::Tail;
use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::schema::{clock_turns, events};
use super::statement::Statement;

/// The oldest and the newest retained id.
pub(super) fn bounds(connection: &mut Connection) -> Result<LogBounds, StoreError> {
    // Without any limit as a parameter, for which SQLite would prepare the statement each time.
    const TEXT: &str = "SELECT (SELECT min(id) FROM events), (SELECT max(id) FROM events)";
    let query: Statement<'_, (Nullable<BigInt>, Nullable<BigInt>)> = Statement::new(TEXT.to_owned(), Vec::new());
    let (earliest, last): (Option<i64>, Option<i64>) = on_backend!(connection, c => query.get_result(c))?;
    Ok(LogBounds { earliest: earliest.unwrap_or(1), last: last.unwrap_or(0) })
}

/// Notes that dates go back at `first_id`, because a wrong clock had dated the events before it ahead.
pub(super) fn turn_back(connection: &mut Connection, first_id: EventId, at: Timestamp) -> Result<(), StoreError> {
    let row = (clock_turns::first_id.eq(first_id), clock_turns::created_at.eq(at.0));
    on_backend!(connection, c => diesel::insert_into(clock_turns::table).values(row).execute(c))?;
    Ok(())
}

/// A range of ids whose dates never decrease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub ids: IdRange,
    /// The date of the first event after the range, if dates went back there.
    pub turned_at: Option<Timestamp>,
}

/// The retained log as ranges of rising dates. There is rarely more than one, because dates go back only after a wrong
/// clock.
pub(super) fn stretches(connection: &mut Connection, log: LogBounds) -> Result<Vec<Stretch>, StoreError> {
    let turns = clock_turns::table
        .filter(clock_turns::first_id.gt(log.earliest))
        .filter(clock_turns::first_id.le(log.last))
        .order(clock_turns::first_id)
        .select((clock_turns::first_id, clock_turns::created_at));
    let turns: Vec<(i64, i64)> = on_backend!(connection, c => turns.load(c))?;
    let mut found = Vec::with_capacity(turns.len() + 1);
    let mut low = log.earliest;
    for (first_id, at) in turns {
        found.push(Stretch { ids: IdRange { low, high: first_id - 1 }, turned_at: Some(Timestamp(at)) });
        low = first_id;
    }
    found.push(Stretch { ids: IdRange { low, high: log.last }, turned_at: None });
    Ok(found)
}

/// The smallest range of ids that contains all events dated from `since` to `until`. Also returns whether it contains
/// no others.
pub(super) fn dated(
    connection: &mut Connection,
    log: LogBounds,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
) -> Result<(IdRange, bool), StoreError> {
    let mut found = IdRange { low: log.last + 1, high: log.earliest - 1 };
    let stretches = if since.or(until).is_some() {
        stretches(connection, log)?
    } else {
        return Ok((IdRange { low: log.earliest, high: log.last }, true));
    };
    for Stretch { ids, .. } in &stretches {
        let low = match since {
            Some(since) => first_id(connection, *ids, |row| row.created_at >= since)?.unwrap_or(ids.high + 1),
            None => ids.low,
        };
        let high = match until {
            Some(until) => first_id(connection, *ids, |row| row.created_at > until)?.map_or(ids.high, |id| id - 1),
            None => ids.high,
        };
        if low <= high {
            found = IdRange { low: found.low.min(low), high: found.high.max(high) };
        }
    }
    Ok((found, stretches.len() == 1))
}

/// Finds the first of `ids` for which `is_past` is true, by binary search. It must be true for all later ones, too.
pub(super) fn first_id(
    connection: &mut Connection,
    ids: IdRange,
    is_past: impl Fn(&Tail) -> bool,
) -> Result<Option<EventId>, StoreError> {
    let IdRange { mut low, mut high } = ids;
    let mut found = None;
    while low <= high {
        let middle = low + (high - low) / 2;
        // Where ids are missing, the next row stands for them.
        let next = events::table
            .filter(events::id.ge(middle))
            .order(events::id.asc())
            .select((events::id, events::created_at, events::log_offset))
            .limit(1);
        let row: Option<(i64, i64, i64)> = on_backend!(connection, c => next.first(c).optional())?;
        match row {
            Some((id, created_at, log_offset)) if id <= high => {
                if is_past(&Tail { id, created_at: Timestamp(created_at), log_offset, turns_back: false }) {
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

/// A range of ids with both ends included. It is empty when `low > high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IdRange {
    pub low: EventId,
    pub high: EventId,
}

impl IdRange {
    pub fn is_empty(self) -> bool {
        self.low > self.high
    }
}
