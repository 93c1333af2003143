//! Endless answers: HTTP writes the head, and the bytes that follow come from a send queue, as for a WebSocket.
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
use super::reading::{TakenOver, read};
use super::send_queue::{SendQueue, ShardQueues};

/// Most bytes that a subscriber may send after its request. They are dropped.
const MAX_UNWANTED: usize = 64 * 1024;

/// A connection that gets what is pushed into `send_queue` as soon as `response` is returned.
pub struct Streaming {
    pub response: HttpResponse,
    pub send_queue: Rc<SendQueue>,
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
    let send_queue = SendQueue::new(shard, Some(admission));
    let (handover, source) = Handover::of_answer(req, Rc::clone(&send_queue))?;
    let mut response = response.force_close().body(handover);
    response.head_mut().no_chunking(true);
    Ok(Streaming { response, send_queue, input: PeerInput(source) })
}

/// The input of such a connection, of which only the end matters.
pub struct PeerInput(oneshot::Receiver<TakenOver>);

/// Why the input ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputEnd {
    /// The subscriber is gone, or the connection was closed.
    Gone,
    /// The subscriber sent more than it may.
    Flood,
}

impl PeerInput {
    /// Waits for the end of the input, and drops what comes before it.
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

/// How many bytes have come; 0 at the end.
async fn unwanted(stream: &TcpStream) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match read(stream) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            done => return done.map(|chunk| chunk.len()),
        }
    }
}
