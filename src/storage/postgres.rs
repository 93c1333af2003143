//! Appends to PostgreSQL, in three round trips whatever the size of the batch.
//!
//! Ids are given out under an advisory lock, which is held until the commit is visible. So the order of ids is the
//! order of commits across all processes that share the database.

use diesel::connection::SimpleConnection;
use diesel::pg::{Pg, PgConnection};
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Binary, Nullable, SmallInt, Text};
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryResult, RunQueryDsl};

use crate::domain::event::{EventId, NewEvent, Timestamp};

use super::append::{AppendBatch, Tail, newest};
use super::changes::KnownEntities;
use super::entities;
use super::error::{StoreError, StoreErrorKind};
use super::idempotency::{self, KeyUse, Plan};

use super::schema::idempotency_keys;
use super::session::{self, PostgresSession};

/// The number of the advisory lock of the log; it must differ from those of other locks.
const LOG: i64 = 7310868735423766380;

/// How long a transaction waits for the lock of the log before it looks who has it.
const FIRST_WAIT_MS: u32 = 1_200;

/// Begins a writing transaction and takes the lock of the log. With READ COMMITTED, the next statement sees everything
/// that was committed before the lock was taken.
///
/// A session whose client has stopped in the middle of a statement is under no time-out of the server: it is neither idle
/// nor executes anything. If such a one has the lock, it is ended.
pub(super) fn begin(session: &mut PostgresSession) -> Result<(), StoreError> {
    let lock = LOG ^ i64::from(session.locks);
    let take = format!("SELECT pg_advisory_xact_lock({lock})");
    const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
    let patience = format!("SET LOCAL lock_timeout = {FIRST_WAIT_MS}");
    let first = session.connection.batch_execute(&format!("{BEGIN}; {patience}; {take}"));
    match first.map_err(StoreError::from) {
        Err(error) if error.kind == StoreErrorKind::Locked => {
            session.connection.batch_execute("ROLLBACK")?;
            session.connection.batch_execute(&end_of_stopped(lock))?;
            Ok(session.connection.batch_execute(&format!("{BEGIN}; {take}"))?)
        }
        first => first,
    }
}

/// Ends the session that has the lock of the log, if it has waited for its client for a second.
fn end_of_stopped(lock: i64) -> String {
    format!(
        "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) \
         WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint = {lock} \
         AND wait_event_type = 'Client' AND clock_timestamp() - state_change > interval '1 s' \
         AND datname = current_database() AND usename = current_user"
    )
}

/// Ends a transaction that has appended, and notifies the nodes that listen, those that share these tables, of how far
/// the log reaches and which node says so.
pub(super) fn commit_and_notify(session: &mut PostgresSession, generation: i64) -> Result<(), StoreError> {
    let channel = session::channel(&session.schema);
    let said = format!("(SELECT id FROM events ORDER BY id DESC LIMIT 1) || ' {generation}'");
    Ok(session.connection.batch_execute(&format!("SELECT pg_notify('{channel}', {said}); COMMIT"))?)
}

pub(super) fn append(connection: &mut PgConnection, append: &AppendBatch<'_>) -> Result<(Tail, Plan), StoreError> {
    let takes_all = append.refusals.is_empty()
        && append.are_found_good()
        && !idempotency::has_keys(append.batch)
        && !entities::has_changes(append.batch)
        && append.batch.iter().all(|append| append.schedule.is_none());
    if takes_all { append_all(connection, append) } else { append_with_keys(connection, append) }
}

/// Commits a transaction with a transaction id, because only such a commit is written to disk.
pub(super) fn probe(session: &mut PostgresSession) -> Result<(), StoreError> {
    begin(session)?;
    Ok(session.connection.batch_execute("DELETE FROM events WHERE id < 0; SELECT pg_current_xact_id(); COMMIT")?)
}

fn append_all(connection: &mut PgConnection, append: &AppendBatch<'_>) -> Result<(Tail, Plan), StoreError> {
    let events = append.batch.iter().flat_map(|append| &append.events);
    let (id, created_at, newest) = InsertEvents::new(append, events).get_result::<(i64, i64, i64)>(connection)?;
    let tail = Tail { id, created_at: Timestamp(created_at), log_offset: 0, turns_back: newest > created_at };
    Ok((tail, Plan::new(append, Vec::new(), KnownEntities::default(), tail)))
}

fn append_with_keys(connection: &mut PgConnection, append: &AppendBatch<'_>) -> Result<(Tail, Plan), StoreError> {
    let tail = append.tail(newest().get_result(connection).optional()?);
    let has_changes = entities::has_changes(append.batch);
    let entities =
        if has_changes { entities::known_on_postgres(connection, append.batch)? } else { KnownEntities::default() };
    let plan = Plan::new(append, known_keys(connection, append)?, entities, tail);
    let events = plan.events(append.batch);
    InsertEvents::new(append, events).get_result::<(i64, i64, i64)>(connection)?;
    if !plan.keys.is_empty() {
        RememberKeys::new(&plan.keys, append.now).execute(connection)?;
    }
    if has_changes {
        entities::store_on_postgres(connection, &plan.changed, tail.created_at)?;
    }
    Ok((tail, plan))
}

fn known_keys(connection: &mut PgConnection, append: &AppendBatch<'_>) -> Result<Vec<KeyUse>, StoreError> {
    let wanted: Vec<&str> = idempotency::keys(append.batch).collect();
    let found = idempotency_keys::table
        .filter(idempotency_keys::key.eq_any(wanted))
        // `+ 0`: of a table that has grown since its statistics, a plan may walk all keys of the window by their dates.
        .filter((idempotency_keys::created_at + 0_i64).ge(append.keys_since.0))
        .select((
            idempotency_keys::key,
            idempotency_keys::fingerprint,
            idempotency_keys::first_id,
            idempotency_keys::last_id,
        ))
        .load::<(String, Vec<u8>, i64, i64)>(connection)?;
    let used = |(key, fingerprint, first_id, last_id): (String, Vec<u8>, _, _)| {
        KeyUse::from_store(key.into(), &fingerprint, first_id, last_id)
    };
    Ok(found.into_iter().map(used).collect())
}

/// Inserts any number of events after the newest one. Returns the id before them, their date, and the date of the
/// newest event.
struct InsertEvents<'a> {
    ids_above: EventId,
    now: i64,
    /// If the newest event is dated after this time, its date counts as wrong.
    latest: i64,
    name: Vec<&'a str>,
    payload: Vec<&'a str>,
    source: Vec<&'a str>,
    priority: Vec<i16>,
    key: Vec<Option<&'a str>>,
    metadata: Vec<Option<&'a str>>,
    traceparent: Vec<Option<&'a str>>,
    /// The bytes of the batch up to and including each event.
    bytes: Vec<i64>,
}

impl<'a> InsertEvents<'a> {
    fn new(append: &AppendBatch<'_>, events: impl Iterator<Item = &'a NewEvent>) -> Self {
        let events: Vec<_> = events.collect();
        let column = |of: fn(&'a NewEvent) -> &'a str| events.iter().map(|e| of(e)).collect();
        let optional = |of: fn(&'a NewEvent) -> Option<&'a str>| events.iter().map(|e| of(e)).collect();
        let mut total = 0;
        let mut running = |event: &&NewEvent| {
            total += event.log_bytes();
            total
        };
        Self {
            ids_above: append.ids_above,
            now: append.now.0,
            latest: append.now.plus(append.lead).0,
            name: column(|e| e.name.as_str()),
            payload: column(|e| &e.payload),
            source: column(|e| &e.source),
            priority: events.iter().map(|e| e.priority as i16).collect(),
            key: optional(|e| e.key.as_deref()),
            metadata: optional(|e| e.metadata.as_deref()),
            traceparent: optional(|e| e.traceparent.as_deref()),
            bytes: events.iter().map(&mut running).collect(),
        }
    }
}

impl QueryId for InsertEvents<'_> {
    type QueryId = InsertEvents<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for InsertEvents<'_> {
    type SqlType = (BigInt, BigInt, BigInt);
}

impl QueryFragment<Pg> for InsertEvents<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "WITH newest AS (SELECT id, created_at, log_offset FROM events ORDER BY id DESC LIMIT 1), \
             tail AS MATERIALIZED (SELECT greatest((SELECT id FROM newest), ",
        );
        out.push_bind_param::<BigInt, _>(&self.ids_above)?;
        out.push_sql(") AS id, greatest((SELECT created_at FROM newest WHERE created_at <= ");
        out.push_bind_param::<BigInt, _>(&self.latest)?;
        out.push_sql("), ");
        out.push_bind_param::<BigInt, _>(&self.now)?;
        out.push_sql(
            ") AS created_at, coalesce((SELECT created_at FROM newest), 0) AS newest_at, \
             coalesce((SELECT log_offset FROM newest), 0) AS log_offset), \
             stored AS (INSERT INTO events (id, name, payload, source, priority, key, metadata, traceparent, \
             created_at, log_offset) \
             SELECT tail.id + batch.n, batch.name, batch.payload, batch.source, batch.priority, batch.key, \
             batch.metadata, batch.traceparent, tail.created_at, tail.log_offset + batch.bytes FROM tail, unnest(",
        );
        out.push_bind_param::<Array<Text>, _>(&self.name)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.payload)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.source)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SmallInt>, _>(&self.priority)?;
        for texts in [&self.key, &self.metadata, &self.traceparent] {
            out.push_sql(", ");
            out.push_bind_param::<Array<Nullable<Text>>, _>(texts)?;
        }
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.bytes)?;
        out.push_sql(
            ") WITH ORDINALITY AS batch (name, payload, source, priority, key, metadata, traceparent, bytes, n)) \
             SELECT id, created_at, newest_at FROM tail",
        );
        Ok(())
    }
}

impl RunQueryDsl<PgConnection> for InsertEvents<'_> {}

/// Inserts any number of different keys. They replace expired rows.
struct RememberKeys<'a> {
    now: i64,
    key: Vec<&'a str>,
    fingerprint: Vec<&'a [u8]>,
    first_id: Vec<i64>,
    last_id: Vec<i64>,
}

impl<'a> RememberKeys<'a> {
    fn new(keys: &'a [KeyUse], now: Timestamp) -> Self {
        Self {
            now: now.0,
            key: keys.iter().map(|k| &*k.key).collect(),
            fingerprint: keys.iter().map(|k| &k.fingerprint[..]).collect(),
            first_id: keys.iter().map(|k| k.first_id).collect(),
            last_id: keys.iter().map(|k| k.last_id).collect(),
        }
    }
}

impl QueryId for RememberKeys<'_> {
    type QueryId = RememberKeys<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl QueryFragment<Pg> for RememberKeys<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("INSERT INTO idempotency_keys (created_at, key, fingerprint, first_id, last_id) SELECT ");
        out.push_bind_param::<BigInt, _>(&self.now)?;
        out.push_sql(", * FROM unnest(");
        out.push_bind_param::<Array<Text>, _>(&self.key)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Binary>, _>(&self.fingerprint)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.first_id)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.last_id)?;
        out.push_sql(
            ") ON CONFLICT (key) DO UPDATE SET created_at = excluded.created_at, \
             fingerprint = excluded.fingerprint, first_id = excluded.first_id, last_id = excluded.last_id",
        );
        Ok(())
    }
}

impl RunQueryDsl<PgConnection> for RememberKeys<'_> {}
