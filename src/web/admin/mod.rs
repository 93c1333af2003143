//! The operators' endpoints.

pub mod audit;
pub mod consumers;
pub mod deliveries;
mod destinations;
pub mod explain;
pub mod jobs;
pub mod nodes;
pub mod orphans;
pub mod page;
pub mod presence;
pub mod samples;
pub mod services;
pub mod sync;
pub mod tokens;

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::query::Query;
use super::reply::{self, Refusal};
use super::{ConfiguredService, Edge, body};
use crate::actors::shard::leaving::DRAIN_SPREAD;
use crate::actors::shard::messages::CloseSession;
use crate::actors::supervisor::messages::ObserveTree;
#[cfg(feature = "fault-injection")]
use crate::actors::supervisor::messages::PanicChild;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::runtime::report::{ActorKind, ActorReport};
#[cfg(feature = "fault-injection")]
use crate::telemetry::faults::FaultPoint;

/// Answers with the whole actor tree.
pub async fn actors(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let query = Query::parse(&req, &["node"], &[])?;
    if let Some(answer) = nodes::elsewhere(&req, &edge, &query).await? {
        return Ok(answer);
    }
    answer(&tree(&edge, None).await?)
}

/// Ends a session. Its subscriber is told not to reconnect.
pub async fn close_session(req: HttpRequest, id: Path<String>, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    Query::parse(&req, &[], &[])?;
    let unknown = || ApiError::new(ErrorCode::SessionNotFound, format!("there is no session {id}"));
    let session = id.parse().map_err(|_| unknown())?;
    match edge.parts.actors.ask_shards(CloseSession(session)).await.contains(&true) {
        true => Ok(reply::ok("Session closed.", b"null")),
        false => Err(unknown().into()),
    }
}

/// Drains the node: readiness fails, and subscribers are told to reconnect elsewhere. The process runs until it is
/// stopped.
pub async fn drain(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    body::nothing(&req, payload, &edge).await?;
    let sessions = edge.parts.metrics.sessions.get();
    edge.parts.health.start_draining();
    edge.parts.actors.drain_sessions(DRAIN_SPREAD);
    log::info!(sessions; "draining");
    let data = json!({ "draining": true, "sessions": sessions, "spread_ms": DRAIN_SPREAD.as_millis() as u64 });
    Ok(reply::ok("Draining.", data.to_string().as_bytes()))
}

/// Ends the draining: new subscribers and publishes are accepted again. Subscribers that were told to leave still do.
pub async fn undrain(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    body::nothing(&req, payload, &edge).await?;
    edge.parts.health.stop_draining();
    log::info!("draining no more");
    Ok(reply::ok("Draining no more.", br#"{"draining":false}"#))
}

/// Answers with the points at which faults can be injected, and how often each has been hit.
#[cfg(feature = "fault-injection")]
pub async fn faults() -> Result<HttpResponse, Refusal> {
    let hits = FaultPoint::ALL.into_iter().map(|point| (point.as_str(), crate::telemetry::faults::hits(point)));
    answer(&hits.collect::<std::collections::BTreeMap<_, _>>())
}

/// Makes an actor panic, or arms a fault point for `?times=` failures (0 disarms it), once it was passed `?after=` times.
#[cfg(feature = "fault-injection")]
pub async fn fault(req: HttpRequest, name: Path<String>, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let query = Query::parse(&req, &["times", "after"], &[])?;
    let times = query.read("times", "an integer", |text| text.parse().ok())?;
    let after = query.read("after", "an integer", |text| text.parse().ok())?;
    if let Some(point) = FaultPoint::ALL.into_iter().find(|point| *point.as_str() == **name) {
        crate::telemetry::faults::arm(point, times.unwrap_or(1), after.unwrap_or(0));
        return Ok(reply::ok("armed", b"null"));
    }
    edge.parts.actors.supervisor.do_send(PanicChild { kind: name.into_inner() });
    Ok(reply::ok("panicking", b"null"))
}

/// The actor tree, or only the children of one kind.
async fn tree(edge: &Edge, only: Option<ActorKind>) -> Result<ActorReport, ApiError> {
    let report = edge.parts.actors.supervisor.send(ObserveTree { only }).await;
    report.map_err(|error| ApiError::new(ErrorCode::Internal, format!("the supervisor did not answer: {error}")))
}

/// The service of this name, if one is configured.
fn find_service<'a>(edge: &'a Edge, name: &str) -> Option<&'a ConfiguredService> {
    edge.parts.services.iter().find(|service| service.config.name == name)
}

fn known_services(edge: &Edge) -> Vec<&str> {
    edge.parts.services.iter().map(|service| service.config.name.as_str()).collect()
}

fn answer(report: &impl serde::Serialize) -> Result<HttpResponse, Refusal> {
    let data = serde_json::to_vec(report)
        .map_err(|error| ApiError::new(ErrorCode::Internal, format!("the report cannot be written: {error}")))?;
    Ok(reply::ok("success", &data))
}
