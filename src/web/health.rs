//! `/health`, `/health/live`, `/health/ready` and `/metrics`.
//!
//! They ignore query parameters, because monitors add their own.

use std::time::Duration;

use actix_web::http::header::ContentType;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::reply::Refusal;
use super::{ConfiguredService, Edge, access};
use crate::domain::breaker::{BreakerSnapshot, BreakerState};
use crate::domain::lease::LeaseName;
use crate::domain::membership::NodeRecord;
use crate::domain::system::SystemState;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::storage::{Registered, StoreError};
use crate::telemetry::logging;

/// How long the store may take to count the instances of sagas.
const COUNT_PATIENCE: Duration = Duration::from_secs(1);

/// Answers that the process runs and can serve, with exactly the `{"status":"ok"}` that health monitors expect.
pub async fn health() -> HttpResponse {
    HttpResponse::Ok().insert_header(ContentType::json()).body(r#"{"status":"ok"}"#)
}

/// Answers whether the process is ready, with the state of each part.
pub async fn ready(edge: Data<Edge>) -> HttpResponse {
    let (ready, mut checks) = edge.parts.health.describe();
    if !edge.parts.services.is_empty() {
        // This is information only: undelivered events are kept, so no service makes this process unready.
        checks["services"] = edge.parts.services.iter().map(service).collect();
    }
    if let Some(state) = edge.parts.system.seen() {
        // This is information only: whoever drains with all others says so above.
        checks["system"] = json!({ "state": state.as_str() });
    }
    if let Some((keys, is_usable)) = edge.parts.access.keys() {
        // This is information only: the earlier keys stay in force.
        checks["access"] = json!({ "status": if is_usable { "ok" } else { "keys_outdated" }, "keys": keys });
    }
    let (mut response, status) =
        if ready { (HttpResponse::Ok(), "ok") } else { (HttpResponse::ServiceUnavailable(), "unavailable") };
    if !ready {
        response.insert_header(("Retry-After", "1"));
    }
    response.json(json!({ "status": status, "checks": checks }))
}

/// The state of a service, as far as it is known without asking the store or an actor.
fn service(ConfiguredService { config, slot }: &ConfiguredService) -> Value {
    let known = slot.registered();
    json!({
        "service": config.name,
        "breaker": breaker_state(known.as_ref()).as_str(),
        "paused": known.is_some_and(|known| known.paused.is_some()),
        "pending": slot.pending_total(),
        "dead": slot.dead(),
    })
}

/// The state of a service's breaker as it is stored.
pub fn breaker_state(known: Option<&Registered>) -> BreakerState {
    let stored = known.and_then(|known| known.breaker.as_deref());
    let stored: Option<BreakerSnapshot> = stored.and_then(|json| serde_json::from_str(json).ok());
    stored.map_or(BreakerState::Closed, |snapshot| snapshot.state)
}

/// Has the instances of sagas counted, if this node runs them: the figures of several nodes would be added up. If the
/// store does not answer soon, the last figures stay.
async fn count_sagas(edge: &Edge) {
    let Edge { parts, .. } = edge;
    let count = async {
        let (lease, own) = (LeaseName::sagas(), parts.cluster.name());
        let nodes = parts.reader.nodes().await?;
        let is_own = |(node, holds): &(NodeRecord, Vec<String>)| {
            node.name == *own && holds.iter().any(|of| of == lease.as_str())
        };
        if nodes.iter().any(is_own) { parts.reader.saga_counts().await.map(Some) } else { Ok::<_, StoreError>(None) }
    };
    if parts.health.store.is_up()
        && let Ok(Ok(counts)) = tokio::time::timeout(COUNT_PATIENCE, count).await
    {
        parts.metrics.count_sagas(counts.as_deref());
    }
}

/// Answers with all metrics in the text format of Prometheus.
pub async fn metrics(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    if edge.parts.config.access.protect_metrics {
        access::admin(&req, &edge)?;
    }
    if let Some((keys, is_usable)) = edge.parts.access.keys() {
        edge.parts.metrics.jwt_keys.set(keys as i64);
        edge.parts.metrics.jwt_keys_usable.set(is_usable.into());
    }
    let metrics = &edge.parts.metrics;
    for state in SystemState::ALL {
        let is_so = edge.parts.system.seen() == Some(state);
        metrics.system_state.with_label_values(&[state.as_str()]).set(is_so.into());
    }
    metrics.store_up.set(edge.parts.health.store.is_well().into());
    metrics.backlog.set(edge.worker.thread.intake.backlog().events() as i64);
    if let Some(bounds) = edge.parts.position.get() {
        metrics.log_last.set(bounds.last);
        metrics.log_earliest.set(bounds.earliest);
    }
    metrics
        .log_lines_dropped
        .set(i64::try_from(logging::handle().map_or(0, logging::LogHandle::dropped)).unwrap_or(i64::MAX));
    count_sagas(&edge).await;
    metrics.mailbox_depth.with_label_values(&["persistence"]).set(edge.parts.actors.persistence.depth() as i64);
    let text = metrics.encode().map_err(|error| {
        log::error!(error:% = error; "metrics cannot be written");
        ApiError::new(ErrorCode::Internal, "the metrics cannot be written")
    })?;
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text))
}
