//! Waits that a wrong clock has made too long.

use std::time::Duration;

use diesel::dsl::sql;
use diesel::sql_types::Bool;
use diesel::{ExpressionMethods as _, QueryDsl as _, RunQueryDsl as _};

use crate::domain::event::Timestamp;
use crate::domain::routes::ServiceId;
use crate::storage::connection::{Connection, on_backend};
use crate::storage::error::StoreError;
use crate::storage::schema::{deliveries, durables};

/// A clock may be slewed by so much.
const TOLERANCE: Duration = Duration::from_secs(10);

/// Makes deliveries due that would wait longer than `longest` of their service: at most `max_rows` of each. Those of
/// durable subscriptions never wait.
pub(in crate::storage) fn bound_waits(
    connection: &mut Connection,
    longest: &[(ServiceId, Duration)],
    now: Timestamp,
    max_rows: usize,
) -> Result<(), StoreError> {
    let query = durables::table.select(durables::service);
    let durables: Vec<ServiceId> = on_backend!(connection, c => query.load(c))?;
    let services = longest.iter().copied().chain(durables.into_iter().map(|service| (service, Duration::ZERO)));
    for (service, longest) in services {
        // In the text and not as a parameter: only so does the partial index apply.
        let waiting = || deliveries::table.filter(sql::<Bool>("state = 1")).filter(deliveries::service.eq(service));
        let latest = now.plus(longest).plus(TOLERANCE);
        let too_long = waiting()
            .filter(deliveries::due_at.gt(latest.0))
            .order((deliveries::due_at.desc(), deliveries::event_id.desc()))
            .select(deliveries::event_id)
            .limit(i64::try_from(max_rows).unwrap_or(i64::MAX));
        let ids: Vec<i64> = on_backend!(connection, c => too_long.load(c))?;
        if !ids.is_empty() {
            let update =
                diesel::update(waiting().filter(deliveries::event_id.eq_any(ids))).set(deliveries::due_at.eq(now.0));
            on_backend!(connection, c => update.execute(c))?;
        }
    }
    Ok(())
}
