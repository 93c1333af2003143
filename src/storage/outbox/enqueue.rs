//! Adds the deliveries of new events, in the same transaction.

use diesel::pg::{Pg, PgConnection};
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Nullable, SmallInt, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel::{ExpressionMethods as _, QueryDsl as _, QueryResult, RunQueryDsl};

use crate::domain::delivery::DeliveryState;
use crate::domain::event::{EventId, NewEvent};
use crate::domain::priority::Lane;
use crate::domain::routes::{Routes, ServiceId};
use crate::protocol;
use crate::storage::connection::{Connection, SqliteFile, on_backend};
use crate::storage::error::StoreError;
use crate::storage::schema::{deliveries, services};

/// Rows of the large and the small statement on SQLite. Few fixed sizes keep the number of prepared statements small.
const MANY: usize = 64;
const SOME: usize = 8;

/// How many deliveries were added, by service and lane.
pub type Enqueued = Vec<(ServiceId, [u32; Lane::COUNT])>;

struct Row<'a> {
    event_id: EventId,
    service: ServiceId,
    lane: i16,
    key: Option<&'a str>,
}

/// Adds a delivery for each service that the routes find for one of `events`, and counts them in `enqueued`.
pub(in crate::storage) fn enqueue<'a>(
    connection: &mut Connection,
    routes: &Routes,
    events: impl Iterator<Item = (&'a NewEvent, EventId)>,
    enqueued: &mut Enqueued,
) -> Result<(), StoreError> {
    if routes.is_empty() {
        return Ok(());
    }
    let mut rows = Vec::new();
    for (event, event_id) in events {
        let lane = Lane::from(event.priority);
        routes.for_each_service(event, |service| {
            rows.push(Row { event_id, service, lane: lane as i16, key: event.key.as_deref() });
            count(enqueued, service, lane);
        });
    }
    match connection {
        _ if rows.is_empty() => Ok(()),
        Connection::Sqlite(SqliteFile { connection, .. }) => on_sqlite(connection, &rows),
        Connection::Postgres(session) => on_postgres(&mut session.connection, &rows),
    }
}

/// Adds the deliveries of an event to these services, by name, as far as the routes have not added them; and counts them
/// in `enqueued`. The event is urgent, and of the ordering key that all such events have.
pub(in crate::storage) fn enqueue_to(
    connection: &mut Connection,
    event_id: EventId,
    to: &[String],
    enqueued: &mut Enqueued,
) -> Result<(), StoreError> {
    if to.is_empty() {
        return Ok(());
    }
    let named = services::table.filter(services::name.eq_any(to)).select(services::id);
    let ids: Vec<ServiceId> = on_backend!(connection, c => named.load(c))?;
    let key = protocol::system::KEY;
    for service in ids {
        let row = (
            (
                deliveries::event_id.eq(event_id),
                deliveries::service.eq(service),
                deliveries::lane.eq(Lane::High as i16),
            ),
            (deliveries::key.eq(&*key), deliveries::state.eq(DeliveryState::Waiting as i16), deliveries::due_at.eq(0)),
        );
        let insert = diesel::insert_into(deliveries::table).values(row).on_conflict_do_nothing();
        if on_backend!(connection, c => insert.execute(c))? > 0 {
            count(enqueued, service, Lane::High);
        }
    }
    Ok(())
}

fn count(enqueued: &mut Enqueued, service: ServiceId, lane: Lane) {
    let at = enqueued.iter().position(|(known, _)| *known == service).unwrap_or_else(|| {
        enqueued.push((service, [0; Lane::COUNT]));
        enqueued.len() - 1
    });
    enqueued[at].1[lane.index()] += 1;
}

fn on_sqlite(connection: &mut SqliteConnection, rows: &[Row<'_>]) -> Result<(), StoreError> {
    let (many, rest) = rows.as_chunks::<MANY>();
    let (some, ones) = rest.as_chunks::<SOME>();
    for rows in many {
        InsertRows(rows).execute(connection)?;
    }
    for rows in some {
        InsertRows(rows).execute(connection)?;
    }
    for row in ones {
        InsertRows(std::array::from_ref(row)).execute(connection)?;
    }
    Ok(())
}

fn on_postgres(connection: &mut PgConnection, rows: &[Row<'_>]) -> Result<(), StoreError> {
    let insert = InsertAll {
        event_id: rows.iter().map(|row| row.event_id).collect(),
        service: rows.iter().map(|row| row.service).collect(),
        lane: rows.iter().map(|row| row.lane).collect(),
        key: rows.iter().map(|row| row.key).collect(),
    };
    insert.execute(connection)?;
    Ok(())
}

/// An insert of exactly `N` rows.
struct InsertRows<'a, const N: usize>(&'a [Row<'a>; N]);

/// The type by which diesel caches the statement.
struct InsertRowsId<const N: usize>;

impl<const N: usize> QueryId for InsertRows<'_, N> {
    type QueryId = InsertRowsId<N>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<const N: usize> QueryFragment<Sqlite> for InsertRows<'_, N> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("INSERT INTO deliveries (event_id, service, lane, key, state, due_at) VALUES ");
        for (at, row) in self.0.iter().enumerate() {
            out.push_sql(if at == 0 { "(" } else { ",(" });
            out.push_bind_param::<BigInt, _>(&row.event_id)?;
            out.push_sql(",");
            out.push_bind_param::<SmallInt, _>(&row.service)?;
            out.push_sql(",");
            out.push_bind_param::<SmallInt, _>(&row.lane)?;
            out.push_sql(",");
            out.push_bind_param::<Nullable<Text>, _>(&row.key)?;
            out.push_sql(",0,0)");
        }
        Ok(())
    }
}

impl<const N: usize> RunQueryDsl<SqliteConnection> for InsertRows<'_, N> {}

/// An insert of any number of rows.
struct InsertAll<'a> {
    event_id: Vec<i64>,
    service: Vec<i16>,
    lane: Vec<i16>,
    key: Vec<Option<&'a str>>,
}

impl QueryId for InsertAll<'_> {
    type QueryId = InsertAll<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl QueryFragment<Pg> for InsertAll<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "INSERT INTO deliveries (event_id, service, lane, key, state, due_at) \
             SELECT event_id, service, lane, key, 0, 0 FROM unnest(",
        );
        out.push_bind_param::<Array<BigInt>, _>(&self.event_id)?;
        for numbers in [&self.service, &self.lane] {
            out.push_sql(", ");
            out.push_bind_param::<Array<SmallInt>, _>(numbers)?;
        }
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.key)?;
        out.push_sql(") AS row (event_id, service, lane, key)");
        Ok(())
    }
}

impl RunQueryDsl<PgConnection> for InsertAll<'_> {}
