//! The identity of the stored log, and how far the log goes.

use diesel::sql_types::Text;
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _};

use crate::domain::event::{EventId, LogBounds, Timestamp};
use crate::domain::log::{Found, Gap, LogId, Restored, Seen};
use crate::domain::secret::Secret;

use super::append::newest;
use super::connection::{Connection, on_backend};
use super::error::{StoreError, StoreErrorKind};
use super::schema::{clock_turns, events, log, log_gaps};

/// The identity of the log.
pub(super) fn id(connection: &mut Connection) -> Result<LogId, StoreError> {
    let row: Option<String> = on_backend!(connection, c => log::table.select(log::id).first(c).optional())?;
    readable(row)
}

fn readable(id: Option<String>) -> Result<LogId, StoreError> {
    let unreadable = || StoreError::new(StoreErrorKind::Corrupt, "the table log has no readable identity");
    id.as_deref().and_then(LogId::parse).ok_or_else(unreadable)
}

/// Which log a store has and how far it goes, as of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogExtent {
    log: LogId,
    /// The first id that the last restore left out. A store that does not know of it may show ids that are gone.
    gap: Option<EventId>,
    pub bounds: LogBounds,
}

impl LogExtent {
    /// Whether both are of one log, and know of the same restores.
    pub fn is_of(&self, other: &Self) -> bool {
        self.log == other.log && self.gap == other.gap
    }
}

/// See [`LogExtent`].
pub(super) fn extent(connection: &mut Connection) -> Result<LogExtent, StoreError> {
    let id = log::table.select(log::id).limit(1).single_value();
    let gap = log_gaps::table.select(log_gaps::first_id).order(log_gaps::first_id.desc()).limit(1).single_value();
    let earliest = events::table.select(events::id).order(events::id.asc()).limit(1).single_value();
    let last = events::table.select(events::id).order(events::id.desc()).limit(1).single_value();
    let query = diesel::select((id, gap, earliest, last));
    type Row = (Option<String>, Option<i64>, Option<i64>, Option<i64>);
    let (id, gap, earliest, last): Row = on_backend!(connection, c => query.first(c))?;
    let bounds = LogBounds { earliest: earliest.unwrap_or(1), last: last.unwrap_or(0) };
    Ok(LogExtent { log: readable(id)?, gap, bounds })
}

/// What only the nodes on this store know.
pub(super) fn key(connection: &mut Connection) -> Result<Secret, StoreError> {
    let key: String = on_backend!(connection, c => log::table.select(log::key).first(c))?;
    Ok(Secret::new(key))
}

/// Which database, in which run of which server: what is committed to another one need not be in this one.
pub(super) fn server(connection: &mut Connection) -> Result<String, StoreError> {
    match connection {
        Connection::Sqlite(_) => Ok(String::new()),
        Connection::Postgres(session) => {
            let server = diesel::dsl::sql::<Text>(
                "extract(epoch FROM pg_postmaster_start_time())::text || ' ' || \
                 (SELECT oid FROM pg_database WHERE datname = current_database())::text",
            );
            let server: String = diesel::select(server).get_result(&mut session.connection)?;
            Ok(format!("{server} {}", session.schema))
        }
    }
}

/// How far the log goes now, compared with `seen`, the last id that somebody knows.
pub(super) fn found(connection: &mut Connection, seen: Option<EventId>) -> Result<Found, StoreError> {
    let log = id(connection)?;
    let newest: Option<(i64, i64, i64)> = on_backend!(connection, c => newest().get_result(c).optional())?;
    let (last, at, _) = newest.unwrap_or_default();
    let at_seen: Option<i64> = match seen {
        None => None,
        Some(seen) if seen == last => Some(at),
        Some(seen) => {
            let row = events::table.find(seen).select(events::created_at);
            on_backend!(connection, c => row.first(c).optional())?
        }
    };
    let lacks = seen.is_some_and(|seen| seen > last);
    let has_turned = lacks && {
        let turns = clock_turns::table.filter(clock_turns::first_id.le(last)).count();
        on_backend!(connection, c => turns.get_result::<i64>(c))? > 0
    };
    Ok(Found { log, last, at: Timestamp(at), at_seen: at_seen.map(Timestamp), has_turned })
}

/// Decides how a log goes on that lacks events which were `seen`, and stores the decision. Returns `None` if another
/// process has done so already.
///
/// The transaction must hold the lock of the log.
pub(super) fn restore(connection: &mut Connection, seen: &Seen) -> Result<Option<Restored>, StoreError> {
    let found = found(connection, Some(seen.last))?;
    let restored = Restored::decide(seen, &found, LogId::new(rand::random()));
    if let Some(restored) = &restored {
        write(connection, &found, restored)?;
    }
    Ok(restored)
}

/// Like [`restore`], but at the word of an operator: the log gets a new identity in any case.
pub(super) fn declare_restored(connection: &mut Connection, seen: Option<&Seen>) -> Result<Restored, StoreError> {
    let found = found(connection, seen.map(|seen| seen.last))?;
    let restored = Restored::declared(seen, &found, LogId::new(rand::random()));
    write(connection, &found, &restored)?;
    Ok(restored)
}

fn write(connection: &mut Connection, found: &Found, restored: &Restored) -> Result<(), StoreError> {
    let Restored { log, last, after, .. } = *restored;
    if log != found.log {
        rename(connection, log)?;
    }
    let gap = (log_gaps::first_id.eq(last + 1), log_gaps::width.eq(after - last));
    let insert = diesel::insert_into(log_gaps::table).values(gap).on_conflict_do_nothing();
    on_backend!(connection, c => insert.execute(c))?;
    Ok(())
}

/// Gives the log a new identity.
fn rename(connection: &mut Connection, id: LogId) -> Result<(), StoreError> {
    let update = diesel::update(log::table).set(log::id.eq(id.to_string()));
    on_backend!(connection, c => update.execute(c))?;
    Ok(())
}

/// The ids that restores have left out, the highest gap first.
pub(super) fn gaps(connection: &mut Connection) -> Result<Vec<Gap>, StoreError> {
    let rows = log_gaps::table.order(log_gaps::first_id.desc()).select((log_gaps::first_id, log_gaps::width));
    let rows: Vec<(EventId, i64)> = on_backend!(connection, c => rows.load(c))?;
    Ok(rows.into_iter().map(|(first, width)| Gap { last: first - 1, end: first - 1 + width }).collect())
}
