//! `GET /events/stream`: server-sent events.

use actix_web::body::{self, BoxBody};
use actix_web::http::Method;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};

use super::event_query::patterns;
use super::query::{Query, invalid};
use super::reply::Refusal;
use super::resume::{EVENT_LOG, LOG_PARAMETER, RECOVERED, given_log, log_value, truth};
use super::{Edge, access, connecting};
use crate::actors::log_position::LogPosition;
use crate::actors::session;
use crate::actors::session::snapshot::Snapshot;
use crate::actors::shard::messages::OpenStream;
use crate::domain::access::{Caller, Scope};
use crate::domain::entity::EntityType;
use crate::domain::event::EventId;
use crate::domain::filter::Filter;
use crate::domain::pattern::Pattern;
use crate::protocol::entity;
use crate::protocol::error::ApiError;
use crate::protocol::permit;
use crate::protocol::subscription::{Envelope, Start};
use crate::protocol::wire::Wire;
use crate::transport::{Streaming, stream};

const PARAMETERS: &[&str] =
    &["event_name", "after", LOG_PARAMETER, "envelope", "named", "filter", "snapshot", access::TOKEN_PARAMETER];
const LAST_EVENT_ID: &str = "last-event-id";

/// The oldest event that there is, where it does not.
const EARLIEST_ID: HeaderName = HeaderName::from_static("stream-earliest-id");
/// Tells a proxy of the nginx family to pass on what it gets at once.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Sends events as they are published, and before that those since the position that the client names.
pub async fn connect(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let parts = &edge.parts;
    // Before anything else: what is published from now on is not missed (LP-1).
    let log_end = parts.position.last();
    let query = Query::parse(&req, PARAMETERS, &["event_name"])?;
    let caller = access::streaming_caller(&req, &edge)?;
    let patterns = wanted(&query, &caller)?;
    let filter = query.one("filter").map(Filter::parse).transpose().map_err(ApiError::from)?;
    let start = start(&req, &query)?.in_log(parts.position.log_id(), given_log(&query)?);
    let watched = watched(&query, &patterns)?;
    let envelope = if watched.is_some() { Envelope::Full } else { envelope(&query)? };
    if req.method() == Method::HEAD {
        return Ok(head().body(BoxBody::new(body::None::new())));
    }
    let log_end = parts.position.end_for(start, log_end, &parts.reader).await?;
    connecting::check_open(&edge)?;
    let admission = access::admit_stream(&req, &edge, &caller)?;
    let Streaming { mut response, send_queue, input } =
        stream(&req, head(), edge.worker.thread.queues.clone()).map_err(|error| connecting::handshake_error(&error))?;
    let attachment = connecting::attach(&req, &edge, caller, admission, send_queue, Wire::Sse).await?;
    if let Some(kind) = watched
        && let Some(replaces) = snapshot_due(start, &parts.position, log_end)?
    {
        let snapshot = Snapshot {
            kind,
            id: None,
            place: attachment.place,
            connection: std::rc::Rc::clone(&attachment.connection),
            shard: attachment.shard.clone(),
            position: std::sync::Arc::clone(&parts.position),
            reader: parts.reader.clone(),
            metrics: std::sync::Arc::clone(&parts.metrics),
            low_water: edge.worker.parts.low_water(),
            replaces,
        };
        session::stream::start_with(snapshot, attachment, input);
        response.headers_mut().insert(RECOVERED, truth(!replaces));
        if let Some(log) = parts.position.log_id() {
            response.headers_mut().insert(EVENT_LOG, log_value(log));
        }
        return Ok(response);
    }
    let open = OpenStream { place: attachment.place, patterns, envelope, filter, start, log_end };
    let state = session::stream::start(attachment, open, input).await?;
    response.headers_mut().insert(RECOVERED, truth(state.recovered));
    if let Some(log) = state.log {
        response.headers_mut().insert(EVENT_LOG, log_value(log));
    }
    if !state.recovered {
        response.headers_mut().insert(EARLIEST_ID, HeaderValue::from(state.earliest_id));
    }
    Ok(response)
}

/// The type of which a snapshot is asked for, if one is.
fn watched(query: &Query<'_>, patterns: &[Pattern]) -> Result<Option<EntityType>, ApiError> {
    if !query.read("snapshot", "true or false", |text| text.parse().ok())?.unwrap_or(false) {
        return Ok(None);
    }
    if let Some(other) = ["after", "filter", "envelope"].into_iter().find(|name| query.one(name).is_some()) {
        return Err(invalid(other, "cannot be given with snapshot"));
    }
    let [pattern] = patterns else {
        return Err(invalid("event_name", "must be one state.{type}.changed for a snapshot"));
    };
    entity::watched(pattern, "event_name").map(Some)
}

/// Whether the subscriber gets a snapshot, and if so whether it replaces what it has. Who comes back goes on without
/// one, if the log still reaches back that far.
fn snapshot_due(start: Start, position: &LogPosition, log_end: EventId) -> Result<Option<bool>, ApiError> {
    let (_, is_recovered) = position.place(start, position.bounds()?, log_end);
    Ok(match start {
        Start::Now => Some(false),
        _ => (!is_recovered).then_some(true),
    })
}

fn head() -> HttpResponseBuilder {
    let mut head = HttpResponse::Ok();
    head.insert_header((CONTENT_TYPE, "text/event-stream"));
    head.insert_header((CACHE_CONTROL, "no-store"));
    head.insert_header((BUFFERING, "no"));
    head
}

/// The patterns asked for, each once; none is everything that the caller may have but the Event Handler's own events.
fn wanted(query: &Query<'_>, caller: &Caller) -> Result<Vec<Pattern>, ApiError> {
    let mut wanted = permit::reading(caller, Scope::Subscribe, patterns(query)?)?;
    wanted.sort();
    wanted.dedup();
    if wanted.is_empty() {
        wanted.push(Pattern::everything());
    }
    Ok(wanted)
}

/// An event without its name tells it in its data.
fn envelope(query: &Query<'_>) -> Result<Envelope, ApiError> {
    let envelope = query.read("envelope", "plain or full", |text| match text {
        "plain" => Some(Envelope::Plain),
        "full" => Some(Envelope::Full),
        _ => None,
    })?;
    match (query.read("named", "true or false", |text| text.parse().ok())?, envelope) {
        (Some(false), Some(Envelope::Plain)) => Err(invalid("envelope", "is full with named=false")),
        (Some(false), _) => Ok(Envelope::Unnamed),
        _ => Ok(envelope.unwrap_or_default()),
    }
}

/// Where to begin. What a client says that comes back is newer than what its URL says.
fn start(req: &HttpRequest, query: &Query<'_>) -> Result<Start, ApiError> {
    const EXPECTED: &str = "an event id (an integer from 0) or earliest";
    let parse = |text: &str| match text {
        "earliest" => Some(Start::Earliest),
        number => number.parse::<EventId>().ok().filter(|id| *id >= 0).map(Start::After),
    };
    let after = query.read("after", EXPECTED, parse)?;
    let last = req.headers().get(LAST_EVENT_ID).filter(|value| !value.is_empty());
    let last = last.map(|value| {
        let read = value.to_str().ok().and_then(|text| parse(text.trim()));
        read.ok_or_else(|| invalid("Last-Event-ID", &format!("must be {EXPECTED}")))
    });
    Ok(last.transpose()?.or(after).unwrap_or(Start::Now))
}
