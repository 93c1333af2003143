//! Pages of deliveries for operators, the newest first.

use std::collections::BTreeMap;

use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, JoinOnDsl as _, OptionalExtension as _, QueryDsl as _,
    RunQueryDsl as _,
};

use super::list::{DeliveryRecord, Row, columns, is, record};
use crate::domain::delivery::DeliveryState;
use crate::domain::event::{EventId, Timestamp};
use crate::domain::priority::Lane;
use crate::domain::routes::ServiceId;
use crate::storage::connection::{Connection, on_backend};
use crate::storage::error::StoreError;
use crate::storage::schema::{deliveries, delivery_attempts, events};

/// Ids that one statement spans in search of delivered ones, which no index of their own finds.
const WINDOW: i64 = 32_768;
const MAX_WINDOWS: usize = 32;
/// Ids in one statement.
const IDS: usize = 500;

/// Which deliveries to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryFilter {
    pub services: Vec<ServiceId>,
    pub states: Vec<DeliveryState>,
    /// Exclusive.
    pub before: Option<EventId>,
    pub limit: usize,
}

/// A page of deliveries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeliveryPage {
    /// All matching deliveries of each event on the page, which may be a few more than asked for.
    pub deliveries: Vec<ListedDelivery>,
    /// Where the next page goes on; `None` at the end.
    pub next_before: Option<EventId>,
}

/// A delivery with the name of its event and its last error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedDelivery {
    pub delivery: DeliveryRecord,
    /// The name and date of the event; `None` if it is no longer retained.
    pub event: Option<(String, Timestamp)>,
    /// How the last attempt failed.
    pub last_error: Option<String>,
}

/// A page of deliveries. It may be shorter than asked for before the end, if the delivered ones lie far apart.
pub(in crate::storage) fn deliveries(
    connection: &mut Connection,
    filter: &DeliveryFilter,
) -> Result<DeliveryPage, StoreError> {
    let before = filter.before.unwrap_or(EventId::MAX);
    let mut found = Vec::new();
    // Everything from here up to `before` was found.
    let mut floor = 0;
    for &service in &filter.services {
        for &state in &filter.states {
            if state == DeliveryState::Delivered {
                floor = floor.max(delivered(connection, service, before, filter.limit, &mut found)?);
                continue;
            }
            for lane in Lane::ALL {
                let query = deliveries::table
                    .filter(is(state))
                    .filter(deliveries::service.eq(service))
                    .filter(deliveries::lane.eq(lane as i16))
                    .filter(deliveries::event_id.lt(before))
                    .order(deliveries::event_id.desc())
                    .limit(filter.limit as i64)
                    .select(columns!());
                let rows: Vec<Row> = on_backend!(connection, c => query.load(c))?;
                floor = floor.max(floor_of(&rows, filter.limit));
                found.extend(rows.into_iter().map(record));
            }
        }
    }
    found.sort_unstable_by_key(|delivery| (std::cmp::Reverse(delivery.event_id), delivery.service));
    if found.len() > filter.limit {
        floor = floor.max(found[filter.limit - 1].event_id);
    }
    found.retain(|delivery| delivery.event_id >= floor);
    Ok(DeliveryPage { deliveries: complete(connection, found)?, next_before: (floor > 1).then_some(floor) })
}

/// The last event that a statement has returned, if its limit has cut it short; 0 if it returned everything.
fn floor_of(rows: &[Row], limit: usize) -> EventId {
    rows.last().filter(|_| rows.len() >= limit).map_or(0, |((event_id, ..), _)| *event_id)
}

/// Finds delivered ones within a bounded number of ids. Returns the lowest id down to which it has looked.
fn delivered(
    connection: &mut Connection,
    service: ServiceId,
    before: EventId,
    limit: usize,
    found: &mut Vec<DeliveryRecord>,
) -> Result<EventId, StoreError> {
    let newest = deliveries::table.select(deliveries::event_id).order(deliveries::event_id.desc()).limit(1);
    let newest: Option<i64> = on_backend!(connection, c => newest.first(c).optional())?;
    let mut high = before.min(newest.unwrap_or(0) + 1);
    let mut left = limit;
    for _ in 0..MAX_WINDOWS {
        let low = high - WINDOW;
        let query = deliveries::table
            .filter(is(DeliveryState::Delivered))
            .filter(deliveries::service.eq(service))
            .filter(deliveries::event_id.ge(low))
            .filter(deliveries::event_id.lt(high))
            .order(deliveries::event_id.desc())
            .limit(left as i64)
            .select(columns!());
        let rows: Vec<Row> = on_backend!(connection, c => query.load(c))?;
        let floor = floor_of(&rows, left);
        left -= rows.len();
        found.extend(rows.into_iter().map(record));
        if left == 0 {
            return Ok(floor);
        }
        high = low;
        if high <= 1 {
            return Ok(0);
        }
    }
    Ok(high)
}

/// Adds the names of the events and the last errors.
fn complete(connection: &mut Connection, found: Vec<DeliveryRecord>) -> Result<Vec<ListedDelivery>, StoreError> {
    let mut names = BTreeMap::new();
    let mut errors = BTreeMap::new();
    let ids: Vec<EventId> = found.iter().map(|delivery| delivery.event_id).collect();
    for ids in ids.chunks(IDS) {
        let query = events::table.filter(events::id.eq_any(ids)).select((events::id, events::name, events::created_at));
        let rows: Vec<(i64, String, i64)> = on_backend!(connection, c => query.load(c))?;
        names.extend(rows.into_iter().map(|(id, name, created_at)| (id, (name, Timestamp(created_at)))));
        let is_last = deliveries::event_id
            .eq(delivery_attempts::event_id)
            .and(deliveries::service.eq(delivery_attempts::service))
            .and(deliveries::attempts.eq(delivery_attempts::attempt));
        let query = delivery_attempts::table
            .inner_join(deliveries::table.on(is_last))
            .filter(delivery_attempts::event_id.eq_any(ids))
            .select((delivery_attempts::event_id, delivery_attempts::service, delivery_attempts::reason));
        let rows: Vec<(i64, ServiceId, String)> = on_backend!(connection, c => query.load(c))?;
        errors.extend(rows.into_iter().map(|(id, service, reason)| ((id, service), reason)));
    }
    let complete = |delivery: DeliveryRecord| ListedDelivery {
        event: names.get(&delivery.event_id).cloned(),
        last_error: errors.remove(&(delivery.event_id, delivery.service)),
        delivery,
    };
    Ok(found.into_iter().map(complete).collect())
}
