//! `GET /ws`: from an HTTP request to a session.

use std::rc::Rc;

use actix_web::http::header::{HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::StreamExt as _;

use super::query::Query;
use super::reply::Refusal;
use super::{Edge, access, connecting};
use crate::actors::session::{Session, SessionAccess, SessionParts};
use crate::domain::access::{Caller, Scope};
use crate::protocol::close::CloseReason;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::permit;
use crate::protocol::wire::Wire;
use crate::transport::{CloseFrame, InboundLimits, Upgrade, upgrade};

/// The protocol of `/ws` as a subprotocol: it changes nothing, but leaves a browser one to agree on beside its token.
const PROTOCOL: &str = "event-handler.v1";
/// The subprotocol with several JSON objects, one a line, in a frame.
const LINES: &str = "event-handler.v1.ndjson";

/// Opens a session for a WebSocket client.
pub async fn connect(req: HttpRequest, payload: Payload, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let parts = &edge.parts;
    Query::parse(&req, &[access::TOKEN_PARAMETER], &[])?;
    connecting::check_open(&edge)?;
    let caller = match access::streaming_caller(&req, &edge).and_then(may_do_something) {
        Ok(caller) => caller,
        // A page is not told the status of a failed handshake, but it is told why a connection was closed.
        Err(error) if is_of_page(&req) && tells_of_access(&error) => {
            return close_at_once(&req, payload, &edge, &error);
        }
        Err(error) => return Err(error.into()),
    };
    let admission = access::admit_stream(&req, &edge, &caller)?;
    let mut upgraded = upgrade_with(&req, payload, &edge)?;
    let wire = if upgraded.protocol == Some(LINES) { Wire::Lines } else { Wire::WebSocket };
    if wire == Wire::Lines {
        upgraded.inbound.split_lines();
    }
    let attachment = connecting::attach(&req, &edge, caller, admission, upgraded.send_queue, wire).await?;
    let session = SessionParts {
        worker: Rc::clone(&edge.worker),
        position: parts.position.clone(),
        metrics: parts.metrics.clone(),
        reader: parts.reader.clone(),
        consumers: parts.actors.consumers.clone(),
        rules: parts.rules,
        access: SessionAccess::new(parts.access.clone(), parts.rate_limits.clone()),
        max_memberships: parts.config.consumers.max_per_connection,
    };
    Session::start(attachment, session, upgraded.inbound);
    Ok(upgraded.response)
}

/// Switches to WebSocket. Of the subprotocols that the client offers the one that is known is agreed on. If none is but
/// the one with the token, that one: browsers give up if none is.
fn upgrade_with(req: &HttpRequest, payload: Payload, edge: &Edge) -> Result<Upgrade, ApiError> {
    let max_message = edge.parts.config.subscribe.max_message.as_usize();
    let limits = InboundLimits { max_message, ..InboundLimits::default() };
    let upgraded = upgrade(req, payload, &[LINES, PROTOCOL], limits, edge.worker.thread.queues.clone());
    let mut upgraded = upgraded.map_err(|error| connecting::handshake_error(&error))?;
    let echo = access::bearer_protocol(req).filter(|_| upgraded.protocol.is_none());
    if let Some(echo) = echo.and_then(|name| HeaderValue::from_str(name).ok()) {
        upgraded.response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, echo);
    }
    Ok(upgraded)
}

/// A connection is of use to whoever may subscribe or publish.
fn may_do_something(caller: Caller) -> Result<Caller, ApiError> {
    permit::any(&caller, Scope::Publish).or_else(|_| permit::any(&caller, Scope::Subscribe)).map(|()| caller)
}

fn is_of_page(req: &HttpRequest) -> bool {
    req.headers().contains_key(ORIGIN)
}

fn tells_of_access(error: &ApiError) -> bool {
    matches!(error.code(), ErrorCode::Unauthorized | ErrorCode::Forbidden)
}

/// Opens the connection and closes it with a code that says why.
fn close_at_once(req: &HttpRequest, payload: Payload, edge: &Edge, error: &ApiError) -> Result<HttpResponse, Refusal> {
    // It has no name: it counts for its address.
    let admission = access::admit_stream(req, edge, &Caller::Anybody)?;
    let upgraded = upgrade_with(req, payload, edge)?;
    let reason = if error.code() == ErrorCode::Forbidden { CloseReason::Forbidden } else { CloseReason::BadToken };
    upgraded.send_queue.close(&CloseFrame::new(reason.code(), reason.text()));
    upgraded.send_queue.end();
    let mut inbound = upgraded.inbound;
    // Read to its end, which the send queue sees to.
    actix_rt::spawn(async move {
        let _admission = admission;
        while inbound.next().await.is_some_and(|frame| frame.is_ok()) {}
    });
    Ok(upgraded.response)
}
