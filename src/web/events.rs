//! `GET /events` and `GET /events/{id}`.

use actix_web::http::Method;
use actix_web::http::header::HeaderName;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::accept::{self, Format};
use super::query::{Query, invalid};
use super::reply::{self, Refusal};
use super::{Edge, access, lines, long_poll, stream};
use crate::actors::durables::messages::FindFate;
use crate::actors::push_log::PushLog;
use crate::actors::session::unstorable;
use crate::domain::access::Scope;
use crate::domain::delivery::{DeliveryState, EventStatus};
use crate::domain::durable::{Fate, Mark};
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::pattern::Pattern;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::event_json::write_event;
use crate::protocol::permit;
use crate::protocol::request::Start;
use crate::storage::{
    AttemptRecord, DeliveryRecord, DurableRecord, EventPage, EventQuery, Order, Reader, StoreError, StoreErrorKind,
};

const PARAMETERS: &[&str] = &[
    "event_name",
    "after",
    "before",
    "since",
    "until",
    "source",
    "status",
    "key",
    "limit",
    "order",
    stream::LOG_PARAMETER,
];
const WAIT: &str = "wait";
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// A page of events.
pub async fn list(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    match accept::format(&req) {
        Format::EventStream => return stream::connect(req, edge).await,
        Format::Lines => return lines::list(&req, &edge, &Query::parse(&req, PARAMETERS, &["event_name"])?).await,
        Format::Json => {}
    }
    let caller = access::caller(&req, &edge)?;
    let query = Query::parse(&req, &[PARAMETERS, &[WAIT]].concat(), &["event_name"])?;
    let mut events = event_query(&query, MAX_LIMIT)?;
    events.patterns = permit::reading(&caller, Scope::Read, events.patterns)?;
    let order = events.order;
    let wait = long_poll::wait(&query)?;
    let recovery = recovery(&edge, &query, &events).await?;
    if let Some(Recovery { from, is_whole: false }) = recovery.filter(|_| wait.is_some()) {
        // Who waits behind the end of the log would wait for ever.
        events.after = Some(from);
    }
    let page = match wait {
        Some(wait) if req.method() != Method::HEAD => {
            let page = long_poll::read(&req, &edge, events, wait).await?;
            // The token may have ended meanwhile.
            access::caller(&req, &edge)?;
            page
        }
        _ => read_page(&edge.parts.reader, events).await.map_err(|error| read_error(&error))?,
    };
    let mut data = Vec::with_capacity(page.events.len() * 256);
    data.push(b'[');
    for (k, event) in page.events.iter().enumerate() {
        if k > 0 {
            data.push(b',');
        }
        let status = page.statuses.get(&event.id).copied().unwrap_or(EventStatus::Processed);
        write_event(&mut data, event, status);
    }
    data.push(b']');
    let mut response = reply::ok_builder();
    if let Some(log) = edge.parts.position.log_id() {
        response.insert_header((stream::EVENT_LOG, stream::log_value(log)));
    }
    if let Some(Recovery { is_whole, .. }) = recovery {
        response.insert_header((stream::RECOVERED, stream::truth(is_whole)));
    }
    for link in links(&query, &page, order) {
        response.append_header(link);
    }
    Ok(response.body(reply::envelope("success", &data)))
}

/// Where a client goes on that says what it has seen.
#[derive(Debug, Clone, Copy)]
struct Recovery {
    /// After this event.
    from: EventId,
    /// Whether everything since then is there.
    is_whole: bool,
}

/// None without `after`, and before the log is known.
async fn recovery(edge: &Edge, query: &Query<'_>, events: &EventQuery) -> Result<Option<Recovery>, ApiError> {
    let (position, given) = (&edge.parts.position, stream::given_log(query)?);
    let Some(after) = events.after else { return Ok(None) };
    let log_end = position.end_for(Start::After(after), position.last(), &edge.parts.reader).await;
    let start = Start::After(after).in_log(position.log_id(), given);
    let place = position.get().map(|bounds| start.place(bounds, log_end));
    Ok(place.map(|(from, is_whole)| Recovery { from, is_whole }))
}

/// One event.
pub async fn one(req: HttpRequest, id: Path<String>, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let caller = access::caller(&req, &edge)?;
    Query::parse(&req, &[], &[])?;
    let unknown = || ApiError::new(ErrorCode::EventNotFound, format!("there is no event {id}"));
    let number: EventId = id.parse().map_err(|_| unknown())?;
    let event = edge.parts.reader.event(number).await.map_err(|error| read_error(&error))?;
    let mut data = Vec::new();
    // What the caller may not read does not exist for it.
    let (event, status) = event.filter(|(event, _)| permit::may_read(&caller, &event.name)).ok_or_else(unknown)?;
    write_event(&mut data, &event, status);
    Ok(reply::ok("success", &data))
}

/// What became of one event: its commit, its subscribers, each delivery with every attempt.
pub async fn trace(req: HttpRequest, id: Path<String>, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let (caller, reader) = (access::caller(&req, &edge)?, &edge.parts.reader);
    Query::parse(&req, &[], &[])?;
    let unknown = || ApiError::new(ErrorCode::EventNotFound, format!("there is no event {id}"));
    let number: EventId = id.parse().map_err(|_| unknown())?;
    let event = reader.event(number).await.map_err(|error| read_error(&error))?;
    let (event, _) = event.filter(|(event, _)| permit::may_read(&caller, &event.name)).ok_or_else(unknown)?;
    let (deliveries, attempts) = reader.trace(number).await.map_err(|error| read_error(&error))?;
    let durables = durables_of(&edge, &event, &deliveries).await?;
    let names = reader.service_names().await.map_err(|error| read_error(&error))?;
    // Of the very deliveries that are shown, which may have come further since.
    let status = EventStatus::of(deliveries.iter().map(|delivery| delivery.state));
    let mut data = br#"{"event":"#.to_vec();
    write_event(&mut data, &event, status);
    // What is not remembered may still have been pushed; what was published lately and is not there was not.
    let is_recent = edge.parts.position.last() - number < PushLog::EVENTS as EventId;
    let pushed = edge.parts.pushes.get(number).or(is_recent.then_some(0));
    let deliveries: Vec<_> = deliveries
        .iter()
        .map(|delivery| {
            let name = names.get(&delivery.service).map_or("unknown", String::as_str);
            let of_delivery = attempts.iter().filter(|attempt| attempt.service == delivery.service);
            delivery_json(name, delivery, of_delivery)
        })
        .collect();
    let rest = json!({ "committed_at": event.created_at.to_string(), "pushed_to": pushed, "deliveries": deliveries,
                       "durables": durables });
    data.push(b',');
    data.extend_from_slice(&rest.to_string().as_bytes()[1..]);
    Ok(reply::ok("success", &data))
}

/// What became of an event at each durable subscription that wants it.
async fn durables_of(
    edge: &Edge,
    event: &Event,
    deliveries: &[DeliveryRecord],
) -> Result<Vec<serde_json::Value>, ApiError> {
    let reader = &edge.parts.reader;
    let all = reader.durables().await.map_err(|error| read_error(&error))?;
    let wanting: Vec<_> = all.iter().filter(|record| record.why_not(&event.name, &event.payload).is_none()).collect();
    if wanting.is_empty() {
        return Ok(Vec::new());
    }
    let services = wanting.iter().map(|record| record.service).collect();
    let marks = reader.durable_marks(services, event.id).await.map_err(|error| read_error(&error))?;
    // Of those of other nodes the store knows what is settled, and what was delivered in vain.
    let here = match edge.parts.durables.get() {
        Some(durables) => durables.send(FindFate(event.id)).await.unwrap_or_default(),
        None => Default::default(),
    };
    let describe = |record: &&DurableRecord| {
        let stored = match marks.get(&record.service) {
            _ if event.id <= record.floor => (Fate::Settled, 0),
            Some(Mark::Settled) => (Fate::Settled, 0),
            Some(Mark::Delivered(deliveries)) => (Fate::Waiting, *deliveries),
            None => (Fate::Waiting, 0),
        };
        let (fate, count) = here.get(&record.name).copied().unwrap_or(stored);
        let is_dead = deliveries.iter().any(|d| d.service == record.service && d.state == DeliveryState::Dead);
        let state = if is_dead && fate == Fate::Settled { "dead" } else { fate.as_str() };
        json!({ "durable": record.name, "state": state, "deliveries": (count > 0).then_some(count) })
    };
    Ok(wanting.iter().map(describe).collect())
}

/// A delivery, with each of its attempts.
fn delivery_json<'a>(
    service: &str,
    delivery: &DeliveryRecord,
    failed: impl Iterator<Item = &'a AttemptRecord>,
) -> serde_json::Value {
    json!({
        "service": service,
        "state": delivery.state.as_str(),
        "priority": delivery.lane.as_str(),
        "attempts": attempts_json(delivery, failed),
        "next_attempt_at": delivery.due_at.filter(|_| delivery.state.is_open()).map(|due| due.to_string()),
        "reason": delivery.reason,
    })
}

/// Each attempt of a delivery.
pub(super) fn attempts_json<'a>(
    delivery: &DeliveryRecord,
    failed: impl Iterator<Item = &'a AttemptRecord>,
) -> Vec<serde_json::Value> {
    let took_ms = |took_us: i64| took_us as f64 / 1e3;
    let mut attempts: Vec<_> = failed
        .map(|attempt| {
            json!({
                "attempt": attempt.attempt,
                "at": attempt.finished_at.to_string(),
                "took_ms": took_ms(attempt.took_us),
                "outcome": "failed",
                "http_status": attempt.http_status,
                "error": attempt.reason,
                "answer": attempt.answer,
            })
        })
        .collect();
    if delivery.state == DeliveryState::Delivered {
        attempts.push(json!({
            "attempt": delivery.attempts,
            "at": delivery.finished_at.map(|at| at.to_string()),
            "took_ms": delivery.took_us.map(took_ms),
            "outcome": "delivered",
            "http_status": delivery.http_status,
        }));
    }
    attempts
}

/// `after` goes forward from there, whatever the order: descending, it is the page of ascending order turned round.
pub(super) async fn read_page(reader: &Reader, mut query: EventQuery) -> Result<EventPage, StoreError> {
    let turned = query.order == Order::Desc && query.after.is_some() && query.before.is_none();
    if turned {
        query.order = Order::Asc;
    }
    let mut page = reader.query(query).await?;
    if turned {
        page.events.reverse();
    }
    Ok(page)
}

/// What the parameters ask for, with a `limit` of at most `max_limit`.
pub(super) fn event_query(query: &Query<'_>, max_limit: usize) -> Result<EventQuery, ApiError> {
    let id = |text: &str| text.parse::<EventId>().ok().filter(|id| *id >= 0);
    let expected_id = "an event id: an integer from 0";
    let expected_time = "an RFC 3339 time like 2026-01-31T12:00:00Z";
    let limit = query.read("limit", &format!("an integer from 1 to {max_limit}"), |text| {
        text.parse().ok().filter(|limit| (1..=max_limit).contains(limit))
    })?;
    let order = query.read("order", "asc or desc", |text| match text {
        "asc" => Some(Order::Asc),
        "desc" => Some(Order::Desc),
        _ => None,
    })?;
    Ok(EventQuery {
        patterns: patterns(query)?,
        after: query.read("after", expected_id, id)?,
        before: query.read("before", expected_id, id)?,
        since: query.read("since", expected_time, Timestamp::parse)?,
        until: query.read("until", expected_time, Timestamp::parse)?,
        source: query.read("source", EXPECTED_TEXT, plain_text)?,
        key: query.read("key", EXPECTED_TEXT, plain_text)?,
        status: query.read("status", "one of processed, pending, failed", EventStatus::parse)?,
        limit: limit.unwrap_or(DEFAULT_LIMIT),
        order: order.unwrap_or(Order::Asc),
        ..EventQuery::default()
    })
}

/// The names and patterns asked for.
pub(super) fn patterns(query: &Query<'_>) -> Result<Vec<Pattern>, ApiError> {
    let parse = |text| Pattern::parse(text).map_err(|reason| invalid("event_name", &reason.to_string()));
    query.all("event_name").map(parse).collect()
}

const EXPECTED_TEXT: &str = "text without control characters";

fn plain_text(text: &str) -> Option<String> {
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// `next` goes on in the order of the page, `prev` goes back. A cursor that bounds the walk rather than beginning it
/// stays: both of two.
fn links(query: &Query<'_>, page: &EventPage, order: Order) -> Vec<(HeaderName, String)> {
    let (Some(first), Some(last)) = (page.events.first(), page.events.last()) else {
        return Vec::new();
    };
    let (oldest, newest) = (first.id.min(last.id), first.id.max(last.id));
    let (after, before) = (query.one("after").is_some(), query.one("before").is_some());
    let without_after: &[&str] = if after && before { &["after"] } else { &["after", "before"] };
    let without_before: &[&str] = if after && before { &["before"] } else { &["after", "before"] };
    let newer = page.has_more_after.then(|| query.rewritten(without_after, ("after", newest)));
    let older = page.has_more_before.then(|| query.rewritten(without_before, ("before", oldest)));
    let (next, prev) = match order {
        Order::Asc => (newer, older),
        Order::Desc => (older, newer),
    };
    let link = |query: Option<String>, relation: &str| query.map(|query| reply::link(&query, relation));
    link(next, "next").into_iter().chain(link(prev, "prev")).collect()
}

/// What a reader is told when the store did not answer.
pub(super) fn read_error(error: &StoreError) -> ApiError {
    let code = match error.kind {
        StoreErrorKind::Invalid => return unstorable().because(&error.message),
        StoreErrorKind::Busy => ErrorCode::Overloaded,
        _ => ErrorCode::StoreUnavailable,
    };
    let told = ApiError::new(code, format!("the store cannot be read: {}", error.kind.meaning()));
    told.because(&error.message).retry_after(std::time::Duration::from_secs(1))
}
