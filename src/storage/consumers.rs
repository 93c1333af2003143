//! Consumers (durable subscriptions): their ack floors, and the marks of events above them.

mod progress;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use diesel::dsl::{exists, sql};
use diesel::sql_types::Bool;
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _};

use crate::domain::consumer::{ConsumerPolicy, Mark};
use crate::domain::event::{EventId, Timestamp};
use crate::domain::filter::Filter;
use crate::domain::lease::{Grant, LeaseName};
use crate::domain::name::EventName;
use crate::domain::pattern::Pattern;
use crate::domain::routes::ServiceId;

use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::outbox::{free_service_id, service_name};
use super::schema::{deliveries, delivery_attempts, delivery_jobs, durable_marks, durables, services};

pub(super) use progress::change;
pub use progress::{ConsumerChange, DeadLetter};

/// A consumer that is to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewConsumer {
    pub name: String,
    pub pattern: String,
    /// The filter as JSON.
    pub filter: Option<String>,
    /// The consumer gets the events after this one.
    pub ack_floor: EventId,
    pub policy: ConsumerPolicy,
}

/// A consumer as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRecord {
    pub service: ServiceId,
    pub name: String,
    pub pattern: String,
    pub filter: Option<String>,
    /// Rises when another process takes the lease or an operator moves the consumer. It voids the changes of earlier
    /// holders.
    pub fencing_epoch: i64,
    /// Every event up to this one is acknowledged.
    pub ack_floor: EventId,
    pub policy: ConsumerPolicy,
    pub created_at: Timestamp,
}

impl ConsumerRecord {
    /// Why the consumer does not get an event of this name and payload; `None` means that it does.
    pub fn why_not(&self, name: &EventName, payload: &str) -> Option<String> {
        if !Pattern::parse(self.pattern.clone()).is_ok_and(|pattern| pattern.matches(name)) {
            return Some("its event_name does not match".to_owned());
        }
        let filter = self.filter.as_deref().and_then(|json| Filter::parse(json).ok());
        filter.and_then(|filter| filter.first_failure(payload)).map(|failure| failure.to_string())
    }
}

/// A consumer, and whether this process has its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedConsumer {
    pub grant: Grant,
    /// The generation of the membership for which it was asked; zero of a node that is no member.
    pub term: i64,
    pub record: ConsumerRecord,
    /// The marks above the ack floor, in the order of ids. `None` if the caller knows them already or another process
    /// has the lease.
    pub marks: Option<Vec<(EventId, Mark)>>,
    /// Whether a redrive has made dead letters open again, which wait to be delivered.
    pub has_renewed: bool,
}

/// A consumer for which a lease is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownConsumer {
    pub service: ServiceId,
    pub lease: LeaseName,
    /// The generation of the lease and the fencing epoch with which this node holds it, if it does: then its marks are
    /// not read again.
    pub held: Option<(i64, i64)>,
}

/// A change of a consumer by an operator or a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alteration {
    Policy(ConsumerPolicy),
    /// Moves the ack floor to this event.
    Seek(EventId),
    Delete,
}

type Row = (ServiceId, String, String, Option<String>, i64, i64, i64, i32, i32, i64);

fn record(row: Row) -> ConsumerRecord {
    let (service, name, pattern, filter, fencing_epoch, ack_floor, ack_wait_us, max_in_flight, max_deliver, created_at) =
        row;
    let policy = ConsumerPolicy {
        ack_wait: Duration::from_micros(u64::try_from(ack_wait_us).unwrap_or(0)),
        max_in_flight: u32::try_from(max_in_flight).unwrap_or(1),
        max_deliver: u32::try_from(max_deliver).unwrap_or(0),
    };
    ConsumerRecord {
        service,
        name,
        pattern,
        filter,
        fencing_epoch,
        ack_floor,
        policy,
        created_at: Timestamp(created_at),
    }
}

/// Finds the consumer of this name.
pub(super) fn find(connection: &mut Connection, name: &str) -> Result<Option<ConsumerRecord>, StoreError> {
    let query = durables::table.filter(durables::name.eq(name));
    let row: Option<Row> = on_backend!(connection, c => query.first(c).optional())?;
    Ok(row.map(record))
}

/// Finds the consumer of this name, or creates it. Returns `None` if it is missing and there are `max` consumers
/// already.
///
/// The transaction must hold the writer's lock.
pub(super) fn open(
    connection: &mut Connection,
    new: &NewConsumer,
    max: usize,
    now: Timestamp,
) -> Result<Option<ConsumerRecord>, StoreError> {
    if let Some(known) = find(connection, &new.name)? {
        return Ok(Some(known));
    }
    let count: i64 = on_backend!(connection, c => durables::table.count().get_result(c))?;
    if usize::try_from(count).is_ok_and(|count| count >= max) {
        return Ok(None);
    }
    let Some(service) = free_service_id(connection)? else { return Ok(None) };
    let known_as =
        (services::id.eq(service), services::name.eq(service_name(&new.name)), services::created_at.eq(now.0));
    on_backend!(connection, c => diesel::insert_into(services::table).values(known_as).execute(c))?;
    let row = (
        durables::service.eq(service),
        durables::name.eq(&*new.name),
        durables::pattern.eq(&*new.pattern),
        durables::filter.eq(new.filter.as_deref()),
        // The time never equals the epoch of an earlier consumer that had the same id.
        durables::epoch.eq(now.0),
        durables::floor.eq(new.ack_floor),
        durables::created_at.eq(now.0),
        policy_columns(&new.policy),
    );
    on_backend!(connection, c => diesel::insert_into(durables::table).values(row).execute(c))?;
    find(connection, &new.name)
}

type PolicyColumns = (
    diesel::dsl::Eq<durables::ack_wait_us, i64>,
    diesel::dsl::Eq<durables::max_in_flight, i32>,
    diesel::dsl::Eq<durables::max_deliver, i32>,
);

fn policy_columns(policy: &ConsumerPolicy) -> PolicyColumns {
    (
        durables::ack_wait_us.eq(i64::try_from(policy.ack_wait.as_micros()).unwrap_or(i64::MAX)),
        durables::max_in_flight.eq(i32::try_from(policy.max_in_flight).unwrap_or(i32::MAX)),
        durables::max_deliver.eq(i32::try_from(policy.max_deliver).unwrap_or(i32::MAX)),
    )
}

/// Alters the consumer of this name. Returns false if there is none.
pub(super) fn alter(connection: &mut Connection, name: &str, alteration: &Alteration) -> Result<bool, StoreError> {
    match alteration {
        Alteration::Policy(policy) => set_policy(connection, name, policy),
        Alteration::Seek(ack_floor) => seek(connection, name, *ack_floor),
        Alteration::Delete => delete(connection, name),
    }
}

/// Replaces the policy of the consumer. Returns false if there is none of this name.
fn set_policy(connection: &mut Connection, name: &str, policy: &ConsumerPolicy) -> Result<bool, StoreError> {
    let update = diesel::update(durables::table.filter(durables::name.eq(name))).set(policy_columns(policy));
    Ok(on_backend!(connection, c => update.execute(c))? > 0)
}

/// All consumers, in the order of their names.
pub(super) fn list(connection: &mut Connection) -> Result<Vec<ConsumerRecord>, StoreError> {
    let query = durables::table.order(durables::name);
    let rows: Vec<Row> = on_backend!(connection, c => query.load(c))?;
    Ok(rows.into_iter().map(record).collect())
}

/// What is stored of these, for whoever holds them or may. Those that were deleted are left out.
pub(super) fn leased(
    connection: &mut Connection,
    known: &[KnownConsumer],
    grants: &[Grant],
    term: i64,
) -> Result<Vec<LeasedConsumer>, StoreError> {
    let services: Vec<ServiceId> = known.iter().map(|known| known.service).collect();
    let query = durables::table.filter(durables::service.eq_any(&services));
    let rows: Vec<Row> = on_backend!(connection, c => query.load(c))?;
    let mut records: HashMap<ServiceId, ConsumerRecord> =
        rows.into_iter().map(record).map(|record| (record.service, record)).collect();
    let renewed = renewed(connection, &services)?;
    let mut all = Vec::with_capacity(known.len());
    for (KnownConsumer { service, held, .. }, grant) in known.iter().zip(grants) {
        let Some(record) = records.remove(service) else { continue };
        let marks = match grant.generation() {
            None => None,
            Some(generation) if *held == Some((generation, record.fencing_epoch)) => None,
            Some(_) => Some(marks(connection, &record)?),
        };
        let has_renewed = renewed.contains(service);
        all.push(LeasedConsumer { grant: *grant, term, record, marks, has_renewed });
    }
    Ok(all)
}

/// Those of `services` that have a delivery to be made again.
fn renewed(connection: &mut Connection, services: &[ServiceId]) -> Result<HashSet<ServiceId>, StoreError> {
    let waits = deliveries::table
        .filter(deliveries::service.eq(services::id))
        // This text must match the condition of the partial index, or the index is not used.
        .filter(sql::<Bool>("deliveries.state = 1"));
    let those = services::table.filter(services::id.eq_any(services)).filter(exists(waits)).select(services::id);
    let ids: Vec<ServiceId> = on_backend!(connection, c => those.load(c))?;
    Ok(ids.into_iter().collect())
}

fn marks(connection: &mut Connection, of: &ConsumerRecord) -> Result<Vec<(EventId, Mark)>, StoreError> {
    let above = durable_marks::table
        .filter(durable_marks::service.eq(of.service))
        .filter(durable_marks::event_id.gt(of.ack_floor))
        .order(durable_marks::event_id)
        .select((durable_marks::event_id, durable_marks::deliveries));
    let rows: Vec<(i64, i32)> = on_backend!(connection, c => above.load(c))?;
    Ok(rows.into_iter().map(|(id, deliveries)| (id, mark(deliveries))).collect())
}

fn mark(deliveries: i32) -> Mark {
    match u32::try_from(deliveries) {
        Ok(deliveries @ 1..) => Mark::Delivered(deliveries),
        _ => Mark::Settled,
    }
}

/// The marks that these consumers have for one event.
pub(super) fn marks_of(
    connection: &mut Connection,
    services: &[ServiceId],
    id: EventId,
) -> Result<HashMap<ServiceId, Mark>, StoreError> {
    let of_event = durable_marks::table
        .filter(durable_marks::service.eq_any(services))
        .filter(durable_marks::event_id.eq(id))
        .select((durable_marks::service, durable_marks::deliveries));
    let rows: Vec<(ServiceId, i32)> = on_backend!(connection, c => of_event.load(c))?;
    Ok(rows.into_iter().map(|(service, deliveries)| (service, mark(deliveries))).collect())
}

/// Moves the consumer: every event above `ack_floor` is delivered again, even if it was acknowledged. Returns false if
/// there is no consumer of this name.
fn seek(connection: &mut Connection, name: &str, ack_floor: EventId) -> Result<bool, StoreError> {
    let Some(ConsumerRecord { service, .. }) = find(connection, name)? else { return Ok(false) };
    let update = diesel::update(durables::table.find(service))
        .set((durables::floor.eq(ack_floor), durables::epoch.eq(durables::epoch + 1)));
    on_backend!(connection, c => update.execute(c))?;
    let marks = durable_marks::table.filter(durable_marks::service.eq(service));
    on_backend!(connection, c => diesel::delete(marks).execute(c))?;
    delete_deliveries(connection, service, ack_floor)?;
    Ok(true)
}

/// Deletes the consumer and all that is stored of it. Returns false if there is none of this name.
fn delete(connection: &mut Connection, name: &str) -> Result<bool, StoreError> {
    let Some(ConsumerRecord { service, .. }) = find(connection, name)? else { return Ok(false) };
    let marks = durable_marks::table.filter(durable_marks::service.eq(service));
    let jobs = delivery_jobs::table.filter(delivery_jobs::service.eq(service));
    delete_deliveries(connection, service, 0)?;
    on_backend!(connection, c => diesel::delete(marks).execute(c))?;
    on_backend!(connection, c => diesel::delete(jobs).execute(c))?;
    on_backend!(connection, c => diesel::delete(durables::table.find(service)).execute(c))?;
    on_backend!(connection, c => diesel::delete(services::table.find(service)).execute(c))?;
    Ok(true)
}

/// Deletes the consumer's dead letters and reopened deliveries above `ack_floor`, with their attempts.
fn delete_deliveries(connection: &mut Connection, service: ServiceId, ack_floor: EventId) -> Result<(), StoreError> {
    let attempts = delivery_attempts::table
        .filter(delivery_attempts::service.eq(service))
        .filter(delivery_attempts::event_id.gt(ack_floor));
    on_backend!(connection, c => diesel::delete(attempts).execute(c))?;
    let of_it = deliveries::table.filter(deliveries::service.eq(service)).filter(deliveries::event_id.gt(ack_floor));
    on_backend!(connection, c => diesel::delete(of_it).execute(c))?;
    Ok(())
}
