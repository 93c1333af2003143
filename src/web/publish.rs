//! `POST /publish` and `POST /publish/batch`.

use std::time::Instant;

use actix_web::http::header::HeaderMap;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use serde_json::Value;

use super::observe::request_id;
use super::query::Query;
use super::reply::{self, Refusal};
use super::{Edge, access, body, tracing};
use crate::actors::clock::scheduling;
use crate::actors::persistence::messages::AppendFailure;
use crate::domain::access::Caller;
use crate::domain::event::{Append, AppendOutcome, EventId, Schedule, ScheduleId};
use crate::domain::name::EventName;
use crate::protocol::batch::{parse_array, parse_ndjson};
use crate::protocol::cloud_events;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::event_json::write_event;
use crate::protocol::outcome::{Published, Told, told};
use crate::protocol::permit;
use crate::protocol::publish::{PublishHeaders, parse_publish, scope_keys};
use crate::transport::peer_name;

const JSON: &str = "application/json";
/// The media types for JSON documents, one a line.
const LINES: [(&str, Form); 3] =
    [("application/x-ndjson", Form::Lines), ("application/ndjson", Form::Lines), ("application/jsonl", Form::Lines)];
const CLOUD_EVENT: (&str, Form) = (cloud_events::STRUCTURED, Form::StructuredCloudEvent);
const CLOUD_EVENTS: (&str, Form) = (cloud_events::BATCH, Form::CloudEvents);

/// What a body holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Event,
    Array,
    Lines,
    BinaryCloudEvent,
    StructuredCloudEvent,
    CloudEvents,
}

/// Stores one event; or a batch of CloudEvents, which their HTTP binding lets come to the same path.
pub async fn publish(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let form = form(&req, &[(JSON, Form::Event), CLOUD_EVENT, CLOUD_EVENTS]);
    if let Ok(form @ Form::CloudEvents) = form {
        return store_batch(req, payload, edge, Ok(form)).await;
    }
    let (caller, payload) = known_caller(&req, payload, &edge).await?;
    // The body is read first: a request that is refused unread would cost the publisher its connection.
    let body = body::read(&req, payload, edge.parts.config.server.max_body.as_usize(), &edge).await?;
    Query::parse(&req, &[], &[])?;
    let mut append = parse_one(&req, form?, &body, &edge)?;
    permit_all(&req, &edge, &caller, &append)?;
    scope_keys(&mut append, &caller);
    let name = append.events[0].name.clone();
    let schedule = append.schedule;
    let published = match told(commit(&edge, append).await?, false)? {
        Told::Scheduled { id, replayed, violations } => {
            return Ok(scheduled(&name, id, schedule, replayed, violations));
        }
        Told::Published(published) => published,
    };
    let (id, replayed) = (published.first_id, published.is_replayed());
    if edge.parts.config.log.activity {
        log::info!(target: "event_handler::activity", id, event_name = name.as_str(), replayed, request_id = request_id(&req).as_str(), peer = peer_name(access::peer(&req, &edge)).as_str(); "published");
    }
    let message = format!("Event '{name}' published.");
    let mut response = reply::ok_builder();
    response.insert_header(("Event-Id", id));
    tell_violations(&mut response, published.violations);
    if let Some(version) = published.entity_version() {
        response.insert_header(("Entity-Version", version));
    }
    if replayed {
        response.insert_header(("Idempotent-Replayed", "true"));
    }
    if !wants_representation(&req) {
        return Ok(response.body(reply::envelope(&message, b"null")));
    }
    response.insert_header(("Preference-Applied", "return=representation"));
    Ok(response.body(reply::envelope(&message, &representation(&edge, id).await?)))
}

fn scheduled(
    name: &EventName,
    id: ScheduleId,
    schedule: Option<Schedule>,
    replayed: bool,
    violations: u32,
) -> HttpResponse {
    let mut response = reply::ok_builder();
    tell_violations(&mut response, violations);
    if replayed {
        response.insert_header(("Idempotent-Replayed", "true"));
    }
    let due_at = schedule.map(|schedule| schedule.due_at).unwrap_or_default();
    let data = format!(r#"{{"schedule_id":"{id}","deliver_at":"{due_at}"}}"#);
    response.body(reply::envelope(&format!("Event '{name}' scheduled."), data.as_bytes()))
}

/// Says how many violations of schemas were only observed.
pub fn tell_violations(response: &mut HttpResponseBuilder, violations: u32) {
    if violations > 0 {
        response.insert_header(("Schema-Violations", violations));
    }
}

/// Stores many events, all or none of them.
pub async fn publish_batch(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let [x_ndjson, ndjson, jsonl] = LINES;
    let form = form(&req, &[(JSON, Form::Array), x_ndjson, ndjson, jsonl, CLOUD_EVENTS]);
    store_batch(req, payload, edge, form).await
}

async fn store_batch(
    req: HttpRequest,
    payload: Payload,
    edge: Data<Edge>,
    form: Result<Form, ApiError>,
) -> Result<HttpResponse, Refusal> {
    let (caller, payload) = known_caller(&req, payload, &edge).await?;
    let body = body::read(&req, payload, edge.parts.config.publish.max_batch_body.as_usize(), &edge).await?;
    Query::parse(&req, &[], &[])?;
    let form = form?;
    let headers = headers(req.headers())?;
    let mut append = match form {
        Form::Lines => parse_ndjson(&body, &headers, &edge.parts.rules)?,
        Form::CloudEvents => cloud_events::parse_batch(&body, &headers, &edge.parts.rules)?,
        _ => parse_array(&body, &headers, &edge.parts.rules)?,
    };
    permit_all(&req, &edge, &caller, &append)?;
    scope_keys(&mut append, &caller);
    let follows: Vec<bool> = append.events.iter().map(|event| event.change.is_some()).collect();
    let count = follows.iter().filter(|follows| !**follows).count();
    if count == 0 {
        let none = br#"{"count":0,"first_id":null,"last_id":null}"#;
        return Ok(reply::ok("0 events published.", none));
    }
    let Told::Published(published) = told(commit(&edge, append).await?, true)? else {
        return Err(ApiError::new(ErrorCode::Internal, "no event of a batch can be scheduled").into());
    };
    let replayed = published.replayed.map_or(count, |replayed| replayed as usize);
    let (ids, versions) = ids_of(&published, &follows);
    let violations = published.violations;
    let (first_id, last_id) = (published.first_id, ids.last().copied().unwrap_or(published.last_id));
    let mut response = reply::ok_builder();
    tell_violations(&mut response, violations);
    let mut data = format!(r#"{{"count":{count},"first_id":{first_id},"last_id":{last_id}"#);
    if !versions.is_empty() {
        data.push_str(&format!(r#","ids":{},"entity_versions":{}"#, Value::from(ids), Value::from(versions)));
    }
    if replayed == count {
        response.insert_header(("Idempotent-Replayed", "true"));
    } else if replayed > 0 {
        data.push_str(&format!(r#","replayed":{replayed}"#));
    }
    data.push('}');
    let events = if count == 1 { "event" } else { "events" };
    Ok(response.body(reply::envelope(&format!("{count} {events} published."), data.as_bytes())))
}

/// By index: the ids of the events of a batch, and the versions that they have given to entities. Both are empty for a
/// batch without changes.
fn ids_of(published: &Published, follows: &[bool]) -> (Vec<EventId>, Vec<Option<EventId>>) {
    if !follows.contains(&true) {
        return (Vec::new(), Vec::new());
    }
    // A batch that is repeated as a whole has the ids that it had, one after another.
    let all = match &published.changed {
        Some(changed) => changed.ids.clone(),
        None => (published.first_id..).take(follows.len()).collect(),
    };
    let (mut ids, mut versions) = (Vec::new(), Vec::new());
    for (id, follows) in all.into_iter().zip(follows) {
        match versions.last_mut() {
            Some(version) if *follows => *version = Some(id),
            _ => {
                ids.push(id);
                versions.push(None);
            }
        }
    }
    (ids, versions)
}

/// Who publishes. The body of an unknown publisher is dropped, and no large one is read.
async fn known_caller(req: &HttpRequest, payload: Payload, edge: &Edge) -> Result<(Caller, Payload), ApiError> {
    match access::caller(req, edge) {
        Ok(caller) => Ok((caller, payload)),
        Err(error) => {
            body::discard(req, payload).await;
            Err(error)
        }
    }
}

/// Checks that the caller may publish each of these events, and this many now.
fn permit_all(req: &HttpRequest, edge: &Edge, caller: &Caller, append: &Append) -> Result<(), ApiError> {
    tracing::note(req, append);
    for (index, event) in append.events.iter().enumerate() {
        permit::publish(caller, &event.name).map_err(|error| match append.events.len() {
            1 => error,
            _ => error.with("index", index),
        })?;
    }
    access::limit_publish(req, edge, caller, append.events.len())
}

/// The one of `forms` that the content type names. A request with the headers of a CloudEvent in binary mode may have
/// data of any type.
fn form(req: &HttpRequest, forms: &[(&'static str, Form)]) -> Result<Form, ApiError> {
    let types: smallvec::SmallVec<[&str; 5]> = forms.iter().map(|(name, _)| *name).collect();
    let given = body::content_type(req, &types);
    let form = given.map(|given| forms.iter().find(|(name, _)| *name == given).map_or(forms[0].1, |(_, form)| *form));
    let takes_one = forms.contains(&CLOUD_EVENT);
    let is_other = !matches!(form, Ok(Form::StructuredCloudEvent | Form::CloudEvents));
    if takes_one && is_other && req.headers().contains_key("ce-specversion") {
        return Ok(Form::BinaryCloudEvent);
    }
    form
}

fn parse_one(req: &HttpRequest, form: Form, body: &[u8], edge: &Edge) -> Result<Append, ApiError> {
    let (publish, rules) = (headers(req.headers())?, &edge.parts.rules);
    match form {
        Form::BinaryCloudEvent => {
            let headers = req.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            cloud_events::parse_binary(headers, body, &publish).map(Append::single)
        }
        Form::StructuredCloudEvent => cloud_events::parse_structured(body, &publish, rules).map(Append::single),
        Form::Event | Form::Array | Form::Lines | Form::CloudEvents => parse_publish(body, &publish, rules, scheduling),
    }
}

/// Stores the events and waits for the commit.
pub async fn commit(edge: &Edge, append: Append) -> Result<AppendOutcome, ApiError> {
    let parts = &edge.parts;
    if parts.health.is_draining() {
        return Err(ApiError::draining());
    }
    if !parts.health.store.is_up() {
        let reason = parts.health.store.reason().map_or("it has not been opened yet", |reason| reason.meaning);
        return Err(ApiError::transient(ErrorCode::StoreUnavailable, format!("the store is unavailable: {reason}")));
    }
    let begin = Instant::now();
    let outcome = edge.worker.thread.intake.append(append).await.map_err(|failure| {
        let cause = match failure {
            AppendFailure::StoreUnavailable(_) => parts.health.store.reason(),
            AppendFailure::Unstorable | AppendFailure::Overloaded | AppendFailure::TimedOut => None,
        };
        let error = ApiError::from(failure);
        match cause {
            Some(reason) => error.because(reason.message),
            None => error,
        }
    })?;
    parts.metrics.publish_duration.observe(begin.elapsed().as_secs_f64());
    Ok(outcome)
}

pub fn headers(headers: &HeaderMap) -> Result<PublishHeaders<'_>, ApiError> {
    let bad_key = |code, reason| ApiError::field(code, "Idempotency-Key", reason);
    let mut keys = headers.get_all("idempotency-key");
    let idempotency_key = match keys.next() {
        Some(key) if keys.any(|other| other != key) => {
            return Err(bad_key(ErrorCode::DuplicateField, "given twice, and not the same"));
        }
        Some(key) => Some(key.to_str().map_err(|_| bad_key(ErrorCode::InvalidField, "must be visible ASCII"))?),
        None => None,
    };
    // A trace context that cannot be read is ignored (W3C Trace Context, section 3.2), and so are two of them.
    let mut traceparents = headers.get_all("traceparent");
    let traceparent = traceparents.next().filter(|_| traceparents.next().is_none()).and_then(|t| t.to_str().ok());
    Ok(PublishHeaders { traceparent, idempotency_key })
}

/// Whether the request has `Prefer: return=representation` (RFC 7240), the value with quotation marks or without.
fn wants_representation(req: &HttpRequest) -> bool {
    let preferences = req.headers().get_all("prefer").filter_map(|value| value.to_str().ok());
    preferences.flat_map(|value| value.split(',')).any(|p| {
        let (name, value) = p.split(';').next().and_then(|p| p.split_once('=')).unwrap_or_default();
        let value = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("return") && value.eq_ignore_ascii_case("representation")
    })
}

async fn representation(edge: &Edge, id: EventId) -> Result<Vec<u8>, ApiError> {
    let mut data = Vec::new();
    match edge.parts.reader.event(id).await {
        Ok(Some((event, status))) => write_event(&mut data, &event, status),
        // The event is committed, so the answer stays a success.
        Ok(None) | Err(_) => data.extend_from_slice(b"null"),
    }
    Ok(data)
}
