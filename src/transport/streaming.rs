//! Answers without an end: the head by HTTP, then bytes as they become due, from an outbox like a WebSocket's.
//!
//! The body is not chunked but ends with the connection. So its pieces can be shared with other connections, and
//! HTTP/1.0 will do.

use std::io::{self, ErrorKind};
use std::rc::Rc;

use actix_rt::net::TcpStream;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use tokio::sync::oneshot;

use super::HandshakeError;
use super::handover::Handover;
use super::outbox::{Outbox, ShardQueues};
use super::reading::{TakenOver, read};

/// Most bytes that a client may send after its request, which nobody reads.
const MAX_UNWANTED: usize = 64 * 1024;

/// A connection that gets what is pushed into `outbox` as soon as `response` is returned.
pub struct Streaming {
    pub response: HttpResponse,
    pub outbox: Rc<Outbox>,
    pub input: PeerInput,
}

/// Answers `req` with the head `response` and, without an end, what is pushed.
///
/// To be called where the request is [served](super::ConnectionSocket::serve).
pub fn stream(
    req: &HttpRequest,
    mut response: HttpResponseBuilder,
    shard: Rc<ShardQueues>,
) -> Result<Streaming, HandshakeError> {
    let admission = shard.connections.admit().ok_or(HandshakeError::Full)?;
    let outbox = Outbox::new(shard, Some(admission));
    let (handover, source) = Handover::of_answer(req, Rc::clone(&outbox))?;
    let mut response = response.force_close().body(handover);
    response.head_mut().no_chunking(true);
    Ok(Streaming { response, outbox, input: PeerInput(source) })
}

/// The receiving side of such a connection: nothing is expected but its end.
pub struct PeerInput(oneshot::Receiver<TakenOver>);

/// Why nothing more is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputEnd {
    /// The client is gone, or was cut off.
    Gone,
    /// It goes on sending what nobody wants.
    Flood,
}

impl PeerInput {
    /// Waits for the end; what comes before is dropped.
    pub async fn end(self) -> InputEnd {
        let Ok(TakenOver { stream, .. }) = self.0.await else { return InputEnd::Gone };
        let mut left = MAX_UNWANTED;
        loop {
            match unwanted(&stream).await {
                Ok(0) | Err(_) => return InputEnd::Gone,
                Ok(bytes) if bytes > left => return InputEnd::Flood,
                Ok(bytes) => left -= bytes,
            }
        }
    }
}

/// Bytes that have come, none at the end.
async fn unwanted(stream: &TcpStream) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match read(stream) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            done => return done.map(|chunk| chunk.len()),
        }
    }
}
