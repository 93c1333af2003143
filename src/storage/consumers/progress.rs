//! Stores the progress of a consumer: its ack floor, marks and dead letters.

use diesel::{ExpressionMethods as _, QueryDsl as _, RunQueryDsl as _, upsert::excluded};

use crate::domain::consumer::Mark;
use crate::domain::delivery::{DeadReason, DeliveryState};
use crate::domain::event::{EventId, NewEvent, Timestamp};
use crate::domain::priority::Lane;
use crate::domain::routes::ServiceId;
use crate::storage::connection::{Connection, on_backend};
use crate::storage::error::StoreError;
use crate::storage::outbox::{DeliveryOutcome, settle};
use crate::storage::schema::{deliveries, delivery_attempts, durable_marks, durables};
use crate::telemetry::faults::{self, FaultPoint};

/// What the holder of a lease stores of the progress of its consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerChange {
    pub service: ServiceId,
    /// The fencing epoch for which this was decided. If the consumer has another one by now, the change is void.
    pub fencing_epoch: i64,
    pub ack_floor: EventId,
    /// Marks to store.
    pub marks: Vec<(EventId, Mark)>,
    /// Marks to delete, because the ack floor has passed them.
    pub passed_marks: Vec<EventId>,
    pub dead: Vec<DeadLetter>,
    /// The outcomes of deliveries that a redrive had made open again.
    pub renewed: Vec<DeliveryOutcome>,
    /// Events of the Event Handler itself that report on this consumer.
    pub events: Vec<NewEvent>,
}

/// An event that a consumer has given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub event_id: EventId,
    pub lane: Lane,
    pub key: Option<String>,
    pub deliveries: u32,
    pub reason: DeadReason,
    /// The reason in a few words.
    pub error: String,
    pub at: Timestamp,
}

/// Stores a change, except for its events. Returns false and writes nothing if the change is void.
pub(in crate::storage) fn change(connection: &mut Connection, change: &ConsumerChange) -> Result<bool, StoreError> {
    /// Rows of one statement; both backends allow as many parameters.
    const ROWS: usize = 1000;
    let ConsumerChange { service, fencing_epoch, ack_floor, marks, passed_marks, dead, renewed, events: _ } = change;
    if faults::strikes(FaultPoint::EpochRefused) {
        return Ok(false);
    }
    let current = durables::table.filter(durables::service.eq(service)).filter(durables::epoch.eq(fencing_epoch));
    let update = diesel::update(current).set(durables::floor.eq(ack_floor));
    if on_backend!(connection, c => update.execute(c))? == 0 {
        return Ok(false);
    }
    for ids in passed_marks.chunks(ROWS) {
        let marks =
            durable_marks::table.filter(durable_marks::service.eq(service)).filter(durable_marks::event_id.eq_any(ids));
        on_backend!(connection, c => diesel::delete(marks).execute(c))?;
    }
    for (id, mark) in marks {
        let deliveries = match mark {
            Mark::Settled => 0,
            Mark::Delivered(deliveries) => i32::try_from(*deliveries).unwrap_or(i32::MAX),
        };
        let row = (
            durable_marks::service.eq(service),
            durable_marks::event_id.eq(id),
            durable_marks::deliveries.eq(deliveries),
        );
        on_backend!(connection, c => {
            diesel::insert_into(durable_marks::table)
                .values(row)
                .on_conflict((durable_marks::service, durable_marks::event_id))
                .do_update()
                .set(durable_marks::deliveries.eq(excluded(durable_marks::deliveries)))
                .execute(c)
        })?;
    }
    dead.iter().try_for_each(|letter| insert_dead_letter(connection, *service, letter))?;
    settle(connection, &[renewed])?;
    Ok(true)
}

fn insert_dead_letter(connection: &mut Connection, service: ServiceId, letter: &DeadLetter) -> Result<(), StoreError> {
    let DeadLetter { event_id, lane, key, deliveries: attempts, reason, error, at } = letter;
    let attempts = i32::try_from(*attempts).unwrap_or(i32::MAX);
    let outcome = (
        deliveries::state.eq(DeliveryState::Dead as i16),
        deliveries::lane.eq(*lane as i16),
        deliveries::due_at.eq(0),
        deliveries::attempts.eq(attempts),
        deliveries::finished_at.eq(at.0),
        deliveries::reason.eq(reason.as_str()),
    );
    let row = (
        deliveries::event_id.eq(event_id),
        deliveries::service.eq(service),
        deliveries::key.eq(key.as_deref()),
        outcome,
    );
    on_backend!(connection, c => {
        diesel::insert_into(deliveries::table)
            .values(row)
            .on_conflict((deliveries::event_id, deliveries::service))
            .do_update()
            .set(outcome)
            .execute(c)
    })?;
    let attempt = (
        delivery_attempts::event_id.eq(event_id),
        delivery_attempts::service.eq(service),
        delivery_attempts::attempt.eq(attempts),
        delivery_attempts::finished_at.eq(at.0),
        delivery_attempts::took_us.eq(0),
        delivery_attempts::reason.eq(&**error),
    );
    on_backend!(connection, c => {
        diesel::insert_into(delivery_attempts::table).values(attempt).on_conflict_do_nothing().execute(c)
    })?;
    Ok(())
}
