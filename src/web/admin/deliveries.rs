//! `GET /admin/deliveries`: the state of each delivery of an event to a service.

use std::collections::{BTreeMap, HashSet};

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::answer;
use super::destinations::destinations;
use crate::actors::client::messages::ListInFlight;
use crate::actors::registry::in_time;
use crate::domain::delivery::DeliveryState;
use crate::domain::event::{EventId, Timestamp};
use crate::domain::priority::Lane;
use crate::domain::routes::ServiceId;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::storage::{Claimed, DeliveryFilter, DeliveryRecord, ListedDelivery};
use crate::web::Edge;
use crate::web::query::{DEFAULT_LIMIT, MAX_LIMIT, Query, invalid};
use crate::web::reply::{self, Refusal};
use crate::web::trace::attempts_json;

const PARAMETERS: &[&str] = &["service", "state", "event_id", "before", "limit"];

/// The state of a delivery, as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Pending,
    InFlight,
    Delivered,
    Dead,
}

impl Shown {
    const ALL: [Self; 4] = [Self::Pending, Self::InFlight, Self::Delivered, Self::Dead];

    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InFlight => "in_flight",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    /// A delivery is in flight if the store has it as pending and the client of its service has sent it.
    fn of(state: DeliveryState, is_in_flight: bool) -> Self {
        match state {
            DeliveryState::Waiting | DeliveryState::Retrying if is_in_flight => Self::InFlight,
            DeliveryState::Waiting | DeliveryState::Retrying => Self::Pending,
            DeliveryState::Delivered => Self::Delivered,
            DeliveryState::Dead => Self::Dead,
        }
    }

    fn stored(self) -> &'static [DeliveryState] {
        match self {
            Self::Pending => &[DeliveryState::Waiting, DeliveryState::Retrying],
            Self::InFlight => &[],
            Self::Delivered => &[DeliveryState::Delivered],
            Self::Dead => &[DeliveryState::Dead],
        }
    }
}

/// Answers with a page of deliveries, the newest first, or with all deliveries of one event.
pub async fn list(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let query = Query::parse(&req, PARAMETERS, &[])?;
    let destinations = destinations(&edge, query.one("service"), ErrorCode::InvalidParameter).await?;
    let state = query.read("state", "one of pending, in_flight, delivered, dead", |text| {
        Shown::ALL.into_iter().find(|state| state.as_str() == text)
    })?;
    let id = |text: &str| text.parse::<EventId>().ok().filter(|id| *id > 0);
    let event_id = query.read("event_id", "an event id: an integer from 1", id)?;
    let before = query.read("before", "an event id: an integer from 1", id)?;
    let limit = query.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let service_name = query.one("service").map(str::to_owned);
    let in_flight = InFlight(in_flight(&edge, service_name.as_deref()).await);
    if let Some(event_id) = event_id {
        if let Some(name) = ["before", "limit"].into_iter().find(|name| query.one(name).is_some()) {
            return Err(invalid(name, "does not go with event_id, which has all deliveries of the event").into());
        }
        let rows = of_event(&edge, event_id, &in_flight).await?;
        let wanted = |row: &Value| {
            service_name.as_ref().is_none_or(|name| row["service"] == **name)
                && state.is_none_or(|state| row["state"] == state.as_str())
        };
        return answer(&rows.into_iter().filter(wanted).collect::<Vec<_>>());
    }
    if state == Some(Shown::InFlight) {
        return answer(&in_flight.page(before, limit));
    }
    let names: BTreeMap<ServiceId, String> =
        destinations.into_iter().filter_map(|destination| Some((destination.id?, destination.name))).collect();
    let states = state.map_or(&DeliveryState::ALL[..], Shown::stored).to_vec();
    let filter = DeliveryFilter { services: names.keys().copied().collect(), states, before, limit };
    let page = edge.parts.reader.deliveries(filter).await?;
    let sent = in_flight.ids();
    let shown = |listed: &ListedDelivery| {
        let name = names.get(&listed.delivery.service).map_or("", String::as_str);
        Shown::of(listed.delivery.state, sent.contains(&(name, listed.delivery.event_id)))
    };
    let rows = page.deliveries.iter().filter(|listed| state.is_none_or(|state| state == shown(listed)));
    let rows: Vec<Value> = rows
        .map(|ListedDelivery { delivery, event, last_error }| {
            let name = names.get(&delivery.service).map_or("", String::as_str);
            let is_sent = sent.contains(&(name, delivery.event_id));
            let event = event.as_ref().map(|(name, created_at)| (name.as_str(), *created_at));
            row(delivery, name, event, last_error.as_deref(), is_sent)
        })
        .collect();
    let mut response = reply::ok_builder();
    if let Some(before) = page.next_before {
        let next = query.rewritten(&["before"], ("before", before));
        response.append_header(reply::link(&next, "next"));
    }
    Ok(response.body(reply::envelope("success", Value::from(rows).to_string().as_bytes())))
}

/// All deliveries of one event, with their attempts.
async fn of_event(edge: &Edge, id: EventId, in_flight: &InFlight) -> Result<Vec<Value>, ApiError> {
    let reader = &edge.parts.reader;
    let (deliveries, attempts) = reader.trace(id).await?;
    let event = reader.event(id).await?;
    if event.is_none() && deliveries.is_empty() {
        return Err(ApiError::new(ErrorCode::EventNotFound, format!("there is no event {id}")));
    }
    let names = reader.service_names().await?;
    let sent = in_flight.ids();
    let event = event.as_ref().map(|(event, _)| (event.name.as_str(), event.created_at));
    let rows = deliveries.iter().map(|delivery| {
        let name = names.get(&delivery.service).map_or("", String::as_str);
        let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.service == delivery.service).collect();
        let last = failed.iter().find(|failed| failed.attempt == delivery.attempts);
        let last_error = last.map(|failed| failed.reason.as_str());
        let mut row = row(delivery, name, event, last_error, sent.contains(&(name, id)));
        row["attempt_log"] = attempts_json(delivery, failed.into_iter()).into();
        row
    });
    Ok(rows.collect())
}

/// One delivery.
fn row(
    delivery: &DeliveryRecord,
    service: &str,
    event: Option<(&str, Timestamp)>,
    last_error: Option<&str>,
    is_sent: bool,
) -> Value {
    let state = Shown::of(delivery.state, is_sent);
    let is_dead = state == Shown::Dead;
    json!({
        "event_id": delivery.event_id,
        "event_name": event.map(|(name, _)| name),
        "created_at": event.map(|(_, created_at)| created_at.to_string()),
        "service": service,
        "state": state.as_str(),
        "priority": delivery.lane.as_str(),
        "key": delivery.key,
        "attempts": delivery.attempts,
        "due_at": delivery.due_at.map(|due_at| due_at.to_string()),
        "finished_at": delivery.finished_at.map(|finished_at| finished_at.to_string()),
        "took_ms": delivery.took_us.map(|took_us| took_us as f64 / 1e3),
        "http_status": delivery.http_status,
        "last_error": last_error,
        "dead_reason": delivery.reason.as_deref().filter(|_| is_dead),
    })
}

/// The deliveries that the clients have sent and whose outcome is not stored yet, by service.
struct InFlight(Vec<(String, Vec<Claimed>)>);

impl InFlight {
    fn ids(&self) -> HashSet<(&str, EventId)> {
        self.0.iter().flat_map(|(name, sent)| sent.iter().map(|claimed| (name.as_str(), claimed.event.id))).collect()
    }

    /// A page of them, the newest first.
    fn page(&self, before: Option<EventId>, limit: usize) -> Vec<Value> {
        let all = self.0.iter().flat_map(|(name, sent)| sent.iter().map(move |claimed| (name.as_str(), claimed)));
        let mut wanted: Vec<_> = all.filter(|(_, claimed)| before.is_none_or(|id| claimed.event.id < id)).collect();
        wanted.sort_unstable_by_key(|(_, claimed)| std::cmp::Reverse(claimed.event.id));
        wanted.truncate(limit);
        let row = |(service, Claimed { event, lane, attempts, due_at, spent: _, behind: _ }): (&str, &Claimed)| {
            let lane: Lane = *lane;
            json!({
                "event_id": event.id,
                "event_name": event.name.as_str(),
                "created_at": event.created_at.to_string(),
                "service": service,
                "state": Shown::InFlight.as_str(),
                "priority": lane.as_str(),
                "key": event.key.as_deref(),
                "attempts": attempts,
                "due_at": due_at.map(|due_at| due_at.to_string()),
            })
        };
        wanted.into_iter().map(row).collect()
    }
}

/// Asks the clients for the deliveries that are in flight: of all services, or of the one that is named.
async fn in_flight(edge: &Edge, service: Option<&str>) -> Vec<(String, Vec<Claimed>)> {
    let clients = edge.parts.actors.clients.iter().filter(|(name, _)| service.is_none_or(|wanted| wanted == **name));
    let asked = clients.map(|(name, client)| {
        let listed = in_time(client, ListInFlight);
        async move { (name.clone(), listed.await.unwrap_or_default()) }
    });
    join_all(asked).await
}
