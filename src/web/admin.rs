//! The operators' endpoints.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};

use super::query::Query;
use super::reply::{self, Refusal};
use super::{Edge, access};
use crate::actors::observe::{ActorKind, ActorReport};
use crate::actors::supervisor::messages::ObserveTree;
use crate::protocol::error::{ApiError, ErrorCode};

/// The whole actor tree.
pub async fn actors(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    access::admin(&req, &edge.parts)?;
    Query::parse(&req, &[], &[])?;
    answer(&tree(&edge).await?)
}

/// The sessions, as a flat list.
pub async fn sessions(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    access::admin(&req, &edge.parts)?;
    Query::parse(&req, &[], &[])?;
    let mut found = Vec::new();
    collect_sessions(tree(&edge).await?, &mut found);
    answer(&found)
}

/// Makes an actor panic.
#[cfg(feature = "fault-injection")]
pub async fn fault(
    req: HttpRequest,
    actor: actix_web::web::Path<String>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Refusal> {
    access::admin(&req, &edge.parts)?;
    edge.parts.faults.do_send(crate::actors::supervisor::messages::InjectPanic { actor: actor.into_inner() });
    Ok(reply::ok("panicking", b"null"))
}

async fn tree(edge: &Edge) -> Result<ActorReport, ApiError> {
    let report = edge.parts.supervisor.send(ObserveTree).await;
    report.map_err(|error| ApiError::new(ErrorCode::Internal, format!("the supervisor did not answer: {error}")))
}

fn collect_sessions(report: ActorReport, found: &mut Vec<ActorReport>) {
    if report.kind == ActorKind::Session {
        found.push(report);
        return;
    }
    for child in report.children {
        collect_sessions(child, found);
    }
}

fn answer(report: &impl serde::Serialize) -> Result<HttpResponse, Refusal> {
    let data = serde_json::to_vec(report)
        .map_err(|error| ApiError::new(ErrorCode::Internal, format!("the report cannot be written: {error}")))?;
    Ok(reply::ok("success", &data))
}
