//! The requests of one connection, read no faster than they are handled.
//!
//! What has arrived is decoded before more is asked for, so that a flood of tiny frames is held back by the
//! peer's own socket. An idle connection holds no buffer here.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::error::PayloadError;
use actix_web::web::Payload;
use bytes::Bytes;
use futures_util::Stream;

use super::decoder::{FrameDecoder, Inbound, InboundError, InboundLimits};
use super::outbox::Outbox;

/// The messages and control frames of a connection. Ends after [`Inbound::Close`] or the first error.
///
/// Dropping it ends the connection, once what is queued in the outbox has been written.
pub struct InboundFrames<S = Payload> {
    input: S,
    /// What has arrived and is not decoded yet.
    chunk: Bytes,
    decoder: FrameDecoder,
    outbox: Rc<Outbox>,
    ended: bool,
}

impl<S> InboundFrames<S> {
    pub(super) fn new(input: S, limits: InboundLimits, outbox: Rc<Outbox>) -> Self {
        Self { input, chunk: Bytes::new(), decoder: FrameDecoder::new(limits), outbox, ended: false }
    }
}

impl<S> Stream for InboundFrames<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    type Item = Result<Inbound, InboundError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        ready!(this.outbox.reading().poll_open(cx));
        let item = ready!(this.poll_decode(cx));
        this.ended = matches!(item, Ok(Inbound::Close(_)) | Err(_));
        if this.chunk.is_empty() || this.ended {
            this.chunk = Bytes::new();
        }
        Poll::Ready(Some(item))
    }
}

impl<S> InboundFrames<S>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    fn poll_decode(&mut self, cx: &mut Context<'_>) -> Poll<Result<Inbound, InboundError>> {
        loop {
            if let Some(inbound) = self.decoder.decode(&mut self.chunk)? {
                return Poll::Ready(Ok(inbound));
            }
            // The chunk is used up: let go of its memory before waiting.
            self.chunk = Bytes::new();
            self.chunk = match ready!(Pin::new(&mut self.input).poll_next(cx)) {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => return Poll::Ready(Err(InboundError::Disconnected(into_io(error)))),
                None => return Poll::Ready(Err(InboundError::Disconnected(io::ErrorKind::UnexpectedEof.into()))),
            };
        }
    }
}

impl<S> Drop for InboundFrames<S> {
    fn drop(&mut self) {
        self.outbox.end();
    }
}

fn into_io(error: PayloadError) -> io::Error {
    match error {
        PayloadError::Io(error) => error,
        PayloadError::Incomplete(cause) => cause.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()),
        other => io::Error::other(other.to_string()),
    }
}

#[cfg(test)]
#[path = "inbound_tests.rs"]
mod tests;
