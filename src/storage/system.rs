//! The state of the whole system, in its one row.

use diesel::{ExpressionMethods as _, QueryDsl as _, RunQueryDsl as _};

use super::connection::{Connection, on_backend};
use super::error::{StoreError, StoreErrorKind};
use super::schema::system_state;
use crate::domain::event::Timestamp;
use crate::domain::system::{System, SystemState};

/// The state as it is stored.
pub(super) fn read(connection: &mut Connection) -> Result<System, StoreError> {
    type Row = (String, i64, Option<String>, Option<String>, Option<String>);
    let query = system_state::table.select((
        system_state::state,
        system_state::since,
        system_state::reason,
        system_state::transition,
        system_state::change,
    ));
    let (state, since, reason, transition, change): Row = on_backend!(connection, c => query.first(c))?;
    let strange = |what: &str| StoreError::new(StoreErrorKind::Internal, format!("the state of the system: {what}"));
    Ok(System {
        state: SystemState::parse(&state).ok_or_else(|| strange(&state))?,
        since: Timestamp(since),
        reason,
        transition,
        change: change
            .map(|json| serde_json::from_str(&json))
            .transpose()
            .map_err(|error| strange(&error.to_string()))?,
    })
}

/// Whether publishes may be refused.
pub(super) fn is_in_maintenance(connection: &mut Connection) -> Result<bool, StoreError> {
    let query = system_state::table.select(system_state::state);
    let state: String = on_backend!(connection, c => query.first(c))?;
    Ok(state == SystemState::Maintenance.as_str())
}

/// Stores the state in the place of the earlier one.
pub(super) fn save(connection: &mut Connection, system: &System) -> Result<(), StoreError> {
    let System { state, since, reason, transition, change } = system;
    let change = change.as_ref().map(|change| serde_json::json!(change).to_string());
    let row = (
        system_state::state.eq(state.as_str()),
        system_state::since.eq(since.0),
        system_state::reason.eq(reason.as_deref()),
        system_state::transition.eq(transition.as_deref()),
        system_state::change.eq(change),
    );
    on_backend!(connection, c => diesel::update(system_state::table).set(row).execute(c))?;
    Ok(())
}
