//! Shortens waits that a wrong clock has made too long.

use std::time::Duration;

use diesel::dsl::sql;
use diesel::sql_types::Bool;
use diesel::{ExpressionMethods as _, QueryDsl as _, RunQueryDsl as _};

use crate::domain::event::Timestamp;
use crate::domain::routes::ServiceId;
use crate::storage::connection::{Connection, on_backend};
use crate::storage::error::StoreError;
use crate::storage::schema::{deliveries, durables};

/// A clock that is being corrected may be off by this much.
const TOLERANCE: Duration = Duration::from_secs(10);

/// Makes deliveries due that would wait longer than `longest` says for their service, at most `max_rows` of each.
/// Consumers deliver at once, so theirs may not wait at all.
pub(in crate::storage) fn bound_waits(
    connection: &mut Connection,
    longest: &[(ServiceId, Duration)],
    now: Timestamp,
    max_rows: usize,
) -> Result<(), StoreError> {
    let limit = i64::try_from(max_rows).unwrap_or(i64::MAX);
    // The condition is text and not a parameter, because only then does the partial index apply.
    let later_than = |wait: Duration| {
        deliveries::table
            .filter(sql::<Bool>("state = 1"))
            .filter(deliveries::due_at.gt(now.plus(wait).plus(TOLERANCE).0))
            .select((deliveries::service, deliveries::event_id))
            .limit(limit)
    };
    let of_consumers =
        later_than(Duration::ZERO).filter(deliveries::service.eq_any(durables::table.select(durables::service)));
    let mut too_long: Vec<(ServiceId, i64)> = on_backend!(connection, c => of_consumers.load(c))?;
    for (service, longest) in longest {
        let of_service = later_than(*longest).filter(deliveries::service.eq(*service));
        let found: Vec<(ServiceId, i64)> = on_backend!(connection, c => of_service.load(c))?;
        too_long.extend(found);
    }
    for (service, id) in too_long {
        let delivery = deliveries::table.find((id, service)).filter(sql::<Bool>("state = 1"));
        let update = diesel::update(delivery).set(deliveries::due_at.eq(now.0));
        on_backend!(connection, c => update.execute(c))?;
    }
    Ok(())
}
