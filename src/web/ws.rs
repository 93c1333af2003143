//! `GET /ws`: from an HTTP request to a session.

use actix_web::http::StatusCode;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use super::query::Query;
use super::reply::Refusal;
use super::{Edge, access, peer};
use crate::actors::router::messages::OpenSession;
use crate::actors::session::{Session, SessionParts};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::transport::{HandshakeError, upgrade};

/// Opens a session for a WebSocket client.
pub async fn connect(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let (parts, worker) = (&edge.parts, &edge.worker);
    Query::parse(&req, &[], &[])?;
    access::origin(&req, &parts.allowed_origins)?;
    if parts.health.is_draining() {
        return Err(unavailable(ErrorCode::Draining, "the process is shutting down").into());
    }
    let upgraded = upgrade(&req, payload, &[], parts.limits.inbound, worker.queues.clone())
        .map_err(|error| handshake_error(&error))?;
    if parts.position.get().is_none() {
        return Err(unavailable(ErrorCode::StoreUnavailable, "the store has not been opened yet").into());
    }
    let shard = worker.shard().ok_or_else(|| unavailable(ErrorCode::Overloaded, "still starting"))?;
    let link = worker.link(upgraded.outbox, peer(&req));
    let ticket = worker.lobby.enter(link.clone());
    let seated = match shard.open_session.send(OpenSession(ticket)).await {
        Ok(Some(seated)) => seated,
        Ok(None) | Err(_) => {
            worker.lobby.take(ticket);
            return Err(unavailable(ErrorCode::Overloaded, "the shard of this worker is restarting").into());
        }
    };
    parts.metrics.sessions_opened.inc();
    let session = SessionParts {
        shard,
        intake: worker.intake.clone(),
        position: parts.position.clone(),
        metrics: parts.metrics.clone(),
        reader: parts.reader.clone(),
        durables: parts.durables.clone(),
        rules: parts.rules,
        queue_limit: worker.queue_limit(),
        low_water: worker.low_water(),
    };
    Session::start(seated, link, session, upgraded.inbound);
    Ok(upgraded.response)
}

fn unavailable(code: ErrorCode, message: &str) -> ApiError {
    ApiError::new(code, message).retry_after(std::time::Duration::from_secs(1))
}

fn handshake_error(error: &HandshakeError) -> ApiError {
    let code = match error.status() {
        StatusCode::SERVICE_UNAVAILABLE => return unavailable(ErrorCode::Overloaded, &error.to_string()),
        StatusCode::UPGRADE_REQUIRED => ErrorCode::UpgradeRequired,
        _ => ErrorCode::MalformedRequest,
    };
    ApiError::new(code, error.to_string())
}
