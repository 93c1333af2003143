//! WebSocket connections as bytes: the handshake, framing, queues and the socket, and nothing of what is said.
//!
//! All of it lives on one HTTP worker thread, save [`ConnectionSocket`]. Two parts face each other:
//! [`Outbox`], where encoded frames wait to be written, and [`InboundFrames`], which reads no faster than
//! its reader. Either ends the connection: a closed outbox when it is empty, the input when it is dropped.

mod decoder;
mod frame;
mod gate;
mod inbound;
mod outbox;
mod socket;

use std::rc::Rc;
use std::sync::{Arc, Weak};

use actix_http::ws;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};

pub use decoder::{Inbound, InboundError, InboundLimits};
pub use frame::{CloseFrame, append_text_frame, ping_frame, pong_frame, text_frame};
pub use gate::ReadGate;
pub use inbound::InboundFrames;
pub use outbox::{DrainNotices, DrainQueue, MAX_SLICE, Outbox, OutboxBody, OutboxKey, QueueBudget, ShardQueues};
pub use socket::ConnectionSocket;

/// A connection that speaks WebSocket as soon as `response` is returned.
pub struct Upgrade {
    pub response: HttpResponse,
    pub outbox: Rc<Outbox>,
    pub inbound: InboundFrames,
    /// The subprotocol that was agreed on.
    pub protocol: Option<&'static str>,
}

/// Switches the connection of `req` to WebSocket; `protocols` are the subprotocols on offer.
///
/// The first of them that the client names wins. No extension is ever agreed on.
pub fn upgrade(
    req: &HttpRequest,
    payload: Payload,
    protocols: &[&'static str],
    limits: InboundLimits,
    shard: Rc<ShardQueues>,
) -> Result<Upgrade, HandshakeError> {
    let mut response = actix_web_actors::ws::handshake(req)?;
    let protocol = requested_protocols(req).find_map(|name| protocols.iter().copied().find(|offer| *offer == name));
    if let Some(protocol) = protocol {
        response.insert_header((SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol)));
    }
    let socket = req.conn_data::<Arc<ConnectionSocket>>().map_or_else(Weak::new, Arc::downgrade);
    let (outbox, body) = Outbox::new(shard, socket);
    let inbound = InboundFrames::new(payload, limits, Rc::clone(&outbox));
    Ok(Upgrade { response: response.body(body), outbox, inbound, protocol })
}

/// The subprotocols that the client of `req` can speak, best first.
pub fn requested_protocols(req: &HttpRequest) -> impl Iterator<Item = &str> {
    req.headers()
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// Why a request does not become a WebSocket connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error(
        "this is a WebSocket endpoint: a GET request with 'Connection: Upgrade' and 'Upgrade: websocket' is expected"
    )]
    NotWebSocket,
    #[error("unsupported WebSocket version: 13 is expected")]
    UnsupportedVersion,
    #[error("malformed WebSocket handshake: {0}")]
    Malformed(&'static str),
}

impl HandshakeError {
    /// The answer's status. With 426 belong `Upgrade: websocket` and `Sec-WebSocket-Version: 13`.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NotWebSocket | Self::UnsupportedVersion => StatusCode::UPGRADE_REQUIRED,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl From<ws::HandshakeError> for HandshakeError {
    fn from(error: ws::HandshakeError) -> Self {
        use ws::HandshakeError as Cause;
        match error {
            Cause::GetMethodRequired | Cause::NoWebsocketUpgrade | Cause::NoConnectionUpgrade => Self::NotWebSocket,
            Cause::UnsupportedVersion => Self::UnsupportedVersion,
            Cause::NoVersionHeader => Self::Malformed("Sec-WebSocket-Version is missing"),
            Cause::BadWebsocketKey => Self::Malformed("Sec-WebSocket-Key is missing"),
        }
    }
}

#[cfg(test)]
mod socket_tests;
#[cfg(test)]
mod test_client;
