//! Reads deliveries for operators, traces and the status of events.

use std::collections::BTreeMap;

use diesel::dsl::sql;
use diesel::sql_types::Bool;
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _};

use crate::domain::delivery::{DeliveryState, EventStatus};
use crate::domain::event::{EventId, Timestamp};
use crate::domain::priority::Lane;
use crate::domain::routes::ServiceId;
use crate::storage::connection::{Connection, on_backend};
use crate::storage::error::StoreError;
use crate::storage::schema::{deliveries, delivery_attempts};

/// A delivery as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRecord {
    pub event_id: EventId,
    pub service: ServiceId,
    pub state: DeliveryState,
    pub lane: Lane,
    pub due_at: Option<Timestamp>,
    pub key: Option<String>,
    pub attempts: u32,
    /// When the last attempt ended. It and the fields below are `None` before the first attempt ends.
    pub finished_at: Option<Timestamp>,
    pub took_us: Option<i64>,
    pub http_status: Option<u16>,
    pub reason: Option<String>,
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    pub service: ServiceId,
    pub attempt: u32,
    pub finished_at: Timestamp,
    pub took_us: i64,
    pub http_status: Option<u16>,
    pub reason: String,
    pub answer: Option<String>,
}

/// How many deliveries of a service are open or dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    /// Never attempted; by lane, in the order of [`Lane::ALL`].
    pub waiting: [i64; Lane::COUNT],
    pub retrying: [i64; Lane::COUNT],
    pub dead: i64,
}

impl Pending {
    /// The open deliveries of all lanes.
    pub fn open(&self) -> i64 {
        self.waiting.iter().chain(&self.retrying).sum()
    }
}

pub(super) type Row =
    ((i64, i16, i16, i16, i64, Option<String>), (i32, Option<i64>, Option<i64>, Option<i16>, Option<String>));

pub(super) fn record(row: Row) -> DeliveryRecord {
    let ((event_id, service, state, lane, due_at, key), (attempts, finished_at, took_us, http_status, reason)) = row;
    DeliveryRecord {
        event_id,
        service,
        state: DeliveryState::from_store(state).unwrap_or(DeliveryState::Dead),
        lane: Lane::from_store(lane),
        due_at: (due_at != 0).then_some(Timestamp(due_at)),
        key,
        attempts: u32::try_from(attempts).unwrap_or(0),
        finished_at: finished_at.map(Timestamp),
        took_us,
        http_status: http_status.and_then(|status| u16::try_from(status).ok()),
        reason,
    }
}

macro_rules! columns {
    () => {
        (
            (
                deliveries::event_id,
                deliveries::service,
                deliveries::state,
                deliveries::lane,
                deliveries::due_at,
                deliveries::key,
            ),
            (
                deliveries::attempts,
                deliveries::finished_at,
                deliveries::took_us,
                deliveries::http_status,
                deliveries::reason,
            ),
        )
    };
}
pub(super) use columns;

/// The condition as text and not as a parameter, because only then does the partial index of unfinished deliveries
/// apply.
pub(super) fn is(state: DeliveryState) -> diesel::expression::SqlLiteral<Bool> {
    let open = if state == DeliveryState::Delivered { "" } else { " AND state <> 2" };
    sql(&format!("state = {}{open}", state as i16))
}

/// All deliveries of one event, in the order of services.
pub(in crate::storage) fn deliveries_of(
    connection: &mut Connection,
    event_id: EventId,
) -> Result<Vec<DeliveryRecord>, StoreError> {
    let query =
        deliveries::table.filter(deliveries::event_id.eq(event_id)).order(deliveries::service).select(columns!());
    let rows: Vec<Row> = on_backend!(connection, c => query.load(c))?;
    Ok(rows.into_iter().map(record).collect())
}

/// All failed attempts to deliver one event, in the order of services and attempts.
pub(in crate::storage) fn attempts(
    connection: &mut Connection,
    event_id: EventId,
) -> Result<Vec<AttemptRecord>, StoreError> {
    type Row = (i16, i32, i64, i64, Option<i16>, String, Option<String>);
    let query = delivery_attempts::table
        .filter(delivery_attempts::event_id.eq(event_id))
        .order((delivery_attempts::service, delivery_attempts::attempt))
        .select((
            delivery_attempts::service,
            delivery_attempts::attempt,
            delivery_attempts::finished_at,
            delivery_attempts::took_us,
            delivery_attempts::http_status,
            delivery_attempts::reason,
            delivery_attempts::answer,
        ));
    let rows: Vec<Row> = on_backend!(connection, c => query.load(c))?;
    let attempt = |(service, attempt, finished_at, took_us, http_status, reason, answer): Row| AttemptRecord {
        service,
        attempt: u32::try_from(attempt).unwrap_or(0),
        finished_at: Timestamp(finished_at),
        took_us,
        http_status: http_status.and_then(|status| u16::try_from(status).ok()),
        reason,
        answer,
    };
    Ok(rows.into_iter().map(attempt).collect())
}

/// The status of each of `ids` that is not processed.
pub(in crate::storage) fn statuses(
    connection: &mut Connection,
    ids: &[EventId],
) -> Result<BTreeMap<EventId, EventStatus>, StoreError> {
    let mut statuses = BTreeMap::new();
    for ids in ids.chunks(500) {
        let (low, high) = (ids.iter().min().copied().unwrap_or(1), ids.iter().max().copied().unwrap_or(0));
        // `state + 0` keeps PostgreSQL from walking the whole partial index of unfinished deliveries.
        let query =
            deliveries::table.filter(sql::<Bool>("state + 0 <> 2")).select((deliveries::event_id, deliveries::state));
        // Ids that lie close together are read in one walk.
        let are_close = high - low < 4 * ids.len() as i64;
        let rows: Vec<(i64, i16)> = if are_close {
            let query = query.filter(deliveries::event_id.ge(low)).filter(deliveries::event_id.le(high));
            on_backend!(connection, c => query.load(c))?
        } else {
            let query = query.filter(deliveries::event_id.eq_any(ids));
            on_backend!(connection, c => query.load(c))?
        };
        for (id, state) in rows {
            let status = EventStatus::of(DeliveryState::from_store(state).into_iter());
            let known = statuses.entry(id).or_insert(status);
            *known = status.max(*known);
        }
    }
    Ok(statuses)
}

/// Counts the deliveries of a service that are open or dead. It walks only these in the index, so it takes longer the
/// more there are.
pub(in crate::storage) fn pending(connection: &mut Connection, service: ServiceId) -> Result<Pending, StoreError> {
    let query = deliveries::table
        .filter(sql::<Bool>("state <> 2"))
        .filter(deliveries::service.eq(service))
        .group_by((deliveries::state, deliveries::lane))
        .select((deliveries::state, deliveries::lane, diesel::dsl::count_star()));
    let rows: Vec<(i16, i16, i64)> = on_backend!(connection, c => query.load(c))?;
    let mut pending = Pending::default();
    for (state, lane, count) in rows {
        let lane = Lane::from_store(lane).index();
        match DeliveryState::from_store(state) {
            Some(DeliveryState::Waiting) => pending.waiting[lane] += count,
            Some(DeliveryState::Retrying) => pending.retrying[lane] += count,
            Some(DeliveryState::Dead) => pending.dead += count,
            Some(DeliveryState::Delivered) | None => {}
        }
    }
    Ok(pending)
}

/// The oldest event with an open delivery to a service.
pub(in crate::storage) fn oldest_open(
    connection: &mut Connection,
    service: ServiceId,
) -> Result<Option<EventId>, StoreError> {
    let mut oldest: Option<i64> = None;
    for state in [DeliveryState::Waiting, DeliveryState::Retrying] {
        for lane in Lane::ALL {
            let query = deliveries::table
                .filter(is(state))
                .filter(deliveries::service.eq(service))
                .filter(deliveries::lane.eq(lane as i16))
                .order(deliveries::event_id)
                .select(deliveries::event_id)
                .limit(1);
            let first: Option<i64> = on_backend!(connection, c => query.first(c).optional())?;
            oldest = oldest.into_iter().chain(first).min();
        }
    }
    Ok(oldest)
}

/// When the first retry of a service after `after` is due.
pub(in crate::storage) fn next_due(
    connection: &mut Connection,
    service: ServiceId,
    after: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let query = deliveries::table
        .filter(sql::<Bool>("state = 1"))
        .filter(deliveries::service.eq(service))
        .filter(deliveries::due_at.gt(after.0))
        .order(deliveries::due_at)
        .select(deliveries::due_at)
        .limit(1);
    let next: Option<i64> = on_backend!(connection, c => query.first(c).optional())?;
    Ok(next.map(Timestamp))
}
