//! How far services agree with the entities that they keep a copy of.

use diesel::{ExpressionMethods as _, QueryDsl as _, Queryable, RunQueryDsl as _};

use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::schema::syncs;
use crate::domain::entity::EntityType;
use crate::domain::event::{EventId, Timestamp};
use crate::domain::routes::ServiceId;
use crate::domain::sync::{Counts, Kind, SyncState};

/// How far a service agrees with the entities of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncRecord {
    pub service: ServiceId,
    pub kind: EntityType,
    pub state: SyncState,
    /// The newest event that the service says it has applied.
    pub as_of: Option<EventId>,
    /// How many events the log had then after that one.
    pub lag: Option<i64>,
    pub checked_at: Option<Timestamp>,
    pub next_check_at: Option<Timestamp>,
    /// Why the last check has failed, or was not made.
    pub error: Option<String>,
    /// What the last check has found, and is not repaired.
    pub differences: Counts,
}

#[derive(Queryable)]
struct Row {
    service: ServiceId,
    kind: String,
    state: String,
    as_of: Option<i64>,
    lag: Option<i64>,
    checked_at: Option<i64>,
    next_check_at: Option<i64>,
    error: Option<String>,
    missing: i64,
    stale: i64,
    extra: i64,
    ahead: i64,
}

/// All of them, in the order of services and types.
pub(super) fn list(connection: &mut Connection) -> Result<Vec<SyncRecord>, StoreError> {
    let query = syncs::table.order((syncs::service, syncs::kind));
    let rows: Vec<Row> = on_backend!(connection, c => query.load(c))?;
    Ok(rows.into_iter().map(record).collect())
}

fn record(row: Row) -> SyncRecord {
    let Row { service, kind, state, as_of, lag, checked_at, next_check_at, error, missing, stale, extra, ahead } = row;
    let mut differences = Counts::default();
    for (kind, count) in Kind::ALL.into_iter().zip([missing, stale, extra, ahead]) {
        differences.add(kind, count.unsigned_abs());
    }
    SyncRecord {
        service,
        kind: EntityType::from_store(kind),
        state: SyncState::from_store(&state),
        as_of,
        lag,
        checked_at: checked_at.map(Timestamp),
        next_check_at: next_check_at.map(Timestamp),
        error,
        differences,
    }
}

/// Stores one in the place of the earlier one.
pub(super) fn save(connection: &mut Connection, record: &SyncRecord) -> Result<(), StoreError> {
    let SyncRecord { service, kind, state, as_of, lag, checked_at, next_check_at, error, differences } = record;
    let count = |kind| i64::try_from(differences.of(kind)).unwrap_or(i64::MAX);
    let values = (
        syncs::state.eq(state.as_str()),
        syncs::as_of.eq(as_of),
        syncs::lag.eq(lag),
        syncs::checked_at.eq(checked_at.map(|at| at.0)),
        syncs::next_check_at.eq(next_check_at.map(|at| at.0)),
        syncs::error.eq(error.as_deref()),
        syncs::missing.eq(count(Kind::Missing)),
        syncs::stale.eq(count(Kind::Stale)),
        syncs::extra.eq(count(Kind::Extra)),
        syncs::ahead.eq(count(Kind::Ahead)),
    );
    let row = (syncs::service.eq(service), syncs::kind.eq(kind.as_str()), values);
    match connection {
        Connection::Sqlite(file) => {
            let insert = diesel::insert_into(syncs::table).values(row);
            insert.on_conflict((syncs::service, syncs::kind)).do_update().set(values).execute(&mut file.connection)?;
        }
        Connection::Postgres(session) => {
            let insert = diesel::insert_into(syncs::table).values(row);
            insert
                .on_conflict((syncs::service, syncs::kind))
                .do_update()
                .set(values)
                .execute(&mut session.connection)?;
        }
    }
    Ok(())
}
