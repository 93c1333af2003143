//! Calls: requests to services that are no deliveries, and how they ended.

use diesel::dsl::sql;
use diesel::sql_types::Bool;
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, Queryable,
    RunQueryDsl as _,
};

use serde::{Deserialize, Serialize};

use super::connection::{Connection, on_backend};
use super::error::{StoreError, StoreErrorKind};
use super::schema::{call_ends, calls};
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

/// Stores new calls.
pub(super) fn make(connection: &mut Connection, new: &[NewCall]) -> Result<(), StoreError> {
    for call in new {
        let row = (
            calls::service.eq(call.service),
            calls::owner.eq(&call.owner),
            calls::tag.eq(&call.tag),
            calls::lane.eq(call.lane as i16),
            calls::key.eq(call.key.as_deref()),
            calls::request.eq(serde_json::json!(call.request).to_string()),
            calls::policy.eq(serde_json::json!(call.policy).to_string()),
            calls::due_at.eq(call.due_at.0),
            calls::expires_at.eq(call.expires_at.map(|at| at.0)),
            calls::state.eq(WAITING),
            calls::attempts.eq(0),
            calls::may_be_done.eq(0),
        );
        on_backend!(connection, c => diesel::insert_into(calls::table).values(row).execute(c))?;
    }
    Ok(())
}

/// From now on an attempt at each may have been made. Whether all of them are open.
pub(super) fn begin(connection: &mut Connection, ids: &[CallId]) -> Result<bool, StoreError> {
    let mut count = 0;
    for id in ids {
        let open = calls::table.find(*id).filter(calls::state.lt(ENDED));
        count += on_backend!(connection, c => diesel::update(open).set(calls::state.eq(BEGUN)).execute(c))?;
    }
    Ok(count == ids.len())
}

/// Stores how attempts ended. Ended calls get their places in this order; it is that of the commits, since one
/// transaction at a time writes.
pub(super) fn settle(connection: &mut Connection, ended: &[CallOutcome]) -> Result<(), StoreError> {
    let first: i64 = on_backend!(connection, c => call_ends::table.select(call_ends::last).first(c))?;
    let mut last = first;
    for CallOutcome { id, history, finished_at, http_status, error, settled } in ended {
        let open = calls::table.find(*id).filter(calls::state.lt(ENDED));
        let told = |end, answer: Option<&String>| {
            let told = Last { end, http_status: *http_status, answer: answer.cloned(), error: error.clone() };
            serde_json::json!(told).to_string()
        };
        let known = (
            calls::attempts.eq(i32::try_from(history.attempts).unwrap_or(i32::MAX)),
            calls::may_be_done.eq(i16::from(history.may_be_done)),
        );
        match settled {
            CallSettled::Again(due) => {
                let last = calls::last.eq(told(None, None));
                let again = (known, last, calls::state.eq(RETRYING), calls::due_at.eq(due.0));
                on_backend!(connection, c => diesel::update(open).set(again).execute(c))?;
            }
            CallSettled::Ended { end, answer } => {
                let place = calls::place.eq(last + 1);
                let last_try = calls::last.eq(told(Some(*end), answer.as_ref()));
                let over = (known, last_try, calls::state.eq(ENDED), calls::ended_at.eq(finished_at.0), place);
                last += on_backend!(connection, c => diesel::update(open).set(over).execute(c))? as i64;
            }
        }
    }
    if last > first {
        on_backend!(connection, c => diesel::update(call_ends::table).set(call_ends::last.eq(last)).execute(c))?;
    }
    Ok(())
}

/// Removes the open calls of an owner.
pub(super) fn cancel(connection: &mut Connection, owner: &str) -> Result<(), StoreError> {
    let open = calls::table.filter(calls::owner.eq(owner)).filter(calls::state.lt(ENDED));
    on_backend!(connection, c => diesel::delete(open).execute(c))?;
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

fn claimed(row: OpenRow) -> Result<ClaimedCall, StoreError> {
    let history =
        CallHistory { attempts: row.attempts.unsigned_abs(), may_be_done: row.may_be_done != 0 || row.state == BEGUN };
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
    };
    Ok(ClaimedCall { id: row.id, call, history })
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
