//! Reads the deliveries that are to be made next, with their events.

use std::fmt::Write as _;

use bytestring::ByteString;
use diesel::backend::Backend;
use diesel::connection::DefaultLoadingMode;
use diesel::pg::{Pg, PgConnection, PgRowByRowLoadingMode};
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{BigInt, HasSqlType, Integer, Nullable, SmallInt, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel::{QueryResult, RunQueryDsl};

use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::priority::Lane;
use crate::domain::routes::ServiceId;
use crate::domain::work::WorkId;
use crate::storage::connection::{Connection, SqliteFile};
use crate::storage::error::StoreError;
use crate::storage::fragments;

/// Which open deliveries of a service to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Deliveries of this lane that were never attempted, after this event; in the order of ids.
    Waiting { lane: Lane, after: EventId },
    /// Deliveries to be retried that are due by `now`, after this one; in the order in which they are due.
    Due { now: Timestamp, after: (Timestamp, EventId) },
    /// All open deliveries of an ordering key; in the order of ids.
    Key { key: ByteString },
}

/// An open delivery and its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    pub event: Event,
    pub lane: Lane,
    /// Attempts made so far.
    pub attempts: u32,
    /// Attempts made before the last redrive or replay. They do not count for the retry policy.
    pub spent: u32,
    /// When it is due; `None` if at once.
    pub due_at: Option<Timestamp>,
    /// The newest open delivery before this one with the same ordering key.
    pub behind: Option<EventId>,
}

impl Claimed {
    /// How the dispatcher identifies the delivery.
    pub fn work_id(&self) -> WorkId {
        WorkId::Delivery(self.event.id)
    }
}

/// Reads at most `max_rows` deliveries. The last event may exceed `max_bytes`, so that something is returned.
pub(in crate::storage) fn claim(
    connection: &mut Connection,
    service: ServiceId,
    claim: &Claim,
    max_rows: usize,
    max_bytes: usize,
) -> Result<Vec<Claimed>, StoreError> {
    let query = ClaimRows { service, claim: claim.clone(), limit: max_rows as i64 };
    let mut bytes = 0;
    let mut found = Vec::with_capacity(max_rows.min(1024));
    let mut take = |row: QueryResult<Row>| -> QueryResult<bool> {
        let claimed = claimed(row?);
        bytes += claimed.event.memory();
        found.push(claimed);
        Ok(bytes < max_bytes)
    };
    match connection {
        Connection::Sqlite(SqliteFile { connection, .. }) => {
            for row in query.load_iter::<Row, DefaultLoadingMode>(connection)? {
                if !take(row)? {
                    break;
                }
            }
        }
        Connection::Postgres(session) => {
            for row in query.load_iter::<Row, PgRowByRowLoadingMode>(&mut session.connection)? {
                if !take(row)? {
                    break;
                }
            }
        }
    }
    Ok(found)
}

type Row = ((i16, i32, i32, i64, Option<i64>), fragments::Row);
type RowType = (
    (SmallInt, Integer, Integer, BigInt, Nullable<BigInt>),
    (BigInt, Text, Text, Text, SmallInt, Nullable<Text>, Nullable<Text>, Nullable<Text>, BigInt),
);

fn claimed(((lane, attempts, spent, due_at, behind), row): Row) -> Claimed {
    Claimed {
        event: fragments::event(row),
        lane: Lane::from_store(lane),
        attempts: u32::try_from(attempts).unwrap_or(0),
        spent: u32::try_from(spent).unwrap_or(0),
        due_at: (due_at != 0).then_some(Timestamp(due_at)),
        behind,
    }
}

struct ClaimRows {
    service: ServiceId,
    claim: Claim,
    limit: i64,
}

impl QueryId for ClaimRows {
    type QueryId = ();
    // The text of the statement varies with the claim, so diesel caches it by its text.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for ClaimRows {
    type SqlType = RowType;
}

impl ClaimRows {
    /// States are part of the text and not parameters, because only then do the partial indexes apply. `CROSS JOIN`
    /// makes SQLite begin with the deliveries.
    fn walk<'b, DB>(&'b self, out: &mut AstPass<'_, 'b, DB>) -> QueryResult<()>
    where
        DB: Backend + HasSqlType<BigInt> + HasSqlType<SmallInt> + HasSqlType<Text>,
        i64: ToSql<BigInt, DB>,
        i16: ToSql<SmallInt, DB>,
        str: ToSql<Text, DB>,
    {
        out.push_sql(
            "SELECT d.lane, d.attempts, d.spent, d.due_at, CASE WHEN d.key IS NOT NULL THEN (SELECT max(k.event_id) \
             FROM deliveries k WHERE k.service = d.service AND k.key = d.key AND k.key IS NOT NULL AND k.state < 2 \
             AND k.event_id < d.event_id) END, e.id, e.name, e.payload, e.source, e.priority, e.key, e.metadata, e.traceparent, e.created_at \
             FROM deliveries d CROSS JOIN events e WHERE e.id = d.event_id AND d.service = ",
        );
        out.push_bind_param::<SmallInt, _>(&self.service)?;
        match &self.claim {
            Claim::Waiting { lane, after } => {
                let mut lane_is = String::new();
                let _ = write!(
                    lane_is,
                    " AND d.state = 0 AND d.state <> 2 AND d.lane = {} AND d.event_id > ",
                    *lane as i16
                );
                out.push_sql(&lane_is);
                out.push_bind_param::<BigInt, _>(after)?;
                out.push_sql(" ORDER BY d.event_id");
            }
            Claim::Due { now, after: (due_at, id) } => {
                out.push_sql(" AND d.state = 1 AND d.due_at <= ");
                out.push_bind_param::<BigInt, _>(&now.0)?;
                out.push_sql(" AND (d.due_at, d.event_id) > (");
                out.push_bind_param::<BigInt, _>(&due_at.0)?;
                out.push_sql(", ");
                out.push_bind_param::<BigInt, _>(id)?;
                out.push_sql(") ORDER BY d.due_at, d.event_id");
            }
            Claim::Key { key } => {
                out.push_sql(" AND d.state < 2 AND d.key IS NOT NULL AND d.key = ");
                out.push_bind_param::<Text, str>(key)?;
                out.push_sql(" ORDER BY d.event_id");
            }
        }
        out.push_sql(" LIMIT ");
        out.push_bind_param::<BigInt, _>(&self.limit)
    }
}

impl QueryFragment<Sqlite> for ClaimRows {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        self.walk(&mut out)
    }
}

impl QueryFragment<Pg> for ClaimRows {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.walk(&mut out)
    }
}

impl RunQueryDsl<SqliteConnection> for ClaimRows {}
impl RunQueryDsl<PgConnection> for ClaimRows {}
