//! Orphans: deliveries of services that are no longer configured. Nothing delivers them until an operator acts.

use std::collections::HashSet;

use diesel::{ExpressionMethods as _, QueryDsl as _, RunQueryDsl as _};

use super::services::service_name;
use crate::domain::delivery::{DeadReason, DeliveryState};
use crate::domain::event::{EventId, Timestamp};
use crate::domain::priority::Lane;
use crate::domain::routes::ServiceId;
use crate::storage::connection::{Connection, on_backend};
use crate::storage::error::StoreError;
use crate::storage::schema::{deliveries, delivery_attempts};

use super::list::{Pending, is, pending};
use super::services::names;

/// Deliveries that one step moves or cancels, at most.
const STEP: usize = 500;

/// The deliveries of a service that is not configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    pub service: ServiceId,
    pub name: String,
    pub pending: Pending,
}

/// What to do with the deliveries of an orphan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrphanAction {
    /// Moves the open and the dead ones to another service.
    MoveTo(ServiceId),
    /// Makes the open ones dead.
    Cancel,
}

/// How many deliveries one step has settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OrphansSettled {
    /// Open ones that were moved or cancelled, by lane.
    pub open: [i64; Lane::COUNT],
    /// Dead ones that were moved.
    pub dead: i64,
    /// Deliveries that were deleted because the other service has one of the same event.
    pub duplicates: i64,
}

impl OrphansSettled {
    /// Whether there was nothing left to settle.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Services with deliveries that are not among `configured`. Consumers are no orphans.
pub(in crate::storage) fn orphans(
    connection: &mut Connection,
    configured: &[String],
) -> Result<Vec<Orphan>, StoreError> {
    let durable = service_name("");
    let mut orphans = Vec::new();
    for (service, name) in names(connection)? {
        if configured.contains(&name) || name.starts_with(&durable) {
            continue;
        }
        let pending = pending(connection, service)?;
        if pending != Pending::default() {
            orphans.push(Orphan { service, name, pending });
        }
    }
    Ok(orphans)
}

/// Settles a bounded number of the deliveries of `from`. The transaction must hold the writer's lock.
pub(in crate::storage) fn settle_orphans(
    connection: &mut Connection,
    from: ServiceId,
    action: OrphanAction,
    now: Timestamp,
) -> Result<OrphansSettled, StoreError> {
    let states = match action {
        OrphanAction::MoveTo(_) => &[DeliveryState::Waiting, DeliveryState::Retrying, DeliveryState::Dead][..],
        OrphanAction::Cancel => &[DeliveryState::Waiting, DeliveryState::Retrying][..],
    };
    let mut done = OrphansSettled::default();
    let mut room = STEP;
    for state in states.iter().copied() {
        let query = deliveries::table
            .filter(is(state))
            .filter(deliveries::service.eq(from))
            .select((deliveries::event_id, deliveries::lane))
            .limit(room as i64);
        let mut found: Vec<(EventId, i16)> = on_backend!(connection, c => query.load(c))?;
        room -= found.len();
        match action {
            OrphanAction::MoveTo(to) => {
                let duplicates = delete_duplicates(connection, from, to, &found)?;
                found.retain(|(id, _)| !duplicates.contains(id));
                done.duplicates += duplicates.len() as i64;
                reassign(connection, from, to, state, &found, now)?;
            }
            OrphanAction::Cancel => cancel(connection, from, &found, now)?,
        }
        if state == DeliveryState::Dead {
            done.dead += found.len() as i64;
        } else {
            found.iter().for_each(|(_, lane)| done.open[Lane::from_store(*lane).index()] += 1);
        }
    }
    Ok(done)
}

fn ids(found: &[(EventId, i16)]) -> Vec<EventId> {
    found.iter().map(|(id, _)| *id).collect()
}

/// Deletes the deliveries in `found` whose event `to` has a delivery of already. Returns their events.
fn delete_duplicates(
    connection: &mut Connection,
    from: ServiceId,
    to: ServiceId,
    found: &[(EventId, i16)],
) -> Result<HashSet<EventId>, StoreError> {
    let has = deliveries::table
        .filter(deliveries::service.eq(to))
        .filter(deliveries::event_id.eq_any(ids(found)))
        .select(deliveries::event_id);
    let duplicates: Vec<EventId> = on_backend!(connection, c => has.load(c))?;
    if !duplicates.is_empty() {
        let attempts = delivery_attempts::table
            .filter(delivery_attempts::service.eq(from))
            .filter(delivery_attempts::event_id.eq_any(&duplicates));
        on_backend!(connection, c => diesel::delete(attempts).execute(c))?;
        let rows =
            deliveries::table.filter(deliveries::service.eq(from)).filter(deliveries::event_id.eq_any(&duplicates));
        on_backend!(connection, c => diesel::delete(rows).execute(c))?;
    }
    Ok(duplicates.into_iter().collect())
}

/// Moves `found`, which all have the same state, from one service to another. Those never attempted become due retries:
/// the client of `to` has read past their ids and would not find them as new ones.
fn reassign(
    connection: &mut Connection,
    from: ServiceId,
    to: ServiceId,
    state: DeliveryState,
    found: &[(EventId, i16)],
    now: Timestamp,
) -> Result<(), StoreError> {
    let ids = ids(found);
    let rows = deliveries::table.filter(deliveries::service.eq(from)).filter(deliveries::event_id.eq_any(&ids));
    if state == DeliveryState::Waiting {
        let due = (deliveries::state.eq(DeliveryState::Retrying as i16), deliveries::due_at.eq(now.0));
        let update = diesel::update(rows).set((deliveries::service.eq(to), due));
        on_backend!(connection, c => update.execute(c))?;
    } else {
        let update = diesel::update(rows).set(deliveries::service.eq(to));
        on_backend!(connection, c => update.execute(c))?;
    }
    let attempts = delivery_attempts::table
        .filter(delivery_attempts::service.eq(from))
        .filter(delivery_attempts::event_id.eq_any(&ids));
    let update = diesel::update(attempts).set(delivery_attempts::service.eq(to));
    on_backend!(connection, c => update.execute(c))?;
    Ok(())
}

fn cancel(
    connection: &mut Connection,
    from: ServiceId,
    found: &[(EventId, i16)],
    now: Timestamp,
) -> Result<(), StoreError> {
    let rows = deliveries::table.filter(deliveries::service.eq(from)).filter(deliveries::event_id.eq_any(ids(found)));
    let update = diesel::update(rows).set((
        deliveries::state.eq(DeliveryState::Dead as i16),
        deliveries::due_at.eq(0),
        deliveries::finished_at.eq(now.0),
        deliveries::reason.eq(DeadReason::Cancelled.as_str()),
    ));
    on_backend!(connection, c => update.execute(c))?;
    Ok(())
}
