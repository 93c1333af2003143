//! What is read of instances.

use std::collections::HashSet;

use diesel::sql_types::{BigInt, Nullable, SmallInt, Text};
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _};
use serde::Deserialize;

use super::{NewSaga, SagaFilter, SagaRecord, SagaStanding, StoredSaga};
use crate::domain::event::Timestamp;
use crate::domain::saga::{Correlation, Entry, Fact, Origin, State};
use crate::storage::connection::{Connection, on_backend};
use crate::storage::error::StoreError;
use crate::storage::schema::{saga_counts, sagas};
use crate::storage::statement::{Bind, Statement, any_of, pairs, rows_of};

/// The id as this index orders it. On PostgreSQL that is an expression of this index alone, so that the planner takes no
/// other, whatever its statistics: those of a small table stand for long while it grows.
pub(super) fn ordered_id(connection: &Connection, index: &str) -> String {
    match connection {
        Connection::Sqlite(_) => "id".to_owned(),
        Connection::Postgres(_) => format!("id || '{index}'"),
    }
}

/// The state of this number. A number that only a later version knows needs somebody who knows it.
pub(super) fn state_of(number: i16) -> State {
    State::ALL.into_iter().find(|state| *state as i16 == number).unwrap_or(State::NeedsOperator)
}

/// The columns of a row that stay.
const ORIGIN: &str = "s.id, s.saga, s.version, s.correlation, s.trigger, s.made_at, s.start_key";
/// Those that change with the journal.
pub(super) const STANDING: &str = "s.state, s.holds, s.paused, s.started_at, s.updated_at, s.due_at, s.length";

/// The journal of a row: entries of JSON with commas between them, in any order.
const JOURNAL: &str = "(SELECT string_agg('{\"n\":' || j.n || ',\"at\":' || j.at || ',\"fact\":' || j.fact || '}', ',') \
                       FROM saga_journal j WHERE j.id = s.id)";

pub(super) type StandingType = (SmallInt, SmallInt, SmallInt, Nullable<BigInt>, BigInt, Nullable<BigInt>, BigInt);
pub(super) type Standing = (i16, i16, i16, Option<i64>, i64, Option<i64>, i64);
type RowType = ((Text, Text, BigInt, Text, Text, BigInt, Nullable<Text>), StandingType);
type Row = ((String, String, i64, String, String, i64, Option<String>), Standing);

fn record(((id, saga, version, correlation, trigger, made_at, start_key), columns): Row) -> SagaRecord {
    let version = u32::try_from(version).unwrap_or_default();
    let correlation = Correlation::from_store(correlation);
    let origin = Origin { id, saga, version, correlation, trigger: trigger.into() };
    SagaRecord { saga: NewSaga { origin, made_at: Timestamp(made_at), start_key }, standing: standing(columns) }
}

pub(super) fn standing((state, holds, paused, started_at, updated_at, due_at, length): Standing) -> SagaStanding {
    SagaStanding {
        state: state_of(state),
        holds: holds != 0,
        is_paused: paused != 0,
        started_at: started_at.map(Timestamp),
        updated_at: Timestamp(updated_at),
        due_at: due_at.map(Timestamp),
        length: u32::try_from(length).unwrap_or_default(),
    }
}

/// Reads the journal of an instance, which has so many entries.
fn journal(entries: &str, length: u32) -> Result<Vec<Entry>, String> {
    #[derive(Deserialize)]
    struct Numbered {
        n: u32,
        at: Timestamp,
        fact: Fact,
    }
    let mut numbered: Vec<Numbered> =
        serde_json::from_str(&format!("[{entries}]")).map_err(|error| error.to_string())?;
    numbered.sort_unstable_by_key(|entry| entry.n);
    if !numbered.iter().map(|entry| entry.n).eq(0..length) {
        return Err(format!("it has {} entries, which are not those from 0 to below {length}", numbered.len()));
    }
    Ok(numbered.into_iter().map(|Numbered { at, fact, .. }| Entry { at, fact }).collect())
}

/// Instances with their journals, as of one moment. `which`: where they are found, the conditions, and the order.
fn load(connection: &mut Connection, which: &str, binds: Vec<Bind<'_>>) -> Result<Vec<StoredSaga>, StoreError> {
    let text = format!("SELECT {ORIGIN}, {STANDING}, {JOURNAL} FROM {which}");
    let query: Statement<'_, (RowType, Nullable<Text>)> = Statement::new(text, binds);
    let rows: Vec<(Row, Option<String>)> = on_backend!(connection, c => query.load(c))?;
    let stored = rows.into_iter().map(|(row, entries)| {
        let record = record(row);
        let journal = journal(&entries.unwrap_or_default(), record.standing.length);
        StoredSaga { record, journal }
    });
    Ok(stored.collect())
}

/// See [`Reader::concerned_sagas`](crate::storage::Reader::concerned_sagas).
pub fn concerned(
    connection: &mut Connection,
    values: &[(String, Correlation)],
    keys: &[String],
) -> Result<Vec<StoredSaga>, StoreError> {
    let mut ids: Vec<String> = Vec::new();
    if !values.is_empty() {
        let values: Vec<_> = values.iter().map(|(saga, correlation)| (saga.as_str(), correlation.as_str())).collect();
        let (wanted, binds) = pairs(connection, &values);
        let [ended, queue] = ["ended", "queue"].map(|index| ordered_id(connection, index));
        let text = format!(
            "SELECT (SELECT h.id FROM sagas h WHERE h.saga = w.a AND h.correlation = w.b AND h.holds = 1), \
             (SELECT e.id FROM sagas e WHERE e.saga = w.a AND e.correlation = w.b AND e.ended_at IS NOT NULL \
             ORDER BY e.{ended} DESC LIMIT 1), \
             (SELECT q.id FROM sagas q WHERE q.saga = w.a AND q.correlation = w.b AND q.state = 0 \
             ORDER BY q.{queue} LIMIT 1) FROM {wanted}"
        );
        type Id = Nullable<Text>;
        let query: Statement<'_, (Id, Id, Id)> = Statement::new(text, binds);
        type Found = Option<String>;
        let found: Vec<(Found, Found, Found)> = on_backend!(connection, c => query.load(c))?;
        ids.extend(found.into_iter().flat_map(|(holder, ended, queued)| [holder, ended, queued]).flatten());
    }
    if !keys.is_empty() {
        let (is_one, keys) = any_of(connection, &keys.iter().map(String::as_str).collect::<Vec<_>>());
        let query: Statement<'_, Text> =
            Statement::new(format!("SELECT id FROM saga_awaits WHERE key {is_one}"), vec![keys]);
        ids.extend(on_backend!(connection, c => query.load::<String>(c))?);
    }
    by_ids(connection, &ids)
}

/// See [`Reader::sagas`](crate::storage::Reader::sagas).
pub fn by_ids(connection: &mut Connection, ids: &[String]) -> Result<Vec<StoredSaga>, StoreError> {
    let ids: HashSet<&str> = ids.iter().map(String::as_str).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let (rows, are_these, ids) = rows_of(connection, "sagas", "id", &ids.into_iter().collect::<Vec<_>>());
    load(connection, &format!("{rows} WHERE {are_these}"), vec![ids])
}

/// See [`Reader::due_sagas`](crate::storage::Reader::due_sagas).
pub fn due(connection: &mut Connection, now: Timestamp, limit: usize) -> Result<Vec<StoredSaga>, StoreError> {
    let which =
        format!("sagas s WHERE s.state > 0 AND s.due_at IS NOT NULL AND s.due_at <= ? ORDER BY s.due_at LIMIT {limit}");
    load(connection, &which, vec![Bind::Int(now.0)])
}

/// See [`Reader::startable_sagas`](crate::storage::Reader::startable_sagas). One that is paused keeps its place.
pub fn startable(connection: &mut Connection, limit: usize) -> Result<Vec<StoredSaga>, StoreError> {
    let which = format!(
        "sagas s WHERE s.state = 0 AND s.due_at IS NOT NULL AND s.paused = 0 AND (SELECT h.id FROM sagas h WHERE h.saga = s.saga \
         AND h.correlation = s.correlation AND h.holds = 1) IS NULL ORDER BY s.due_at, s.id LIMIT {limit}"
    );
    load(connection, &which, Vec::new())
}

/// See [`Reader::next_saga_due`](crate::storage::Reader::next_saga_due).
pub fn next_due(connection: &mut Connection) -> Result<Option<Timestamp>, StoreError> {
    const TEXT: &str = "SELECT due_at FROM sagas WHERE state > 0 AND due_at IS NOT NULL ORDER BY due_at LIMIT 1";
    let query: Statement<'_, BigInt> = Statement::new(TEXT.to_owned(), Vec::new());
    let due: Option<i64> = on_backend!(connection, c => query.get_result(c).optional())?;
    Ok(due.map(Timestamp))
}

/// See [`Reader::saga_of_start_key`](crate::storage::Reader::saga_of_start_key).
pub fn of_start_key(connection: &mut Connection, saga: &str, key: &str) -> Result<Option<String>, StoreError> {
    let query = sagas::table.filter(sagas::saga.eq(saga)).filter(sagas::start_key.eq(key)).select(sagas::id);
    Ok(on_backend!(connection, c => query.get_result(c).optional())?)
}

/// See [`Reader::saga_counts`](crate::storage::Reader::saga_counts).
pub fn counts(connection: &mut Connection) -> Result<Vec<(String, State, u64)>, StoreError> {
    let query = saga_counts::table.filter(saga_counts::count.gt(0)).order((saga_counts::saga, saga_counts::state));
    let rows: Vec<(String, i16, i64)> = on_backend!(connection, c => query.load(c))?;
    Ok(rows.into_iter().map(|(saga, state, count)| (saga, state_of(state), count.unsigned_abs())).collect())
}

/// See [`Reader::list_sagas`](crate::storage::Reader::list_sagas). An id tells when the instance was made.
pub fn list(
    connection: &mut Connection,
    filter: &SagaFilter,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<SagaRecord>, StoreError> {
    let SagaFilter { name, state, correlation, started_before } = filter;
    let begin = started_before.map(first_id);
    // Every id is below "g".
    let below = after.into_iter().chain(begin.as_deref()).min().unwrap_or("g");
    let id = match (correlation, name, state) {
        (Some(_), ..) => ordered_id(connection, "correlation"),
        (None, Some(_), _) => ordered_id(connection, "name"),
        (None, None, Some(_)) => ordered_id(connection, "state"),
        (None, None, None) => "id".to_owned(),
    };
    // A value has few instances: they are looked up by it, and the rest of the filter is hidden from the planner.
    let [name_is, state_is] =
        if correlation.is_none() { ["s.saga = ?", "s.state = ?"] } else { ["s.saga || '' = ?", "s.state + 0 = ?"] };
    // The index of names has the states apart.
    let states = match (name, state, correlation) {
        (Some(_), None, None) => State::ALL.map(Some).to_vec(),
        _ => vec![*state],
    };
    let mut found: Vec<SagaRecord> = Vec::new();
    for state in states {
        let mut conditions = vec![format!("s.{id} < ?")];
        let mut binds = vec![Bind::Text(below)];
        if let Some(name) = name {
            conditions.push(name_is.to_owned());
            binds.push(Bind::Text(name));
        }
        if let Some(state) = state {
            conditions.push(state_is.to_owned());
            binds.push(Bind::Int(state as i64));
        }
        if let Some(correlation) = correlation {
            conditions.push("s.correlation = ?".to_owned());
            binds.push(Bind::Text(correlation.as_str()));
        }
        let which = conditions.join(" AND ");
        let text = format!("SELECT {ORIGIN}, {STANDING} FROM sagas s WHERE {which} ORDER BY s.{id} DESC LIMIT {limit}");
        let query: Statement<'_, RowType> = Statement::new(text, binds);
        let rows: Vec<Row> = on_backend!(connection, c => query.load(c))?;
        found.extend(rows.into_iter().map(record));
    }
    found.sort_unstable_by(|one, other| other.saga.origin.id.cmp(&one.saga.origin.id));
    found.truncate(limit);
    Ok(found)
}

/// The beginning of the ids that are made at this time or later: UUIDv7 begin with the milliseconds since 1970.
fn first_id(at: Timestamp) -> String {
    let millis = u64::try_from(at.0).unwrap_or_default() / 1000;
    format!("{:08x}-{:04x}", millis >> 16, millis & 0xffff)
}
