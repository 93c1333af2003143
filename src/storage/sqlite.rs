//! Appends to SQLite, with statements of fixed sizes that diesel keeps prepared.

use diesel::connection::SimpleConnection;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Integer, Nullable, SmallInt, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryResult, RunQueryDsl};

use crate::domain::event::{NewEvent, Timestamp};

use super::append::{AppendBatch, Tail, newest};
use super::changes::KnownEntities;
use super::entities;
use super::error::{StoreError, StoreErrorKind};
use super::idempotency::{self, KeyUse, Plan};
use super::schema::idempotency_keys;

/// Rows of the large and the small statement. SQLite allows 32,766 parameters.
const MANY: usize = 64;
const SOME: usize = 8;

/// Begins a writing transaction. `IMMEDIATE` takes the write lock now and not at the first write.
pub(super) fn begin(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    Ok(connection.batch_execute("BEGIN IMMEDIATE")?)
}

pub(super) fn append(connection: &mut SqliteConnection, append: &AppendBatch<'_>) -> Result<(Tail, Plan), StoreError> {
    let tail = append.tail(newest().get_result(connection).optional()?);
    let known = if idempotency::has_keys(append.batch) { known_keys(connection, append)? } else { Vec::new() };
    let has_changes = entities::has_changes(append.batch);
    let entities =
        if has_changes { entities::known_on_sqlite(connection, append.batch)? } else { KnownEntities::default() };
    let plan = Plan::new(append, known, entities, tail);
    insert_events(connection, append, tail, &plan)?;
    for key in &plan.keys {
        remember(connection, key, append.now)?;
    }
    if has_changes {
        entities::store_on_sqlite(connection, &plan.changed, tail.created_at)?;
    }
    Ok((tail, plan))
}

/// Writes one page and commits it.
pub(super) fn probe(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let version: i32 = diesel::dsl::sql::<Integer>("PRAGMA user_version").get_result(connection)?;
    Ok(connection.batch_execute(&format!("BEGIN IMMEDIATE; PRAGMA user_version = {}; COMMIT", version ^ 1))?)
}

/// Moves the write-ahead log into the database file and truncates it.
pub(super) fn checkpoint(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let pragma = diesel::dsl::sql::<(Integer, Integer, Integer)>("PRAGMA wal_checkpoint(TRUNCATE)");
    let (is_busy, _, _): (i32, i32, i32) = pragma.get_result(connection)?;
    let busy = || StoreError::new(StoreErrorKind::Locked, "the write-ahead log is in use");
    if is_busy == 0 { Ok(()) } else { Err(busy()) }
}

fn insert_events(
    connection: &mut SqliteConnection,
    append: &AppendBatch<'_>,
    tail: Tail,
    plan: &Plan,
) -> Result<(), StoreError> {
    let mut log_offset = tail.log_offset;
    let new = plan.events(append.batch);
    let mut rows = new.zip(tail.id + 1..).map(|(event, id)| {
        log_offset += event.log_bytes();
        Row::new(event, id, tail.created_at, log_offset)
    });
    let mut chunk = Vec::with_capacity(MANY);
    loop {
        chunk.clear();
        chunk.extend(rows.by_ref().take(MANY));
        if let Some(many) = chunk.first_chunk::<MANY>() {
            InsertEvents(many).execute(connection)?;
            continue;
        }
        let (some, ones) = chunk.as_chunks::<SOME>();
        for some in some {
            InsertEvents(some).execute(connection)?;
        }
        for one in ones {
            InsertEvents(std::array::from_ref(one)).execute(connection)?;
        }
        return Ok(());
    }
}

fn known_keys(connection: &mut SqliteConnection, append: &AppendBatch<'_>) -> Result<Vec<KeyUse>, StoreError> {
    let mut known = Vec::new();
    for key in idempotency::keys(append.batch) {
        let found = idempotency_keys::table
            .find(key)
            .filter(idempotency_keys::created_at.ge(append.keys_since.0))
            .select((idempotency_keys::fingerprint, idempotency_keys::first_id, idempotency_keys::last_id))
            // Not `first`: SQLite prepares a statement anew whenever its limit is bound.
            .get_result::<(Vec<u8>, i64, i64)>(connection)
            .optional()?;
        if let Some((fingerprint, first_id, last_id)) = found {
            known.push(KeyUse::from_store(key.into(), &fingerprint, first_id, last_id));
        }
    }
    Ok(known)
}

fn remember(connection: &mut SqliteConnection, used: &KeyUse, now: Timestamp) -> QueryResult<usize> {
    diesel::replace_into(idempotency_keys::table)
        .values((
            idempotency_keys::key.eq(&*used.key),
            idempotency_keys::fingerprint.eq(&used.fingerprint[..]),
            idempotency_keys::first_id.eq(used.first_id),
            idempotency_keys::last_id.eq(used.last_id),
            idempotency_keys::created_at.eq(now.0),
        ))
        .execute(connection)
}

struct Row<'a> {
    event: &'a NewEvent,
    id: i64,
    priority: i16,
    key: Option<&'a str>,
    metadata: Option<&'a str>,
    traceparent: Option<&'a str>,
    created_at: i64,
    log_offset: i64,
}

impl<'a> Row<'a> {
    fn new(event: &'a NewEvent, id: i64, created_at: Timestamp, log_offset: i64) -> Self {
        Self {
            event,
            id,
            priority: event.priority as i16,
            key: event.key.as_deref(),
            metadata: event.metadata.as_deref(),
            traceparent: event.traceparent.as_deref(),
            created_at: created_at.0,
            log_offset,
        }
    }
}

/// An insert of exactly `N` rows.
struct InsertEvents<'a, const N: usize>(&'a [Row<'a>; N]);

/// The type by which diesel caches the statement.
struct InsertEventsId<const N: usize>;

impl<const N: usize> QueryId for InsertEvents<'_, N> {
    type QueryId = InsertEventsId<N>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<const N: usize> QueryFragment<Sqlite> for InsertEvents<'_, N> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql(
            "INSERT INTO events (id, name, payload, source, priority, key, metadata, traceparent, created_at, \
             log_offset) VALUES ",
        );
        for (at, row) in self.0.iter().enumerate() {
            out.push_sql(if at == 0 { "(" } else { ",(" });
            out.push_bind_param::<BigInt, _>(&row.id)?;
            for text in [row.event.name.as_str(), &row.event.payload, &row.event.source] {
                out.push_sql(",");
                out.push_bind_param::<Text, str>(text)?;
            }
            out.push_sql(",");
            out.push_bind_param::<SmallInt, _>(&row.priority)?;
            for text in [&row.key, &row.metadata, &row.traceparent] {
                out.push_sql(",");
                out.push_bind_param::<Nullable<Text>, _>(text)?;
            }
            out.push_sql(",");
            out.push_bind_param::<BigInt, _>(&row.created_at)?;
            out.push_sql(",");
            out.push_bind_param::<BigInt, _>(&row.log_offset)?;
            out.push_sql(")");
        }
        Ok(())
    }
}

impl<const N: usize> RunQueryDsl<SqliteConnection> for InsertEvents<'_, N> {}
