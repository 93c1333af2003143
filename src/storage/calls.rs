//! Calls: requests to services that are no deliveries, and how they ended.

use std::collections::{BTreeMap, HashSet};

use diesel::dsl::sql;
use diesel::sql_types::{BigInt, Bool};
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, Queryable,
    RunQueryDsl as _,
};

use serde::{Deserialize, Serialize};

use super::connection::{Connection, on_backend};
use super::error::{StoreError, StoreErrorKind};
use super::schema::{call_ends, calls};
use super::statement::{Column, Statement, any_of, insert, rows_of};
use crate::domain::call::{CallEnd, CallHistory, CallId, CallPolicy, Method};
use crate::domain::event::Timestamp;
use crate::domain::priority::Lane;
use crate::domain::routes::ServiceId;

/// The states of a call in the store.
const WAITING: i16 = 0;
const BEGUN: i16 = 1;
const RETRYING: i16 = 2;
const ENDED: i16 = 3;

/// A call to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCall {
    pub service: ServiceId,
    /// Whose call it is, such as an instance of a saga.
    pub owner: String,
    /// What the owner calls it; told back with its end.
    pub tag: String,
    pub lane: Lane,
    /// Ordering key.
    pub key: Option<String>,
    pub request: CallRequest,
    pub policy: CallPolicy,
    /// It is not sent before.
    pub due_at: Timestamp,
    /// It is not sent after.
    pub expires_at: Option<Timestamp>,
    /// It is made as one of which an attempt may have been made, because one is about to be.
    pub is_begun: bool,
}

/// What a call sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRequest {
    pub method: Method,
    /// Below the URL of the service.
    pub path: String,
    /// Besides those of all requests to the service.
    pub headers: Vec<(String, String)>,
    /// JSON.
    pub body: Option<String>,
    /// The same at each attempt.
    pub idempotency_key: String,
}

/// A call that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedCall {
    pub id: CallId,
    pub call: NewCall,
    /// What is known of it. Of an attempt that was begun, and whose end is not in the store, nothing is known.
    pub history: CallHistory,
    /// The store knows already that an attempt may have been made.
    pub is_marked: bool,
}

/// How an attempt at a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallOutcome {
    pub id: CallId,
    /// What is known of the call with this attempt.
    pub history: CallHistory,
    pub finished_at: Timestamp,
    pub http_status: Option<u16>,
    pub error: Option<String>,
    pub settled: CallSettled,
}

/// What that means for the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallSettled {
    /// It is tried again, not before this time.
    Again(Timestamp),
    /// `answer`: the body as JSON, if there is one that is kept.
    Ended { end: CallEnd, answer: Option<String> },
}

/// The column `last`.
#[derive(Serialize, Deserialize)]
struct Last {
    /// Of a call that has ended.
    end: Option<CallEnd>,
    http_status: Option<u16>,
    answer: Option<String>,
    error: Option<String>,
}

/// A call that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedCall {
    /// Later calls have greater ones.
    pub place: i64,
    pub id: CallId,
    pub owner: String,
    pub tag: String,
    pub end: CallEnd,
    pub attempts: u32,
    pub http_status: Option<u16>,
    pub answer: Option<String>,
    pub error: Option<String>,
    pub ended_at: Timestamp,
}

/// Stores new calls. Returns the first of their ids, which follow each other: one transaction at a time gives them.
pub(super) fn make(connection: &mut Connection, new: &[NewCall]) -> Result<CallId, StoreError> {
    let json =
        |call: &NewCall| [serde_json::json!(call.request), serde_json::json!(call.policy)].map(|v| v.to_string());
    let texts: Vec<[String; 2]> = new.iter().map(json).collect();
    let columns = vec![
        ("service", Column::ints(new.iter().map(|call| i64::from(call.service)))),
        ("owner", Column::texts(new.iter().map(|call| call.owner.as_str()))),
        ("tag", Column::texts(new.iter().map(|call| call.tag.as_str()))),
        ("lane", Column::ints(new.iter().map(|call| call.lane as i64))),
        ("key", Column::texts(new.iter().map(|call| call.key.as_deref()))),
        ("request", Column::texts(texts.iter().map(|[request, _]| request.as_str()))),
        ("policy", Column::texts(texts.iter().map(|[_, policy]| policy.as_str()))),
        ("due_at", Column::ints(new.iter().map(|call| call.due_at.0))),
        ("expires_at", Column::ints(new.iter().map(|call| call.expires_at.map(|at| at.0)))),
        ("state", Column::ints(new.iter().map(|_| i64::from(WAITING)))),
        ("attempts", Column::ints(new.iter().map(|_| 0))),
        ("may_be_done", Column::ints(new.iter().map(|call| i64::from(call.is_begun)))),
    ];
    insert(connection, "calls", columns, "")?;
    let last = match connection {
        Connection::Sqlite(_) => "SELECT last_insert_rowid()",
        Connection::Postgres(_) => "SELECT lastval()",
    };
    let query: Statement<'_, BigInt> = Statement::new(last.to_owned(), Vec::new());
    let last: CallId = on_backend!(connection, c => query.get_result(c))?;
    Ok(last + 1 - new.len() as CallId)
}

/// From now on an attempt at each may have been made. Returns those that are open. No index has the column.
pub(super) fn begin(connection: &mut Connection, ids: &[CallId]) -> Result<Vec<CallId>, StoreError> {
    let Connection::Sqlite(file) = connection else {
        let (is_one, binds) = any_of(connection, ids);
        let text = format!("UPDATE calls SET may_be_done = 1 WHERE id {is_one} AND state + 0 < {ENDED} RETURNING id");
        let update: Statement<'_, BigInt> = Statement::new(text, vec![binds]);
        return Ok(on_backend!(connection, c => update.load(c))?);
    };
    let mut open = Vec::with_capacity(ids.len());
    for id in ids {
        let update = diesel::update(calls::table.find(id)).filter(calls::state.lt(ENDED)).set(calls::may_be_done.eq(1));
        if update.execute(&mut file.connection)? > 0 {
            open.push(*id);
        }
    }
    Ok(open)
}

/// Those of `ids` that are open.
fn open(connection: &mut Connection, ids: &[CallId]) -> Result<HashSet<CallId>, StoreError> {
    let (rows, are_these, ids) = rows_of(connection, "calls", "id", ids);
    let text = format!("SELECT s.id FROM {rows} WHERE {are_these} AND s.state + 0 < {ENDED}");
    let query: Statement<'_, BigInt> = Statement::new(text, vec![ids]);
    let open: Vec<CallId> = on_backend!(connection, c => query.load(c))?;
    Ok(open.into_iter().collect())
}

/// Removes calls of which it is known elsewhere how they have ended. Whether all of them were open; if not, all stay.
pub(super) fn take(connection: &mut Connection, ids: &[CallId]) -> Result<bool, StoreError> {
    if ids.is_empty() {
        return Ok(true);
    }
    if open(connection, ids)?.len() < ids.len() {
        return Ok(false);
    }
    match connection {
        Connection::Sqlite(file) => {
            for id in ids {
                diesel::delete(calls::table.find(id)).execute(&mut file.connection)?;
            }
        }
        Connection::Postgres(_) => {
            let (is_one, ids) = any_of(connection, ids);
            let delete: Statement<'_> = Statement::new(format!("DELETE FROM calls WHERE id {is_one}"), vec![ids]);
            on_backend!(connection, c => delete.execute(c))?;
        }
    }
    Ok(true)
}

/// Stores how attempts ended. Ended calls get their places in this order; it is that of the commits, since one
/// transaction at a time writes.
pub(super) fn settle(connection: &mut Connection, ended: &[CallOutcome]) -> Result<(), StoreError> {
    let ids: Vec<CallId> = ended.iter().map(|outcome| outcome.id).collect();
    let mut open = open(connection, &ids)?;
    let first: i64 = on_backend!(connection, c => call_ends::table.find(1).select(call_ends::last).get_result(c))?;
    let mut last = first;
    let mut rows: BTreeMap<CallId, (&CallOutcome, Option<i64>, String)> = BTreeMap::new();
    for outcome in ended.iter() {
        let (end, answer) = match &outcome.settled {
            _ if !open.contains(&outcome.id) => continue,
            CallSettled::Again(_) => (None, None),
            CallSettled::Ended { end, answer } => (Some(*end), answer.clone()),
        };
        let place = end.map(|_| last + 1);
        if end.is_some() {
            (last, _) = (last + 1, open.remove(&outcome.id));
        }
        let told = Last { end, http_status: outcome.http_status, answer, error: outcome.error.clone() };
        rows.insert(outcome.id, (outcome, place, serde_json::json!(told).to_string()));
    }
    store_settled(connection, &rows)?;
    if last > first {
        on_backend!(connection, c => diesel::update(call_ends::table).set(call_ends::last.eq(last)).execute(c))?;
    }
    Ok(())
}

/// Stores how calls stand, each with its place, if it has ended, and the column `last`. What stays is not looked at.
fn store_settled(
    connection: &mut Connection,
    rows: &BTreeMap<CallId, (&CallOutcome, Option<i64>, String)>,
) -> Result<(), StoreError> {
    let each = || rows.values().map(|(outcome, _, _)| *outcome);
    let due_at = |outcome: &CallOutcome| match outcome.settled {
        CallSettled::Again(due) => due.0,
        CallSettled::Ended { .. } => 0,
    };
    let nothing = || Column::texts(each().map(|_| ""));
    let columns = vec![
        ("id", Column::ints(rows.keys().copied())),
        ("service", Column::ints(each().map(|_| 0))),
        ("owner", nothing()),
        ("tag", nothing()),
        ("lane", Column::ints(each().map(|_| 0))),
        ("request", nothing()),
        ("policy", nothing()),
        ("due_at", Column::ints(each().map(due_at))),
        ("state", Column::ints(rows.values().map(|(_, place, _)| i64::from(place.map_or(RETRYING, |_| ENDED))))),
        ("attempts", Column::ints(each().map(|outcome| i64::from(outcome.history.attempts.min(i32::MAX as u32))))),
        ("may_be_done", Column::ints(each().map(|outcome| i64::from(outcome.history.may_be_done)))),
        ("last", Column::texts(rows.values().map(|(_, _, told)| told.as_str()))),
        ("ended_at", Column::ints(rows.values().map(|(outcome, place, _)| place.map(|_| outcome.finished_at.0)))),
        ("place", Column::ints(rows.values().map(|(_, place, _)| *place))),
    ];
    const THEN: &str = "ON CONFLICT (id) DO UPDATE SET state = excluded.state, attempts = excluded.attempts, \
                        may_be_done = excluded.may_be_done, last = excluded.last, ended_at = excluded.ended_at, \
                        place = excluded.place, \
                        due_at = CASE WHEN excluded.state = 3 THEN calls.due_at ELSE excluded.due_at END";
    insert(connection, "calls", columns, THEN)?;
    Ok(())
}

/// Removes the open calls of an owner; with a `tag`, those that it calls so.
pub(super) fn cancel(connection: &mut Connection, owner: &str, tag: Option<&str>) -> Result<(), StoreError> {
    let open = calls::table.filter(calls::owner.eq(owner)).filter(calls::state.lt(ENDED));
    match tag {
        Some(tag) => on_backend!(connection, c => diesel::delete(open.filter(calls::tag.eq(tag))).execute(c))?,
        None => on_backend!(connection, c => diesel::delete(open).execute(c))?,
    };
    Ok(())
}

/// The calls of an owner that wait for another attempt are due.
pub(super) fn hurry(connection: &mut Connection, owner: &str, now: Timestamp) -> Result<(), StoreError> {
    let waiting =
        calls::table.filter(calls::owner.eq(owner)).filter(calls::state.lt(ENDED)).filter(calls::due_at.gt(now.0));
    on_backend!(connection, c => diesel::update(waiting).set(calls::due_at.eq(now.0)).execute(c))?;
    Ok(())
}

/// Removes the ended calls up to this place.
pub(super) fn forget(connection: &mut Connection, through: i64) -> Result<(), StoreError> {
    let known = calls::table.filter(calls::state.eq(ENDED)).filter(calls::place.le(through));
    on_backend!(connection, c => diesel::delete(known).execute(c))?;
    Ok(())
}

#[derive(Queryable)]
struct OpenRow {
    id: i64,
    service: ServiceId,
    owner: String,
    tag: String,
    lane: i16,
    key: Option<String>,
    request: String,
    policy: String,
    due_at: i64,
    expires_at: Option<i64>,
    state: i16,
    attempts: i32,
    may_be_done: i16,
}

/// See [`Reader::due_calls`](super::Reader::due_calls). States are part of the text and not parameters, because only
/// then does the partial index apply.
pub(super) fn due(
    connection: &mut Connection,
    service: ServiceId,
    now: Timestamp,
    (after, id): (Timestamp, CallId),
    limit: usize,
) -> Result<Vec<ClaimedCall>, StoreError> {
    let query = calls::table
        .filter(calls::service.eq(service))
        .filter(sql::<Bool>("state < 3"))
        .filter(calls::due_at.le(now.0))
        .filter(calls::due_at.gt(after.0).or(calls::due_at.eq(after.0).and(calls::id.gt(id))))
        .order((calls::due_at, calls::id))
        .limit(i64::try_from(limit).unwrap_or(i64::MAX))
        .select((
            calls::id,
            calls::service,
            calls::owner,
            calls::tag,
            calls::lane,
            calls::key,
            calls::request,
            calls::policy,
            calls::due_at,
            calls::expires_at,
            calls::state,
            calls::attempts,
            calls::may_be_done,
        ));
    let rows: Vec<OpenRow> = on_backend!(connection, c => query.load(c))?;
    rows.into_iter().map(claimed).collect()
}

/// See [`Reader::stray_calls`](super::Reader::stray_calls).
pub(super) fn stray(
    connection: &mut Connection,
    configured: &[ServiceId],
    limit: usize,
) -> Result<Vec<(CallId, CallHistory)>, StoreError> {
    let query = calls::table
        .filter(sql::<Bool>("state < 3"))
        .filter(calls::service.ne_all(configured.to_vec()))
        .limit(i64::try_from(limit).unwrap_or(i64::MAX))
        .select((calls::id, calls::state, calls::attempts, calls::may_be_done));
    let rows: Vec<(CallId, i16, i32, i16)> = on_backend!(connection, c => query.load(c))?;
    let stray = rows.into_iter().map(|(id, state, attempts, mark)| (id, history(state, attempts, mark)));
    Ok(stray.collect())
}

fn history(state: i16, attempts: i32, mark: i16) -> CallHistory {
    CallHistory { attempts: attempts.unsigned_abs(), may_be_done: mark != 0 || state == BEGUN }
}

fn claimed(row: OpenRow) -> Result<ClaimedCall, StoreError> {
    let history = history(row.state, row.attempts, row.may_be_done);
    let may_be_done = history.may_be_done;
    let call = NewCall {
        service: row.service,
        owner: row.owner,
        tag: row.tag,
        lane: Lane::from_store(row.lane),
        key: row.key,
        request: read(&row.request)?,
        policy: read(&row.policy)?,
        due_at: Timestamp(row.due_at),
        expires_at: row.expires_at.map(Timestamp),
        is_begun: may_be_done,
    };
    Ok(ClaimedCall { id: row.id, call, history, is_marked: may_be_done })
}

fn read<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, StoreError> {
    serde_json::from_str(json)
        .map_err(|error| StoreError::new(StoreErrorKind::Invalid, format!("a call cannot be read: {error}")))
}

/// See [`Reader::next_due_call`](super::Reader::next_due_call).
pub(super) fn next_due(
    connection: &mut Connection,
    service: ServiceId,
    now: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let query = calls::table
        .filter(calls::service.eq(service))
        .filter(sql::<Bool>("state < 3"))
        .filter(calls::due_at.gt(now.0))
        .order(calls::due_at)
        .select(calls::due_at);
    let due: Option<i64> = on_backend!(connection, c => query.first(c).optional())?;
    Ok(due.map(Timestamp))
}

/// See [`Reader::open_calls`](super::Reader::open_calls).
#[cfg(test)]
pub(super) fn count_open(connection: &mut Connection, service: ServiceId) -> Result<u64, StoreError> {
    let query = calls::table.filter(calls::service.eq(service)).filter(sql::<Bool>("state < 3")).count();
    let count: i64 = on_backend!(connection, c => query.get_result(c))?;
    Ok(count.unsigned_abs())
}

#[derive(Queryable)]
struct EndedRow {
    place: Option<i64>,
    id: i64,
    owner: String,
    tag: String,
    attempts: i32,
    last: Option<String>,
    ended_at: Option<i64>,
}

/// See [`Reader::ended_calls`](super::Reader::ended_calls).
pub(super) fn ended(connection: &mut Connection, after: i64, limit: usize) -> Result<Vec<EndedCall>, StoreError> {
    let query = calls::table
        .filter(sql::<Bool>("state = 3"))
        .filter(calls::place.gt(after))
        .order(calls::place)
        .limit(i64::try_from(limit).unwrap_or(i64::MAX))
        .select((calls::place, calls::id, calls::owner, calls::tag, calls::attempts, calls::last, calls::ended_at));
    let rows: Vec<EndedRow> = on_backend!(connection, c => query.load(c))?;
    rows.into_iter().map(over).collect()
}

fn over(row: EndedRow) -> Result<EndedCall, StoreError> {
    let Last { end, http_status, answer, error } = read(row.last.as_deref().unwrap_or_default())?;
    Ok(EndedCall {
        place: row.place.unwrap_or_default(),
        id: row.id,
        owner: row.owner,
        tag: row.tag,
        end: end.unwrap_or(CallEnd::Unknown),
        attempts: row.attempts.unsigned_abs(),
        http_status,
        answer,
        error,
        ended_at: Timestamp(row.ended_at.unwrap_or_default()),
    })
}
