//! How far whoever follows a log has come.

use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _};

use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::schema::positions;
use crate::domain::lease::Grant;

/// The lease of a follower, and from where it is to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedFollower {
    pub grant: Grant,
    /// As it was stored last; none at first.
    pub position: Option<String>,
}

/// Where the follower called `name` has come to.
pub(super) fn position(connection: &mut Connection, name: &str) -> Result<Option<String>, StoreError> {
    let query = positions::table.find(name).select(positions::position);
    Ok(on_backend!(connection, c => query.first(c).optional())?)
}

/// Stores where the follower called `name` has come to.
pub(super) fn set_position(connection: &mut Connection, name: &str, position: &str) -> Result<(), StoreError> {
    let row = (positions::name.eq(name), positions::position.eq(position));
    let moved = positions::position.eq(position);
    match connection {
        Connection::Sqlite(file) => {
            let insert = diesel::insert_into(positions::table).values(row);
            insert.on_conflict(positions::name).do_update().set(moved).execute(&mut file.connection)?;
        }
        Connection::Postgres(session) => {
            let insert = diesel::insert_into(positions::table).values(row);
            insert.on_conflict(positions::name).do_update().set(moved).execute(&mut session.connection)?;
        }
    }
    Ok(())
}
