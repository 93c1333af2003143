//! What the store knows of services.

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

/// A service with what of it outlives a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub id: ServiceId,
    /// Why it takes nothing, if it does not.
    pub paused: Option<String>,
    /// The breaker, as JSON.
    pub breaker: Option<String>,
}

/// What is to be written of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceChange {
    /// Its state, by who holds it; the commands up to `applied` are in it.
    Kept { state: Registered, applied: CommandId },
    /// A command, for whoever holds it.
    Asked { service: ServiceId, command: String },
}

/// Which of the commands for services; rising, and never used again.
pub type CommandId = i64;

/// What who wants to hold a service has to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedService {
    pub grant: Grant,
    /// Of the service, as it is in the store.
    pub state: Registered,
    /// What is to be applied, in order; empty if another process has to.
    pub commands: Vec<(CommandId, String)>,
}

/// A service as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewService {
    pub name: ByteString,
    pub patterns: Vec<Pattern>,
    /// The first stored event that it gets if it was never seen before; none gets only what comes.
    pub start_from: Option<EventId>,
}

/// Finds the service, or adds it; within a transaction that holds the writer's lock.
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
    let full = || StoreError::new(StoreErrorKind::Internal, "the store has no number left for another service");
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

/// A number that no service has: the next one, or the lowest that is free again.
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
            // Once is enough, however often it was said: so there are never more than there are commands.
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

/// What whoever holds, or may hold, a service has to know.
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
        Grant::Kept | Grant::Taken => on_backend!(connection, c => asked.load(c))?,
    };
    Ok(LeasedService { grant, state: Registered { id: service, paused, breaker }, commands })
}

/// The names of all services that the store has ever seen.
pub(in crate::storage) fn names(connection: &mut Connection) -> Result<BTreeMap<ServiceId, String>, StoreError> {
    let query = services::table.select((services::id, services::name));
    let rows: Vec<(ServiceId, String)> = on_backend!(connection, c => query.load(c))?;
    Ok(rows.into_iter().collect())
}

/// The name in `services` under which the dead deliveries of a durable subscription are kept. No configured service can
/// have such a name.
pub fn service_name(durable: &str) -> String {
    format!("durable/{durable}")
}
