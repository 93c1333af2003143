//! How a subscriber's connection comes to its seat in the shard of its worker.

use std::rc::Rc;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::StatusCode;

use super::{Edge, access};
use crate::actors::router::worker::ShardAddresses;
use crate::actors::shard::messages::{OpenSession, Seated};
use crate::actors::shard::seat::{Link, Standing};
use crate::domain::access::Caller;
use crate::protocol::close::CloseReason;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::wire::Wire;
use crate::transport::{HandshakeError, Outbox};

/// A place in the shard.
pub struct Seat {
    pub seated: Seated,
    pub link: Rc<Link>,
    pub shard: Rc<ShardAddresses>,
}

/// Refuses subscribers while there is nothing to subscribe to, or nobody should come any more.
pub fn check_open(edge: &Edge) -> Result<(), ApiError> {
    if edge.parts.health.is_draining() {
        return Err(unavailable(ErrorCode::Draining, "the process is shutting down"));
    }
    if edge.parts.position.get().is_none() {
        return Err(unavailable(ErrorCode::StoreUnavailable, "the store has not been opened yet"));
    }
    Ok(())
}

/// Takes a seat for the connection behind `outbox`, by which `caller` goes on.
pub async fn take(
    req: &HttpRequest,
    edge: &Edge,
    caller: Caller,
    outbox: Rc<Outbox>,
    wire: Wire,
) -> Result<Seat, ApiError> {
    let (parts, worker) = (&edge.parts, &edge.worker);
    let shard = worker.shard().ok_or_else(|| unavailable(ErrorCode::Overloaded, "still starting"))?;
    let standing = Standing::new(caller.clone(), access::rate_key(req, edge, &caller));
    let link = worker.link(outbox, wire, access::peer(req, edge), standing);
    let ticket = worker.lobby.enter(link.clone());
    let Ok(Some(seated)) = shard.open_session.send(OpenSession(ticket)).await else {
        worker.lobby.take(ticket);
        return Err(restarting());
    };
    parts.metrics.sessions_opened.inc();
    if parts.health.is_draining() {
        // The others may have been told to leave before this one had its seat.
        link.close(CloseReason::Draining);
    }
    Ok(Seat { seated, link, shard })
}

/// The answer while there is no shard to sit in.
pub fn restarting() -> ApiError {
    unavailable(ErrorCode::Overloaded, "the shard of this worker is restarting")
}

/// The answer to a request that does not become a subscriber's connection.
pub fn handshake_error(error: &HandshakeError) -> ApiError {
    let code = match error.status() {
        StatusCode::SERVICE_UNAVAILABLE => return unavailable(ErrorCode::Overloaded, &error.to_string()),
        StatusCode::UPGRADE_REQUIRED => ErrorCode::UpgradeRequired,
        _ => ErrorCode::MalformedRequest,
    };
    ApiError::new(code, error.to_string())
}

fn unavailable(code: ErrorCode, message: &str) -> ApiError {
    ApiError::new(code, message).retry_after(Duration::from_secs(1))
}
