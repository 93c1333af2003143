//! Principals and tokens that operators have revoked.

use std::collections::HashSet;

use diesel::{ExpressionMethods as _, QueryDsl as _, RunQueryDsl as _};

use crate::domain::access::Identity;
use crate::domain::event::Timestamp;

use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::schema::revocations;

/// All revoked identities.
pub(super) fn all(connection: &mut Connection) -> Result<HashSet<Identity>, StoreError> {
    let query = revocations::table.select((revocations::kind, revocations::value));
    let rows: Vec<(String, String)> = on_backend!(connection, c => query.load(c))?;
    Ok(rows.into_iter().filter_map(|(kind, value)| Identity::new(&kind, value)).collect())
}

/// Adds or removes one. Returns whether that changed anything.
pub(super) fn set(
    connection: &mut Connection,
    who: &Identity,
    is_revoked: bool,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let key = (who.kind(), who.value());
    let changed = if is_revoked {
        let row = (revocations::kind.eq(key.0), revocations::value.eq(key.1), revocations::revoked_at.eq(at.0));
        let insert = diesel::insert_into(revocations::table).values(row).on_conflict_do_nothing();
        on_backend!(connection, c => insert.execute(c))?
    } else {
        let gone = diesel::delete(revocations::table.find(key));
        on_backend!(connection, c => gone.execute(c))?
    };
    Ok(changed > 0)
}
