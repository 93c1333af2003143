//! Subscribers' connections as bytes: handshake, framing, queues and the socket, and nothing of what is said.
//!
//! The [server](serve) accepts a connection, on which requests are [mended](heads) where the HTTP library is stricter
//! than senders are, and answers the handshake, or begins an endless answer; as soon as its head is
//! out, the connection is [taken over](handover). Then two parts face each other, on the same worker thread:
//! [`SendQueue`], where encoded frames wait to be written, and [`InboundFrames`], which reads no faster than its reader.
//! Neither has a task of its own or a buffer while it is idle. Either ends the connection: a closed send queue when it is
//! empty, the input when dropped.

mod decoder;
mod frame;
mod gate;
mod handover;
mod heads;
mod http_stream;
mod inbound;
mod limit;
mod reading;
mod send_queue;
mod server;
mod socket;
mod streaming;
mod waking;

use std::rc::Rc;

use actix_http::ws;
use actix_web::http::header::{
    CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING,
};
use actix_web::http::{StatusCode, Version};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};

pub use decoder::{Inbound, InboundError, InboundLimits};
pub use frame::{CloseFrame, append_text_frame, binary_frame, frame_payload, ping_frame, pong_frame, text_frame};
pub use gate::ReadGate;
pub use handover::HandedOver;
pub use http_stream::Refuse;
pub use inbound::InboundFrames;
pub use limit::{Admission, ConnectionLimit};
pub use send_queue::{DrainNotices, DrainQueue, QueueBudget, SendQueue, SendQueueKey, ShardQueues};
pub use server::{HttpSettings, serve};
pub use socket::{ConnectionSocket, ConnectionTimeouts, ServedRequest, peer_name};
pub use streaming::{InputEnd, PeerInput, Streaming, stream};

use handover::Handover;

/// A connection that speaks WebSocket as soon as `response` is returned.
pub struct Upgrade {
    pub response: HttpResponse,
    pub send_queue: Rc<SendQueue>,
    pub inbound: InboundFrames,
    /// The subprotocol that was agreed on.
    pub protocol: Option<&'static str>,
}

/// Switches the connection of `req`, whose payload is `payload`, to WebSocket; `protocols` are the subprotocols on
/// offer.
///
/// The first of them that the subscriber names wins. No extension is ever agreed on. The connection must have been
/// [registered](ConnectionSocket::register).
pub fn upgrade(
    req: &HttpRequest,
    payload: Payload,
    protocols: &[&'static str],
    limits: InboundLimits,
    shard: Rc<ShardQueues>,
) -> Result<Upgrade, HandshakeError> {
    let mut response = actix_web_actors::ws::handshake(req)?;
    check_handshake(req)?;
    let protocol = requested_protocols(req).find_map(|name| protocols.iter().copied().find(|offer| *offer == name));
    if let Some(protocol) = protocol {
        response.insert_header((SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol)));
    }
    let admission = shard.connections.admit().ok_or(HandshakeError::Full)?;
    let send_queue = SendQueue::new(shard, Some(admission));
    let (handover, source) = Handover::of_upgrade(req, payload, Rc::clone(&send_queue))?;
    let inbound = InboundFrames::new(source, limits, Rc::clone(&send_queue));
    Ok(Upgrade { response: response.body(handover), send_queue, inbound, protocol })
}

/// Checks what RFC 6455, section 4.2.1, requires beyond what the library checks, and that no body follows.
fn check_handshake(req: &HttpRequest) -> Result<(), HandshakeError> {
    let headers = req.headers();
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(HandshakeError::UnsupportedVersion);
    }
    if req.version() < Version::HTTP_11 {
        return Err(HandshakeError::Malformed("HTTP/1.1 is required"));
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY);
    let is_key = |key: &HeaderValue| is_base64_of_16_bytes(key.as_bytes());
    if !keys.next().is_some_and(is_key) || keys.next().is_some() {
        return Err(HandshakeError::Malformed("Sec-WebSocket-Key must be 16 bytes in base64"));
    }
    let has_length = headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if has_length || headers.contains_key(TRANSFER_ENCODING) {
        return Err(HandshakeError::Malformed("the request must not have a body"));
    }
    Ok(())
}

fn is_base64_of_16_bytes(text: &[u8]) -> bool {
    let is_digit = |b: &u8| b.is_ascii_alphanumeric() || b"+/".contains(b);
    matches!(text.strip_suffix(b"=="), Some(digits) if digits.len() == 22 && digits.iter().all(is_digit))
}

/// The subprotocols that `req` offers, in order of preference.
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
    #[error("no more subscribers are accepted at present")]
    Full,
    #[error("this connection cannot be taken over")]
    NoSocket,
}

impl HandshakeError {
    /// The answer's status. With 426 belong `Upgrade: websocket` and `Sec-WebSocket-Version: 13`.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NotWebSocket | Self::UnsupportedVersion => StatusCode::UPGRADE_REQUIRED,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Full | Self::NoSocket => StatusCode::SERVICE_UNAVAILABLE,
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
