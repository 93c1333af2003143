//! `GET /events/{id}/trace`: what became of one event.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::event_query::find;
use super::query::Query;
use super::reply::{self, Refusal};
use super::{Edge, access};
use crate::actors::consumers::messages::FindFate;
use crate::actors::push_log::PushLog;
use crate::domain::consumer::{Fate, Mark};
use crate::domain::delivery::{DeliveryState, EventStatus};
use crate::domain::event::{Event, EventId};
use crate::protocol::error::ApiError;
use crate::protocol::event_json::write_event;
use crate::storage::{AttemptRecord, ConsumerRecord, DeliveryRecord};

/// Answers with the history of an event: its commit, its subscribers, and each delivery with every attempt.
pub async fn trace(req: HttpRequest, id: Path<String>, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let (caller, reader) = (access::caller(&req, &edge)?, &edge.parts.reader);
    Query::parse(&req, &[], &[])?;
    let (event, _) = find(&edge, &caller, &id).await?;
    let (deliveries, attempts) = reader.trace(event.id).await?;
    let durables = consumers_of(&edge, &event, &deliveries).await?;
    let names = reader.service_names().await?;
    // The status is computed from the deliveries that are shown, since they may have changed after the first read.
    let status = EventStatus::of(deliveries.iter().map(|delivery| delivery.state));
    let mut data = br#"{"event":"#.to_vec();
    write_event(&mut data, &event, status);
    // The push log forgets old events: of those the number is unknown. A recent event that it does not have was not
    // pushed.
    let is_recent = edge.parts.position.last() - event.id < PushLog::EVENTS as EventId;
    let pushed = edge.parts.pushes.get(event.id).or(is_recent.then_some(0));
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

/// The state of an event at each durable subscription that it matches.
async fn consumers_of(
    edge: &Edge,
    event: &Event,
    deliveries: &[DeliveryRecord],
) -> Result<Vec<serde_json::Value>, ApiError> {
    let reader = &edge.parts.reader;
    let all = reader.consumers().await?;
    let wanting: Vec<_> = all.iter().filter(|record| record.why_not(&event.name, &event.payload).is_none()).collect();
    if wanting.is_empty() {
        return Ok(Vec::new());
    }
    let services = wanting.iter().map(|record| record.service).collect();
    let marks = reader.consumer_marks(services, event.id).await?;
    // Of durable subscriptions on other nodes, the store knows which events are settled and how often others were
    // delivered.
    let here = edge.parts.actors.consumers.ask(FindFate(event.id)).await.unwrap_or_default();
    let describe = |record: &&ConsumerRecord| {
        let stored = match marks.get(&record.service) {
            _ if event.id <= record.ack_floor => (Fate::Settled, 0),
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

/// The attempts of a delivery: each failed one, and the one that succeeded.
pub fn attempts_json<'a>(
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
