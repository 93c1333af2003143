//! The stored state of services, their ids, and commands for the holders of their leases.

use std::collections::BTreeMap;

use bytestring::ByteString;
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _};

use crate::domain::event::{EventId, LogBounds, Timestamp};
use crate::domain::lease::Grant;
use crate::domain::pattern::Pattern;
use crate::domain::routes::ServiceId;
use crate::storage::connection::{Connection, on_backend};
use crate::storage::error::{StoreError, StoreErrorKind};
use crate::storage::schema::{service_commands, services};

use super::replay_jobs::{NewReplayJob, ReplayJobKind, create_replay_job};

/// A registered service and its stored state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub id: ServiceId,
    /// Why the service is paused; `None` if it is not.
    pub paused: Option<String>,
    /// The state of the circuit breaker as JSON.
    pub breaker: Option<String>,
}

/// A change of the stored state of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceChange {
    /// The state as the holder of the lease knows it. Commands up to `applied` are included and can be deleted.
    Kept { state: Registered, applied: CommandId },
    /// A command for the holder of the lease, from another process.
    Asked { service: ServiceId, command: String },
}

/// The number of a command. Numbers rise and are never used again.
pub type CommandId = i64;

/// The answer to a request for the lease of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedService {
    pub grant: Grant,
    /// The state of the service as it is stored.
    pub state: Registered,
    /// Commands to apply, in order. Empty if another process has the lease.
    pub commands: Vec<(CommandId, String)>,
}

/// A service as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewService {
    pub name: ByteString,
    pub patterns: Vec<Pattern>,
    /// The first stored event to deliver to a service that was never registered before; `None` means only new events.
    pub start_from: Option<EventId>,
}

/// Finds the service, or adds it. The transaction must hold the writer's lock.
pub(in crate::storage) fn register(
    connection: &mut Connection,
    service: &NewService,
    log: LogBounds,
    now: Timestamp,
) -> Result<Registered, StoreError> {
    let NewService { name, patterns, start_from } = service;
    let name = &**name;
    let known =
        services::table.filter(services::name.eq(name)).select((services::id, services::paused, services::breaker));
    type Row = (ServiceId, Option<String>, Option<String>);
    let known: Option<Row> = on_backend!(connection, c => known.first(c).optional())?;
    if let Some((id, paused, breaker)) = known {
        return Ok(Registered { id, paused, breaker });
    }
    let full = || StoreError::new(StoreErrorKind::Internal, "the store has no id left for another service");
    let id = free_service_id(connection)?.ok_or_else(full)?;
    let row = (services::id.eq(id), services::name.eq(name), services::created_at.eq(now.0));
    on_backend!(connection, c => diesel::insert_into(services::table).values(row).execute(c))?;
    if let Some(from) = start_from.map(|from| from.max(log.earliest)).filter(|from| *from <= log.last) {
        let patterns = patterns.clone();
        let job = NewReplayJob { kind: ReplayJobKind::Replay, service: id, patterns, from, through: log.last };
        create_replay_job(connection, &job, now)?;
    }
    Ok(Registered { id, paused: None, breaker: None })
}

/// An id that no service has: the one after the highest, or the lowest free one.
pub(in crate::storage) fn free_service_id(connection: &mut Connection) -> Result<Option<ServiceId>, StoreError> {
    let ids = services::table.select(services::id).order(services::id.asc());
    let ids: Vec<ServiceId> = on_backend!(connection, c => ids.load(c))?;
    let last = ids.last().copied().unwrap_or(0);
    Ok(last.checked_add(1).or_else(|| (1..).zip(&ids).find(|(free, id)| free != *id).map(|(free, _)| free)))
}

pub(in crate::storage) fn change_service(
    connection: &mut Connection,
    change: &ServiceChange,
) -> Result<(), StoreError> {
    match change {
        ServiceChange::Kept { state: Registered { id, paused, breaker }, applied } => {
            let update = diesel::update(services::table.find(*id))
                .set((services::paused.eq(paused.as_deref()), services::breaker.eq(breaker.as_deref())));
            on_backend!(connection, c => update.execute(c))?;
            if *applied > 0 {
                let done = service_commands::table
                    .filter(service_commands::service.eq(*id))
                    .filter(service_commands::id.le(*applied));
                on_backend!(connection, c => diesel::delete(done).execute(c))?;
            }
        }
        ServiceChange::Asked { service, command } => {
            // A repeated command replaces the earlier one, so that there are never more rows than kinds of commands.
            let same = service_commands::table
                .filter(service_commands::service.eq(*service))
                .filter(service_commands::command.eq(&**command));
            on_backend!(connection, c => diesel::delete(same).execute(c))?;
            let row = (service_commands::service.eq(*service), service_commands::command.eq(&**command));
            on_backend!(connection, c => diesel::insert_into(service_commands::table).values(row).execute(c))?;
        }
    }
    Ok(())
}

/// The stored state of a service for a process that has, or wants, its lease.
pub(in crate::storage) fn leased(
    connection: &mut Connection,
    service: ServiceId,
    grant: Grant,
) -> Result<LeasedService, StoreError> {
    type State = (Option<String>, Option<String>);
    let state = services::table.find(service).select((services::paused, services::breaker));
    let (paused, breaker): State = on_backend!(connection, c => state.first(c))?;
    let asked = service_commands::table
        .filter(service_commands::service.eq(service))
        .order(service_commands::id)
        .select((service_commands::id, service_commands::command));
    let commands: Vec<(CommandId, String)> = match grant {
        Grant::Elsewhere => Vec::new(),
        Grant::Kept { .. } | Grant::Taken { .. } => on_backend!(connection, c => asked.load(c))?,
    };
    Ok(LeasedService { grant, state: Registered { id: service, paused, breaker }, commands })
}

/// The names of all services that were ever registered, and of consumers.
pub(in crate::storage) fn names(connection: &mut Connection) -> Result<BTreeMap<ServiceId, String>, StoreError> {
    let query = services::table.select((services::id, services::name));
    let rows: Vec<(ServiceId, String)> = on_backend!(connection, c => query.load(c))?;
    Ok(rows.into_iter().collect())
}

/// The name in the table `services` under which the dead letters of a consumer are stored. No configured service can
/// have such a name, because of the slash.
pub fn service_name(durable: &str) -> String {
    format!("durable/{durable}")
}
