//! `/admin/durables`: the durable subscriptions, and what operators do about them.

use std::collections::HashMap;

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::answer;
use crate::actors::consumers::messages::{ConsumerStatus, ListConsumers, LookAgain};
use crate::actors::registry::in_time;
use crate::domain::event::EventId;
use crate::protocol::consumer::Seek;
use crate::protocol::consumer::seek_request;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::storage::{Alteration, ConsumerRecord, Outcome, Write, service_name};
use crate::web::query::Query;
use crate::web::reply::{self, Refusal};
use crate::web::write::commit;
use crate::web::{Edge, body};

/// Longest body of a request, in bytes.
const MAX_BODY: usize = 4 * 1024;

/// Answers with all durable subscriptions, ordered by name.
pub async fn list(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    answer(&all(&edge).await?)
}

/// Answers with one durable subscription.
pub async fn one(req: HttpRequest, name: Path<String>, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    let found = all(&edge).await?.into_iter().find(|durable| durable["name"] == **name);
    answer(&found.ok_or_else(|| unknown(&name))?)
}

/// Moves a durable subscription to another position in the log. Its members can no longer acknowledge what they were
/// given before.
pub async fn seek(
    req: HttpRequest,
    payload: Payload,
    name: Path<String>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Refusal> {
    let body = body::read_json(&req, payload, MAX_BODY, &edge).await?;
    let floor = floor(&edge, seek_request(&body)?).await?;
    alter(&edge, &name, Alteration::Seek(floor)).await?;
    Ok(reply::ok("Moved.", json!({ "floor": floor }).to_string().as_bytes()))
}

/// Deletes a durable subscription with its position and its dead letters. Its members are told that it has ended.
pub async fn delete(req: HttpRequest, name: Path<String>, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    alter(&edge, &name, Alteration::Delete).await?;
    Ok(reply::ok("Deleted.", b"null"))
}

async fn alter(edge: &Edge, name: &str, alteration: Alteration) -> Result<(), ApiError> {
    let alter = Write::AlterConsumer { name: name.to_owned(), alteration };
    if commit(edge, alter).await? != Outcome::Changed(true) {
        return Err(unknown(name));
    }
    // If this message is lost, the actor finds the change within a second, as the actors of other nodes do.
    let _ = edge.parts.actors.consumers.tell(LookAgain(name.to_owned()));
    Ok(())
}

/// The ack floor that `seek` means: the last event that members do not get.
async fn floor(edge: &Edge, seek: Seek) -> Result<EventId, ApiError> {
    let reader = &edge.parts.reader;
    let log = reader.bounds().await?;
    Ok(match seek {
        Seek::After(id) => id.min(log.last),
        Seek::Earliest => log.earliest - 1,
        Seek::Latest => log.last,
        Seek::Since(since) => {
            let (first, _) = reader.ids_between(Some(since), None).await?;
            first - 1
        }
    })
}

async fn all(edge: &Edge) -> Result<Vec<Value>, ApiError> {
    let stored = edge.parts.reader.consumers().await?;
    let here = in_time(&edge.parts.actors.consumers, ListConsumers).await.unwrap_or_default();
    let here: HashMap<String, ConsumerStatus> = here.into_iter().map(|status| (status.name.clone(), status)).collect();
    let last = edge.parts.position.last();
    Ok(stored.iter().map(|record| describe(record, here.get(&record.name), last)).collect())
}

fn describe(record: &ConsumerRecord, here: Option<&ConsumerStatus>, last: EventId) -> Value {
    let ConsumerRecord { service: _, name, pattern, filter, fencing_epoch: _, ack_floor, policy, created_at } = record;
    // The ack floor is shown as it is stored, but the lag is computed from the newest one.
    let settled = here.map_or(*ack_floor, |status| status.ack_floor.max(*ack_floor));
    json!({
        "name": name,
        "event_name": pattern,
        "filter": filter.as_deref().and_then(|json| serde_json::from_str::<Value>(json).ok()),
        "state": here.map_or("idle", |status| status.state),
        "floor": ack_floor,
        "lag": (last - settled).max(0),
        "members": here.map_or(0, |status| status.members),
        "in_flight": here.map_or(0, |status| status.in_flight),
        "unacked_bytes": here.map_or(0, |status| status.unacked_bytes),
        "held_by": here.and_then(|status| status.held_by),
        "waiting": here.map_or(0, |status| status.waiting),
        "delivered": here.map_or(0, |status| status.delivered),
        "redelivered": here.map_or(0, |status| status.redelivered),
        "acknowledged": here.map_or(0, |status| status.acknowledged),
        "ack_wait_ms": u64::try_from(policy.ack_wait.as_millis()).unwrap_or(u64::MAX),
        "max_in_flight": policy.max_in_flight,
        "max_deliver": policy.max_deliver,
        "dead_letters": format!("/admin/deliveries?service={}&state=dead", service_name(name)),
        "created_at": created_at.to_string(),
    })
}

fn unknown(name: &str) -> ApiError {
    ApiError::new(ErrorCode::DurableNotFound, format!("there is no durable subscription {name:?}"))
}
