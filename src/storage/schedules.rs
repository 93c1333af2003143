//! Schedules: events that are appended to the log at a later time.

use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _};

use crate::domain::event::{NewEvent, Priority, Schedule, ScheduleId, Timestamp};
use crate::domain::name::EventName;

use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::schema::schedules;

/// A stored schedule and its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduled {
    pub schedule: Schedule,
    pub position: SchedulePosition,
    pub event: NewEvent,
}

/// The position of a schedule in the order of appending: by due time, and at the same time in the order of the
/// requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SchedulePosition {
    pub due_at: Timestamp,
    pub created_at: Timestamp,
    /// The place within the transaction that stored it.
    pub place: i64,
}

type Row = ((String, i64, i64, i64), (String, String, String, i16, Option<String>, Option<String>, Option<String>));

macro_rules! columns {
    () => {
        (
            (schedules::id, schedules::due_at, schedules::created_at, schedules::place),
            (
                schedules::name,
                schedules::payload,
                schedules::source,
                schedules::priority,
                schedules::key,
                schedules::metadata,
                schedules::traceparent,
            ),
        )
    };
}

fn scheduled(row: Row) -> Option<Scheduled> {
    let ((id, due_at, created_at, place), (name, payload, source, priority, key, metadata, traceparent)) = row;
    Some(Scheduled {
        schedule: Schedule { id: ScheduleId::parse(&id)?, due_at: Timestamp(due_at) },
        position: SchedulePosition { due_at: Timestamp(due_at), created_at: Timestamp(created_at), place },
        event: NewEvent {
            name: EventName::from_store(name),
            payload: payload.into(),
            source: source.into(),
            priority: Priority::from_store(priority),
            key: key.map(Into::into),
            metadata: metadata.map(Into::into),
            traceparent: traceparent.map(Into::into),
            idempotency: None,
            change: None,
        },
    })
}

pub(super) fn insert(
    connection: &mut Connection,
    Schedule { id, due_at }: Schedule,
    event: &NewEvent,
    created_at: Timestamp,
    place: i64,
) -> Result<(), StoreError> {
    let NewEvent { name, payload, source, priority, key, metadata, traceparent, idempotency: _, change: _ } = event;
    let row = (
        schedules::id.eq(id.to_string()),
        schedules::due_at.eq(due_at.0),
        schedules::created_at.eq(created_at.0),
        schedules::place.eq(place),
        schedules::name.eq(name.as_str()),
        schedules::payload.eq(&**payload),
        schedules::source.eq(&**source),
        schedules::priority.eq(*priority as i16),
        schedules::key.eq(key.as_deref()),
        schedules::metadata.eq(metadata.as_deref()),
        schedules::traceparent.eq(traceparent.as_deref()),
    );
    on_backend!(connection, c => diesel::insert_into(schedules::table).values(row).execute(c))?;
    Ok(())
}

/// Removes up to `limit` schedules that are due at `now`. Returns their events in the order in which they are due.
pub(super) fn take_due(connection: &mut Connection, now: Timestamp, limit: usize) -> Result<Vec<NewEvent>, StoreError> {
    let query = schedules::table
        .filter(schedules::due_at.le(now.0))
        .order((schedules::due_at, schedules::created_at, schedules::place))
        .limit(limit as i64)
        .select(columns!());
    let rows: Vec<Row> = on_backend!(connection, c => query.load(c))?;
    let mut due = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(Scheduled { schedule, event, .. }) = scheduled(row) else { continue };
        if cancel(connection, schedule.id)? {
            due.push(event);
        }
    }
    Ok(due)
}

/// When the first schedule is due.
pub(super) fn next_due(connection: &mut Connection) -> Result<Option<Timestamp>, StoreError> {
    let query = schedules::table
        .select(schedules::due_at)
        .order((schedules::due_at, schedules::created_at, schedules::place))
        .limit(1);
    let next: Option<i64> = on_backend!(connection, c => query.first(c).optional())?;
    Ok(next.map(Timestamp))
}

/// Deletes a schedule. Returns whether it was still waiting.
pub(super) fn cancel(connection: &mut Connection, id: ScheduleId) -> Result<bool, StoreError> {
    let gone = diesel::delete(schedules::table.find(id.to_string()));
    Ok(on_backend!(connection, c => gone.execute(c))? > 0)
}

/// Finds a waiting schedule.
pub(super) fn find(connection: &mut Connection, id: ScheduleId) -> Result<Option<Scheduled>, StoreError> {
    let query = schedules::table.find(id.to_string()).select(columns!());
    let row: Option<Row> = on_backend!(connection, c => query.first(c).optional())?;
    Ok(row.and_then(scheduled))
}

/// Waiting schedules after this position, in the order in which they are due.
pub(super) fn list(
    connection: &mut Connection,
    after: Option<SchedulePosition>,
    limit: usize,
) -> Result<Vec<Scheduled>, StoreError> {
    let query = schedules::table
        .order((schedules::due_at, schedules::created_at, schedules::place))
        .limit(limit as i64)
        .select(columns!());
    let rows: Vec<Row> = match after {
        None => on_backend!(connection, c => query.load(c))?,
        Some(SchedulePosition { due_at, created_at, place }) => {
            use diesel::BoolExpressionMethods as _;
            let together = schedules::due_at.eq(due_at.0);
            let stored_later = schedules::created_at
                .gt(created_at.0)
                .or(schedules::created_at.eq(created_at.0).and(schedules::place.gt(place)));
            let later = schedules::due_at.gt(due_at.0).or(together.and(stored_later));
            let query = query.filter(schedules::due_at.ge(due_at.0)).filter(later);
            on_backend!(connection, c => query.load(c))?
        }
    };
    Ok(rows.into_iter().filter_map(scheduled).collect())
}
