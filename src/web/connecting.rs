//! What the edges of WebSocket and SSE have in common: how a subscriber's connection is let in.

use std::rc::Rc;

use actix_web::HttpRequest;
use actix_web::http::StatusCode;

use super::{Edge, access};
use crate::access::limits::PeerAdmission;
use crate::actors::connection::{AuthState, Connection};
use crate::actors::session::attachment::Attachment;
use crate::domain::access::Caller;
use crate::protocol::close::CloseReason;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::wire::Wire;
use crate::transport::{HandshakeError, SendQueue};

/// Refuses subscribers while there is nothing to subscribe to, or nobody should come any more.
pub fn check_open(edge: &Edge) -> Result<(), ApiError> {
    if edge.parts.health.is_draining() {
        return Err(ApiError::draining());
    }
    edge.parts.position.bounds().map(drop)
}

/// Attaches the connection behind `send_queue`, by which `caller` goes on, to the shard of this thread.
pub async fn attach(
    req: &HttpRequest,
    edge: &Edge,
    caller: Caller,
    admission: Option<PeerAdmission>,
    send_queue: Rc<SendQueue>,
    wire: Wire,
) -> Result<Attachment, ApiError> {
    let rate_key = access::rate_key(req, edge, &caller);
    let auth = AuthState::new(caller, rate_key);
    let clock = Rc::clone(&edge.worker.thread.clock);
    let connection = Connection::new(send_queue, wire, access::peer(req, edge), auth, clock);
    let attachment = Attachment::get(&edge.worker, connection, admission).await?;
    edge.parts.metrics.sessions_opened.inc();
    if edge.parts.health.is_draining() {
        // The others may have been told to leave before this one had its place.
        attachment.connection.close(CloseReason::Draining);
    }
    Ok(attachment)
}

/// The answer to a request that does not become a subscriber's connection.
pub fn handshake_error(error: &HandshakeError) -> ApiError {
    let code = match error.status() {
        StatusCode::SERVICE_UNAVAILABLE => return ApiError::transient(ErrorCode::Overloaded, error.to_string()),
        StatusCode::UPGRADE_REQUIRED => ErrorCode::UpgradeRequired,
        _ => ErrorCode::MalformedRequest,
    };
    ApiError::new(code, error.to_string())
}
