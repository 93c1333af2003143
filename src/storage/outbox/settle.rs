//! Stores the outcomes of attempts.

use std::time::Duration;

use diesel::pg::{Pg, PgConnection};
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Integer, Nullable, SmallInt, Text};
use diesel::sqlite::SqliteConnection;
use diesel::{ExpressionMethods as _, QueryDsl as _, QueryResult, RunQueryDsl};

use crate::domain::delivery::{DeadReason, DeliveryState};
use crate::domain::event::{EventId, Timestamp};
use crate::domain::priority::Lane;
use crate::domain::routes::ServiceId;
use crate::storage::connection::{Connection, SqliteFile, on_backend};
use crate::storage::error::StoreError;
use crate::storage::schema::{deliveries, delivery_attempts};

/// The outcome of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryOutcome {
    pub service: ServiceId,
    pub event_id: EventId,
    pub lane: Lane,
    /// Attempts made, this one included.
    pub attempts: u32,
    pub finished_at: Timestamp,
    pub took: Duration,
    pub http_status: Option<u16>,
    /// How it failed, in a few words; `None` if it was delivered.
    pub reason: Option<String>,
    /// The beginning of the response body of a failed attempt.
    pub answer: Option<String>,
    pub settled: Settled,
}

/// What the outcome means for the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Delivered,
    /// It is tried again, not before this time.
    Retry(Timestamp),
    Dead(DeadReason),
}

impl DeliveryOutcome {
    fn state(&self) -> DeliveryState {
        match self.settled {
            Settled::Delivered => DeliveryState::Delivered,
            Settled::Retry(_) => DeliveryState::Retrying,
            Settled::Dead(_) => DeliveryState::Dead,
        }
    }

    fn due_at(&self) -> i64 {
        match self.settled {
            Settled::Retry(due_at) => due_at.0,
            Settled::Delivered | Settled::Dead(_) => 0,
        }
    }

    /// The reason in the row of the delivery: why it is dead, or why it is retried.
    fn row_reason(&self) -> Option<&str> {
        match self.settled {
            Settled::Delivered => None,
            Settled::Retry(_) => self.reason.as_deref(),
            Settled::Dead(reason) => Some(reason.as_str()),
        }
    }

    fn took_us(&self) -> i64 {
        i64::try_from(self.took.as_micros()).unwrap_or(i64::MAX)
    }

    fn status(&self) -> Option<i16> {
        self.http_status.and_then(|status| i16::try_from(status).ok())
    }
}

/// Stores the outcomes. Returns for each part how many deliveries were still open. A delivery that has ended stays as
/// it is (DL-1): only an operator's redrive or replay opens it again.
pub(in crate::storage) fn settle(
    connection: &mut Connection,
    parts: &[&[DeliveryOutcome]],
) -> Result<Vec<usize>, StoreError> {
    let written = match connection {
        _ if parts.iter().all(|part| part.is_empty()) => vec![0; parts.len()],
        Connection::Sqlite(SqliteFile { connection, .. }) => {
            parts.iter().map(|part| on_sqlite(connection, part)).collect::<Result<_, _>>()?
        }
        Connection::Postgres(session) => on_postgres(&mut session.connection, parts)?,
    };
    for failed in parts.iter().copied().flatten().filter(|s| s.settled != Settled::Delivered) {
        let row = (
            delivery_attempts::event_id.eq(failed.event_id),
            delivery_attempts::service.eq(failed.service),
            delivery_attempts::attempt.eq(failed.attempts as i32),
            delivery_attempts::finished_at.eq(failed.finished_at.0),
            delivery_attempts::took_us.eq(failed.took_us()),
            delivery_attempts::http_status.eq(failed.status()),
            delivery_attempts::reason.eq(failed.reason.as_deref().unwrap_or_default()),
            delivery_attempts::answer.eq(failed.answer.as_deref()),
        );
        on_backend!(connection, c => {
            diesel::insert_into(delivery_attempts::table).values(row).on_conflict_do_nothing().execute(c)
        })?;
    }
    Ok(written)
}

fn on_sqlite(connection: &mut SqliteConnection, delivery_outcomes: &[DeliveryOutcome]) -> QueryResult<usize> {
    let mut written = 0;
    for done in delivery_outcomes {
        let open = deliveries::table
            .find((done.event_id, done.service))
            .filter(deliveries::state.lt(DeliveryState::Delivered as i16));
        written += diesel::update(open)
            .set((
                deliveries::state.eq(done.state() as i16),
                deliveries::due_at.eq(done.due_at()),
                deliveries::attempts.eq(done.attempts as i32),
                deliveries::finished_at.eq(done.finished_at.0),
                deliveries::took_us.eq(done.took_us()),
                deliveries::http_status.eq(done.status()),
                deliveries::reason.eq(done.row_reason()),
            ))
            .execute(connection)?;
    }
    Ok(written)
}

fn on_postgres(connection: &mut PgConnection, parts: &[&[DeliveryOutcome]]) -> QueryResult<Vec<usize>> {
    let mut written = vec![0; parts.len()];
    let of: Vec<i32> = Settle::new(parts).load(connection)?;
    of.into_iter().for_each(|part| written[part as usize] += 1);
    Ok(written)
}

/// Updates any number of rows and returns the part of each row that it has found. `state + 0` keeps PostgreSQL from
/// looking them up in the partial index of open deliveries, which takes longer the more there are.
struct Settle<'a> {
    event_id: Vec<i64>,
    service: Vec<i16>,
    state: Vec<i16>,
    due_at: Vec<i64>,
    attempts: Vec<i32>,
    finished_at: Vec<i64>,
    took_us: Vec<i64>,
    http_status: Vec<Option<i16>>,
    reason: Vec<Option<&'a str>>,
    part: Vec<i32>,
}

impl<'a> Settle<'a> {
    fn new(parts: &[&'a [DeliveryOutcome]]) -> Self {
        let each = || parts.iter().copied().flatten();
        let numbered = (0..).zip(parts).flat_map(|(number, part)| std::iter::repeat_n(number, part.len()));
        Self {
            event_id: each().map(|s| s.event_id).collect(),
            service: each().map(|s| s.service).collect(),
            state: each().map(|s| s.state() as i16).collect(),
            due_at: each().map(DeliveryOutcome::due_at).collect(),
            attempts: each().map(|s| s.attempts as i32).collect(),
            finished_at: each().map(|s| s.finished_at.0).collect(),
            took_us: each().map(DeliveryOutcome::took_us).collect(),
            http_status: each().map(DeliveryOutcome::status).collect(),
            reason: each().map(DeliveryOutcome::row_reason).collect(),
            part: numbered.collect(),
        }
    }
}

impl QueryId for Settle<'_> {
    type QueryId = Settle<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for Settle<'_> {
    type SqlType = Integer;
}

impl QueryFragment<Pg> for Settle<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "UPDATE deliveries AS d SET state = s.state, due_at = s.due_at, attempts = s.attempts, \
             finished_at = s.finished_at, took_us = s.took_us, http_status = s.http_status, reason = s.reason \
             FROM unnest(",
        );
        out.push_bind_param::<Array<BigInt>, _>(&self.event_id)?;
        for numbers in [&self.service, &self.state] {
            out.push_sql(", ");
            out.push_bind_param::<Array<SmallInt>, _>(numbers)?;
        }
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.due_at)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Integer>, _>(&self.attempts)?;
        for numbers in [&self.finished_at, &self.took_us] {
            out.push_sql(", ");
            out.push_bind_param::<Array<BigInt>, _>(numbers)?;
        }
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<SmallInt>>, _>(&self.http_status)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.reason)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Integer>, _>(&self.part)?;
        out.push_sql(
            ") AS s (event_id, service, state, due_at, attempts, finished_at, took_us, http_status, reason, part) \
             WHERE d.event_id = s.event_id AND d.service = s.service AND d.state + 0 < 2 RETURNING s.part",
        );
        Ok(())
    }
}

impl RunQueryDsl<PgConnection> for Settle<'_> {}
