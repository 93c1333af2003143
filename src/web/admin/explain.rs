//! `POST /admin/explain`: whom an event would reach, and why not the others.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::answer;
use super::services::{observe, report_of, shown_route};
use crate::actors::shard::messages::{FindSubscribers, Reach};
use crate::domain::event::NewEvent;
use crate::protocol::publish::{PublishHeaders, parse_events};
use crate::runtime::report::ActorReport;
use crate::storage::ConsumerRecord;
use crate::web::reply::Refusal;
use crate::web::{ConfiguredService, Edge, body};

/// Most sessions that are listed of each kind.
const LISTED: usize = 50;

/// Explains where the event in the body, which is that of a publish, would go. Nothing is stored.
pub async fn explain(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let body = body::read_json(&req, payload, edge.parts.config.server.max_body.as_usize(), &edge).await?;
    let event = parse_events(&body, &PublishHeaders::default(), &edge.parts.rules)?.remove(0);
    let reports = observe(&edge).await?;
    let services: Vec<Value> =
        edge.parts.services.iter().map(|of| service(of, &event, report_of(of, &reports))).collect();
    let durables = edge.parts.reader.consumers().await?;
    let durables: Vec<Value> = durables.iter().map(|record| durable(record, &event)).collect();
    let find = FindSubscribers { name: event.name.clone(), payload: event.payload.clone(), limit: LISTED };
    let mut found = Reach::default();
    for there in edge.parts.actors.ask_shards(find).await {
        found.merge(there, LISTED);
    }
    answer(&json!({
        "event_name": event.name.as_str(),
        "source": &*event.source,
        "key": event.key.as_deref(),
        "services": services,
        "durables": durables,
        "sessions": {
            "count": found.matching,
            "listed": found.listed,
            "others_count": found.others,
            "others_listed": found.others_listed,
        },
    }))
}

/// Says whether the service would get the event, by which route, and what the delivery would wait for.
fn service(of: &ConfiguredService, event: &NewEvent, report: Option<&ActorReport>) -> Value {
    let ConfiguredService { config, slot } = of;
    let named = || config.routes.iter().filter(|route| route.event.matches(&event.name));
    let route = named().find(|route| route.first_failure(&event.payload).is_none());
    let failure = named().find_map(|route| route.first_failure(&event.payload));
    let is_own = slot.own_sources.contains(&event.source);
    let why_not = match (route, failure) {
        (None, None) => Some("no route matches".to_owned()),
        (None, Some(failure)) => Some(failure.to_string()),
        (Some(_), _) if is_own => Some("it is the source".to_owned()),
        (Some(_), _) => None,
    };
    json!({
        "service": config.name,
        "gets": why_not.is_none(),
        "route": route.map(|route| route.event.as_str()),
        "why_not": why_not,
        "routes": config.routes.iter().map(shown_route).collect::<Value>(),
        "waits_for": report.map_or(Some("its client to start"), waits_for).filter(|_| why_not.is_none()),
        "paused": report.map_or(&Value::Null, |report| &report.details["paused"]),
    })
}

/// Says whether the durable subscription would get the event.
fn durable(record: &ConsumerRecord, event: &NewEvent) -> Value {
    let why_not = record.why_not(&event.name, &event.payload);
    json!({ "durable": record.name, "gets": why_not.is_none(), "why_not": why_not })
}

/// What a delivery would wait for if it were made now.
fn waits_for(report: &ActorReport) -> Option<&'static str> {
    let details = &report.details;
    match (details["state"].as_str(), details["breaker"]["state"].as_str()) {
        (Some("paused"), _) => Some("being resumed"),
        (Some("standby"), _) => None,
        (Some("active"), Some("open" | "forced_open" | "half_open")) => Some("its circuit breaker to close"),
        (Some("active"), _) => match details["waits_for"].as_str() {
            Some("retry_after") => Some("the time that it has asked for"),
            Some("resources") => Some("room for a connection on this machine"),
            _ => None,
        },
        _ => Some("its client to start"),
    }
}
