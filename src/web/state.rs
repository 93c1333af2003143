//! `/state`: the newest value of each entity, with the id of the event that made it as its version.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use super::precondition::precondition;
use super::publish::{commit, headers, tell_violations};
use super::query::{DEFAULT_LIMIT, MAX_LIMIT, Query, invalid};
use super::reply::{self, Refusal};
use super::{Edge, access, body, long_poll};
use crate::domain::access::{Caller, Scope};
use crate::domain::entity::{Change, EntityId, EntityType, MAX_BUCKETS, Op, Precondition, Unmet, previous_version};
use crate::domain::event::{Append, DEFAULT_SOURCE, EventId, Idempotency, NewEvent, Timestamp};
use crate::domain::pattern::Pattern;
use crate::protocol::entity::{deleted_json, entity_json, entity_key, entity_type, listed_json, unmet};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::outcome::{Published, Told, told};
use crate::protocol::permit;
use crate::protocol::publish::{checked_text, fingerprint, scope_keys, traceparent};
use crate::protocol::raw_object::without_bom;
use crate::protocol::subscription::Start;
use crate::storage::{AsOf, DigestQuery, EntityQuery, EntityRecord};

/// Buckets of a digest that asks for no number.
const DEFAULT_BUCKETS: u32 = 256;
/// After so many bytes of values a page ends.
const PAGE_BYTES: usize = 16 << 20;

/// Answers with the types of which the caller may read, each with its number of entities.
pub async fn types(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let caller = access::caller(&req, &edge)?;
    permit::any(&caller, Scope::Read)?;
    Query::parse(&req, &[], &[])?;
    let types = edge.parts.reader.entity_types().await?;
    let readable = types.iter().filter(|(kind, _)| permit::may_read(&caller, &kind.change_name()));
    let types: Vec<String> = readable.map(|(kind, count)| format!(r#"{{"type":"{kind}","count":{count}}}"#)).collect();
    Ok(reply::ok("success", format!("[{}]", types.join(",")).as_bytes()))
}

/// Answers with a page of the entities of a type.
pub async fn list(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let caller = access::caller(&req, &edge)?;
    let kind = type_in(&req)?;
    may_read(&caller, &kind)?;
    let query = Query::parse(&req, &["prefix", "after", "limit", "as_of"], &[])?;
    let limit = query.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let bounds = edge.parts.position.bounds()?;
    // Read before the page: whatever changes from here on comes with the tail after it.
    let as_of = match as_of(&query)? {
        None => bounds.last,
        Some(as_of) => {
            let end = edge.parts.position.end_for(Start::After(as_of), bounds.last, &edge.parts.reader).await?;
            check_as_of(as_of, bounds.earliest - 1, end)?;
            as_of
        }
    };
    let page = EntityQuery {
        kind: kind.clone(),
        prefix: query.one("prefix").unwrap_or_default().to_owned(),
        after: query.one("after").map(str::to_owned),
        limit,
        max_bytes: PAGE_BYTES,
    };
    let page = edge.parts.reader.entities(page).await?;
    let mut data = format!(r#"{{"type":"{kind}","as_of":{as_of},"entities":["#);
    for (at, EntityRecord { key, version, value, updated_at }) in page.entities.iter().enumerate() {
        data.push_str(if at > 0 { "," } else { "" });
        data.push_str(&listed_json(key, *version, value.as_deref().unwrap_or("null"), *updated_at));
    }
    data.push_str("]}");
    let mut response = reply::ok_builder();
    if let Some(last) = page.entities.last().filter(|_| page.has_more) {
        let with = query.rewritten(&["after", "as_of"], ("as_of", as_of));
        let after = url::form_urlencoded::Serializer::new(with).append_pair("after", last.key.as_str()).finish();
        response.append_header(reply::link(&after, "next"));
    }
    Ok(response.body(reply::envelope("success", data.as_bytes())))
}

/// Answers with one entity; waits for a newer version if it is asked to.
pub async fn read(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let caller = access::caller(&req, &edge)?;
    let id = entity_in(&req)?;
    may_read(&caller, &id.kind)?;
    let query = Query::parse(&req, &["wait", "after_version"], &[])?;
    let condition = precondition(req.headers())?;
    let after = query.read("after_version", "the number of a version", version)?;
    let wait = query.read("wait", "a duration from 0s to 60s, such as 30s or 500ms", long_poll::duration)?;
    if after.is_some() && wait.is_none() {
        return Err(invalid("after_version", "needs wait: how long to wait for a newer version").into());
    }
    let found = match wait {
        None => edge.parts.reader.entity(id.clone()).await?,
        Some(wait) => match newer(&req, &edge, &id, after.unwrap_or(0), wait).await? {
            Some(found) => Some(found),
            // There is nothing of which this would be the newest version.
            None if after.is_none_or(|after| after == 0) => None,
            None => {
                // It may be older than what was named, if the log was set back.
                let there = edge.parts.reader.entity(id).await?.filter(|found| found.value.is_some());
                return Ok(builder(StatusCode::NOT_MODIFIED, there.map_or(0, |found| found.version)).finish());
            }
        },
    };
    let Some(EntityRecord { version, value: Some(value), updated_at, .. }) = found else {
        if condition.is.is_some() {
            return Err(conflict(None).of_precondition().into());
        }
        return Err(not_found(found.map(|deleted| deleted.version)).into());
    };
    if condition.is.is_some() && !(Precondition { is_not: None, ..condition.clone() }).is_met(Some(version)) {
        return Err(conflict(Some(version)).of_precondition().into());
    }
    if condition.is_not.is_some_and(|tags| tags.match_weakly(Some(version))) {
        return Ok(builder(StatusCode::NOT_MODIFIED, version).finish());
    }
    let data = entity_json(&id, version, &value, updated_at);
    Ok(builder(StatusCode::OK, version).body(reply::envelope("success", data.as_bytes())))
}

/// The state of the entity as soon as it has a version after `after`; none if it has none in time.
async fn newer(
    req: &HttpRequest,
    edge: &Edge,
    id: &EntityId,
    after: EventId,
    wait: Duration,
) -> Result<Option<EntityRecord>, ApiError> {
    let changes = Pattern::from(id.kind.change_name());
    let read = async || {
        let found = edge.parts.reader.entity(id.clone()).await?;
        Ok(found.filter(|found| found.version > after))
    };
    long_poll::read_until(req, edge, changes, wait, read).await
}

/// Stores a value.
pub async fn put(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let caller = match access::caller(&req, &edge) {
        Ok(caller) => caller,
        Err(error) => {
            body::discard(&req, payload).await;
            return Err(error.into());
        }
    };
    let body = body::read(&req, payload, edge.parts.config.server.max_body.as_usize(), &edge).await?;
    body::content_type(&req, &["application/json"])?;
    let id = entity_in(&req)?;
    let value: &RawValue = serde_json::from_slice(without_bom(&body))
        .map_err(|error| ApiError::new(ErrorCode::MalformedJson, format!("not valid JSON: {error}")))?;
    let value = value.get().to_owned();
    change(&req, &edge, &caller, id, Some(value)).await
}

/// Deletes an entity.
pub async fn delete(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    body::discard(&req, payload).await;
    let caller = access::caller(&req, &edge)?;
    let id = entity_in(&req)?;
    change(&req, &edge, &caller, id, None).await
}

async fn change(
    req: &HttpRequest,
    edge: &Edge,
    caller: &Caller,
    entity: EntityId,
    value: Option<String>,
) -> Result<HttpResponse, Refusal> {
    let query = Query::parse(req, &["source"], &[])?;
    let source = query.one("source").map(|text| checked_text("source", text.into())).transpose()?;
    permit::publish(caller, &entity.kind.change_name())?;
    let given = headers(req.headers())?;
    let op = if value.is_some() { Op::Put } else { Op::Delete };
    let change = Change { entity: entity.clone(), op, precondition: precondition(req.headers())?, follows: false };
    let mut event = NewEvent::change(change, value.clone().map(Into::into), source.unwrap_or(DEFAULT_SOURCE));
    event.traceparent = traceparent(&given);
    if let Some(key) = given.idempotency_key {
        let key = checked_text("Idempotency-Key", key.into())?;
        event.idempotency = Some(Idempotency { key, fingerprint: fingerprint(std::slice::from_ref(&event)) });
    }
    let mut append = Append::single(event);
    access::limit_publish(req, edge, caller, 1)?;
    scope_keys(&mut append, caller);
    let told = told(commit(edge, append).await?, false).map_err(ApiError::of_precondition)?;
    let Told::Published(published) = told else {
        return Err(ApiError::new(ErrorCode::Internal, "a change cannot be scheduled").into());
    };
    let version = published.last_id;
    let (was_there, at) = before(edge, &published).await?;
    let status = if op == Op::Put && !was_there { StatusCode::CREATED } else { StatusCode::OK };
    // An entity that is gone has no version to ask for.
    let mut response = builder(status, if op == Op::Put { version } else { 0 });
    response.insert_header(("Event-Id", version));
    tell_violations(&mut response, published.violations);
    if published.is_replayed() {
        response.insert_header(("Idempotent-Replayed", "true"));
    }
    let (message, data) = match value {
        Some(value) => ("Entity stored.", entity_json(&entity, version, &value, at)),
        None => ("Entity deleted.", deleted_json(&entity, version)),
    };
    Ok(response.body(reply::envelope(message, data.as_bytes())))
}

/// Whether the entity was there before the change, and when it was made.
async fn before(edge: &Edge, published: &Published) -> Result<(bool, Timestamp), ApiError> {
    if let Some(changed) = &published.changed {
        return Ok((changed.previous.is_some(), changed.at));
    }
    // It was made by an earlier request. If its event is no longer kept, the answer says that the entity was there.
    let event = edge.parts.reader.event(published.last_id).await?;
    Ok(event.map_or((true, Timestamp::default()), |(event, _)| {
        (previous_version(&event.payload).is_none_or(|previous| previous.is_some()), event.created_at)
    }))
}

/// Answers with the digests of all buckets of a type.
pub async fn digest(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let (kind, query) = digest_query(&req, &edge)?;
    let (as_of, digest) = at(edge.parts.reader.digest(query).await?)?;
    let buckets: Vec<String> = digest.sums.iter().map(|sum| format!(r#""{sum:016x}""#)).collect();
    let data =
        format!(r#"{{"type":"{kind}","as_of":{as_of},"count":{},"buckets":[{}]}}"#, digest.count, buckets.join(","));
    Ok(reply::ok("success", data.as_bytes()))
}

/// Answers with the entities of one bucket.
pub async fn bucket(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let (_, query) = digest_query(&req, &edge)?;
    let text = segment(&req, 3)?;
    let number = text.parse().ok().filter(|number| *number < query.buckets);
    let number = number.ok_or_else(|| {
        let reason = format!("must be the number of a bucket, from 0 to {}", query.buckets - 1);
        ApiError::field(ErrorCode::InvalidField, "bucket", reason)
    })?;
    let (_, entities) = at(edge.parts.reader.bucket(query, number).await?)?;
    let entity = |(key, version): &(String, EventId)| {
        format!(r#"{{"key":{},"version":{version}}}"#, serde_json::Value::from(key.as_str()))
    };
    let entities: Vec<String> = entities.iter().map(entity).collect();
    Ok(reply::ok("success", format!("[{}]", entities.join(",")).as_bytes()))
}

fn digest_query(req: &HttpRequest, edge: &Edge) -> Result<(EntityType, DigestQuery), ApiError> {
    let caller = access::caller(req, edge)?;
    let kind = type_in(req)?;
    may_read(&caller, &kind)?;
    let query = Query::parse(req, &["as_of", "buckets"], &[])?;
    let in_range =
        |text: &str| text.parse().ok().filter(|n: &u32| n.is_power_of_two() && (1..=MAX_BUCKETS).contains(n));
    let expected = format!("a power of two from 1 to {MAX_BUCKETS}");
    let buckets = query.read("buckets", &expected, in_range)?.unwrap_or(DEFAULT_BUCKETS);
    let max_undo = edge.parts.config.state.digest_max_undo;
    Ok((kind.clone(), DigestQuery { kind, as_of: as_of(&query)?, buckets, max_undo }))
}

fn at<T>(found: AsOf<T>) -> Result<(EventId, T), ApiError> {
    match found {
        AsOf::At(as_of, found) => Ok((as_of, found)),
        AsOf::Beyond(end) => Err(beyond(end)),
        AsOf::Trimmed(earliest) => Err(trimmed(earliest)),
    }
}

fn check_as_of(as_of: EventId, earliest: EventId, end: EventId) -> Result<(), ApiError> {
    match as_of {
        _ if as_of > end => Err(beyond(end)),
        _ if as_of < earliest => Err(trimmed(earliest)),
        _ => Ok(()),
    }
}

fn beyond(end: EventId) -> ApiError {
    invalid("as_of", &format!("must not be beyond the end of the log, {end}"))
}

fn trimmed(earliest: EventId) -> ApiError {
    let message = format!("the changes since then are not all kept, or too many; the earliest is {earliest}");
    ApiError::new(ErrorCode::AsOfTrimmed, message).with("earliest_as_of", earliest)
}

fn as_of(query: &Query<'_>) -> Result<Option<EventId>, ApiError> {
    query.read("as_of", "the id of an event, or 0", version)
}

fn version(text: &str) -> Option<EventId> {
    text.parse().ok().filter(|version| *version >= 0)
}

fn conflict(current: Option<EventId>) -> ApiError {
    unmet(Unmet::Version(current))
}

fn not_found(deleted_version: Option<EventId>) -> ApiError {
    let error = ApiError::new(ErrorCode::EntityNotFound, "there is no such entity");
    match deleted_version {
        Some(version) => error.with("deleted_version", version),
        None => error,
    }
}

fn may_read(caller: &Caller, kind: &EntityType) -> Result<(), ApiError> {
    permit::read(caller, &kind.change_name())
}

fn builder(status: StatusCode, version: EventId) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    if status != StatusCode::NOT_MODIFIED {
        response.insert_header(header::ContentType::json());
    }
    if version > 0 {
        response.insert_header((header::ETAG, format!("\"{version}\"")));
    }
    response
}

fn type_in(req: &HttpRequest) -> Result<EntityType, ApiError> {
    entity_type(segment(req, 1)?.into(), "type")
}

fn entity_in(req: &HttpRequest) -> Result<EntityId, ApiError> {
    Ok(EntityId { kind: type_in(req)?, key: entity_key(segment(req, 2)?.into(), "key")? })
}

/// A segment of the path, percent-decoded: an encoded slash belongs to it.
fn segment(req: &HttpRequest, number: usize) -> Result<String, ApiError> {
    let text = req.uri().path().split('/').nth(number + 1).unwrap_or_default();
    let field = ["state", "type", "key", "bucket"].get(number).copied().unwrap_or("path");
    let decoded = percent_decode_str(text).decode_utf8();
    decoded
        .map(|text| text.into_owned())
        .map_err(|_| ApiError::field(ErrorCode::InvalidField, field, "must be UTF-8 once it is decoded"))
}
