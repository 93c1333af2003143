//! `/event-types`: the catalogue.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::http::StatusCode;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::admin::nodes;
use super::precondition::precondition;
use super::query::Query;
use super::reply::{self, Refusal};
use super::{Edge, access, body};
use crate::actors::catalogue::Preview;
use crate::actors::clock::now;
use crate::actors::shard::messages::CountSubscribers;
use crate::domain::access::Scope;
use crate::domain::catalogue::EventType;
use crate::domain::catalogue::change::Put;
use crate::domain::event::{Event, Timestamp};
use crate::domain::pattern::Pattern;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::event_type::{MAX_BYTES, comparison_json, parse_put, shown, type_name};
use crate::protocol::finding::history_json;
use crate::protocol::permit;
use crate::storage::TypeVersion;

/// Newest events that are counted by their publishers.
const USAGE_EVENTS: usize = 10_000;
/// A day in microseconds.
const DAY: i64 = 24 * 3_600_000_000;

/// Answers with the types of which the caller may read the events, without their schemas.
pub async fn list(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let caller = access::caller(&req, &edge)?;
    permit::any(&caller, Scope::Read)?;
    Query::parse(&req, &[], &[])?;
    let types = edge.parts.reader.event_types().await?;
    let readable = types.iter().filter(|of| permit::read_all(&caller, &of.name).is_ok());
    let types: Vec<String> = readable.map(|of| shown(of, false)).collect();
    Ok(reply::ok("success", format!("[{}]", types.join(",")).as_bytes()))
}

/// Answers with one type.
pub async fn read(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let of = readable(&req, &edge).await?;
    Ok(reply::ok("success", shown(&of, true).as_bytes()))
}

/// Answers with all versions of its schema.
pub async fn versions(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let of = readable(&req, &edge).await?;
    let versions = edge.parts.reader.type_versions(of.name, None).await?;
    let versions: Vec<String> = versions.iter().map(version_json).collect();
    Ok(reply::ok("success", format!("[{}]", versions.join(",")).as_bytes()))
}

/// Answers with one version of it.
pub async fn version(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let of = readable(&req, &edge).await?;
    let number = segment(&req, 4)?;
    let none = || ApiError::new(ErrorCode::EventTypeNotFound, format!("the event type has no version {number:?}"));
    let number = number.parse().map_err(|_| none())?;
    let versions = edge.parts.reader.type_versions(of.name, Some(number)).await?;
    Ok(reply::ok("success", version_json(versions.first().ok_or_else(none)?).as_bytes()))
}

/// Puts a type in the place of what it was; or says what that would mean.
pub async fn put(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    if let Err(error) = access::admin(&req, &edge) {
        body::discard(&req, payload).await;
        return Err(error.into());
    }
    let given = body::read(&req, payload, MAX_BYTES, &edge).await?;
    let query = Query::parse(&req, &["dry_run"], &[])?;
    let is_dry = query.read("dry_run", "true or false", |text| text.parse().ok())?.unwrap_or(false);
    body::content_type(&req, &["application/json"])?;
    let name = name(&req)?;
    let condition = precondition(req.headers())?;
    let put = Put { condition, ..parse_put(&given, Some(name.clone()))? };
    let desk = &edge.parts.catalogue;
    if is_dry {
        let Preview { comparison, is_strict, checked, failing } = desk.preview(put).await?;
        let mut data = comparison_json(&comparison, is_strict);
        data["history"] = json!({ "checked": checked, "failing": history_json(&failing) });
        return Ok(reply::ok("Nothing was changed.", data.to_string().as_bytes()));
    }
    let decision = desk.put(put, None).await?;
    let data = find(&edge, name).await?.map_or("null".to_owned(), |of| shown(&of, true));
    let (status, message) = match decision.is_new {
        true => (StatusCode::CREATED, "Event type created."),
        false => (StatusCode::OK, "Event type stored."),
    };
    let mut response = HttpResponse::build(status);
    response.insert_header(actix_web::http::header::ContentType::json());
    Ok(response.body(reply::envelope(message, data.as_bytes())))
}

/// Deletes a type.
pub async fn delete(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    body::discard(&req, payload).await;
    access::admin(&req, &edge)?;
    Query::parse(&req, &[], &[])?;
    let name = name(&req)?;
    let version = edge.parts.catalogue.delete(name.clone()).await?.ok_or_else(|| not_found(&name))?;
    let data = json!({ "name": name.as_str(), "version": version });
    Ok(reply::ok("Event type deleted.", data.to_string().as_bytes()))
}

/// Answers with who has published its events in the last day, who receives them now, and how many violations were found.
pub async fn usage(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let of = readable(&req, &edge).await?;
    let since = Timestamp(now().0.saturating_sub(DAY));
    let is_recent = |event: &Event| event.created_at >= since;
    let (events, is_complete) = edge.parts.catalogue.governed(&of, USAGE_EVENTS, is_recent).await?;
    let mut publishers = BTreeMap::<&str, (u64, Timestamp)>::new();
    for event in &events {
        let (count, last_at) = publishers.entry(&event.source).or_default();
        *count += 1;
        *last_at = (*last_at).max(event.created_at);
    }
    let publishers: Vec<_> = publishers
        .into_iter()
        .map(|(source, (count, last_at))| json!({ "source": source, "count": count, "last_at": last_at.to_string() }))
        .collect();
    let mut seen = Seen::here(&edge, &of.name).await;
    let consumers = edge.parts.reader.consumers().await?.into_iter();
    let consumers =
        consumers.filter(|one| Pattern::parse(one.pattern.clone()).is_ok_and(|pattern| pattern.overlaps(&of.name)));
    seen.receivers.extend(consumers.map(|one| Receiver { kind: "consumer".to_owned(), name: one.name }));
    let mut silent = Vec::new();
    for (node, answer) in nodes::of_others(&edge, &format!("/admin{}", req.path())).await {
        match answer.map(serde_json::from_value::<Seen>) {
            Ok(Ok(other)) => seen.add(other),
            _ => silent.push(node),
        }
    }
    let Seen { receivers, violations } = seen;
    let data = json!({
        "publishers": publishers, "receivers": receivers, "violations": violations, "complete": is_complete,
        "unreachable": silent,
    });
    Ok(reply::ok("success", data.to_string().as_bytes()))
}

/// Answers with what a node alone knows of the use of a type.
pub async fn usage_here(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let query = Query::parse(&req, &["node"], &[])?;
    let name = type_name(segment(&req, 3)?, "name")?;
    if let Some(answer) = nodes::elsewhere(&req, &edge, &query).await? {
        return Ok(answer);
    }
    let seen = Seen::here(&edge, &name).await;
    Ok(reply::ok("success", json!(seen).to_string().as_bytes()))
}

/// What a node knows of the use of a type: its services, its subscribers, and the violations that it has found in the last
/// day.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    receivers: BTreeSet<Receiver>,
    violations: u64,
}

/// Who receives events: a service, a durable subscription or the pattern of a subscriber.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Receiver {
    kind: String,
    name: String,
}

impl Seen {
    async fn here(edge: &Edge, name: &Pattern) -> Self {
        let parts = &edge.parts;
        let receiver = |kind: &str, name: &str| Receiver { kind: kind.to_owned(), name: name.to_owned() };
        let services =
            parts.services.iter().filter(|of| of.config.routes.iter().any(|route| route.event.overlaps(name)));
        let mut receivers: BTreeSet<_> = services.map(|of| receiver("service", &of.config.name)).collect();
        let subscribed = parts.actors.ask_shards(CountSubscribers).await.into_iter().flatten();
        let subscribed = subscribed.map(|(pattern, _)| pattern).filter(|pattern| pattern.overlaps(name));
        receivers.extend(subscribed.map(|pattern| receiver("subscriber", pattern.as_str())));
        Self { receivers, violations: parts.catalogue.catalogue.violations(name, now()) }
    }

    fn add(&mut self, other: Self) {
        self.receivers.extend(other.receivers);
        self.violations += other.violations;
    }
}

/// The type in the path, if the caller may read its events.
async fn readable(req: &HttpRequest, edge: &Edge) -> Result<EventType, ApiError> {
    let caller = access::caller(req, edge)?;
    let name = name(req)?;
    permit::read_all(&caller, &name)?;
    Query::parse(req, &[], &[])?;
    find(edge, name.clone()).await?.ok_or_else(|| not_found(&name))
}

async fn find(edge: &Edge, name: Pattern) -> Result<Option<EventType>, ApiError> {
    Ok(edge.parts.reader.event_type(name).await?.filter(|of| of.settings.is_some()))
}

fn not_found(name: &Pattern) -> ApiError {
    ApiError::new(ErrorCode::EventTypeNotFound, format!("there is no event type {:?}", name.as_str()))
}

fn version_json(TypeVersion { version, schema, created_at }: &TypeVersion) -> String {
    format!(r#"{{"version":{version},"schema":{schema},"created_at":"{created_at}"}}"#)
}

fn name(req: &HttpRequest) -> Result<Pattern, ApiError> {
    type_name(segment(req, 2)?, "name")
}

/// A segment of the path, percent-decoded: an encoded slash belongs to it.
fn segment(req: &HttpRequest, number: usize) -> Result<String, ApiError> {
    let text = req.uri().path().split('/').nth(number).unwrap_or_default();
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map(|text| text.into_owned());
    decoded.map_err(|_| ApiError::field(ErrorCode::InvalidField, "name", "must be UTF-8 once it is decoded"))
}
