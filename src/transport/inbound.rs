//! The requests of one connection, read no faster than they are handled.
//!
//! What has arrived is decoded before more is read, so that a flood of tiny frames is held back by the
//! peer's own socket. An idle connection holds no buffer: there is one a thread.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_rt::net::TcpStream;
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::Stream;
use tokio::sync::oneshot;

use super::decoder::{FrameDecoder, Inbound, InboundError, InboundLimits};
use super::reading::{READ_BUFFER, TakenOver, read};
use super::send_queue::SendQueue;

/// The messages and control frames of a connection. Ends after [`Inbound::Close`] or the first error.
///
/// Dropping it ends the connection, once what is queued in the send queue has been written.
pub struct InboundFrames {
    source: Source,
    /// What was read and is not decoded yet.
    chunk: Bytes,
    /// The chunk is a part of the thread's buffer.
    borrowed: bool,
    /// The last read filled the buffer, so other tasks run before the next.
    greedy: bool,
    decoder: FrameDecoder,
    send_queue: Rc<SendQueue>,
    /// What is left of a text message whose lines are messages of their own; `None` if messages are taken whole.
    lines: Option<ByteString>,
    ended: bool,
}

enum Source {
    Awaited(oneshot::Receiver<TakenOver>),
    Open(Rc<TcpStream>),
}

impl InboundFrames {
    pub(super) fn new(source: oneshot::Receiver<TakenOver>, limits: InboundLimits, send_queue: Rc<SendQueue>) -> Self {
        Self {
            source: Source::Awaited(source),
            chunk: Bytes::new(),
            borrowed: false,
            greedy: false,
            decoder: FrameDecoder::new(limits),
            send_queue,
            lines: None,
            ended: false,
        }
    }

    /// From now on, each line of a text message is a message of its own; empty lines are skipped.
    pub fn split_lines(&mut self) {
        self.lines = Some(ByteString::new());
    }

    fn next_line(&mut self) -> Option<ByteString> {
        let rest = self.lines.as_mut()?;
        while !rest.is_empty() {
            let (line, after) = rest.split_once('\n').unwrap_or((&**rest, ""));
            let (line, after) = (rest.slice_ref(line.trim_end_matches('\r')), rest.slice_ref(after));
            *rest = after;
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
        None
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Inbound, InboundError>> {
        loop {
            if let Some(line) = self.next_line() {
                return Poll::Ready(Ok(Inbound::Text(line)));
            }
            match (ready!(self.poll_decode(cx))?, &mut self.lines) {
                (Inbound::Text(text), Some(lines)) => *lines = text,
                (other, _) => return Poll::Ready(Ok(other)),
            }
        }
    }

    fn poll_decode(&mut self, cx: &mut Context<'_>) -> Poll<Result<Inbound, InboundError>> {
        loop {
            if let Some(inbound) = self.decoder.decode(&mut self.chunk)? {
                return Poll::Ready(Ok(inbound));
            }
            // The chunk is used up: the buffer is free again.
            self.chunk = Bytes::new();
            self.chunk = ready!(self.poll_read(cx)).map_err(InboundError::Disconnected)?;
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if std::mem::take(&mut self.greedy) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let stream = match &mut self.source {
            Source::Open(stream) => stream,
            Source::Awaited(taken_over) => {
                let TakenOver { stream, early } =
                    ready!(Pin::new(taken_over).poll(cx)).map_err(|_| ErrorKind::ConnectionAborted)?;
                self.source = Source::Open(stream);
                self.borrowed = false;
                return Poll::Ready(Ok(early));
            }
        };
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match read(stream) {
                Ok(chunk) if chunk.is_empty() => return Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
                Ok(chunk) => {
                    self.borrowed = true;
                    self.greedy = chunk.len() == READ_BUFFER;
                    return Poll::Ready(Ok(chunk));
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Copies what is left of the thread's buffer, which the next connection uses.
    fn keep_rest(&mut self) {
        if self.chunk.is_empty() || self.ended {
            self.chunk = Bytes::new();
        } else if std::mem::take(&mut self.borrowed) {
            self.chunk = Bytes::copy_from_slice(&self.chunk);
        }
    }
}

impl Stream for InboundFrames {
    type Item = Result<Inbound, InboundError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        ready!(this.send_queue.reading().poll_open(cx));
        let item = if this.send_queue.reading().has_ended() {
            Err(InboundError::Disconnected(ErrorKind::ConnectionAborted.into()))
        } else {
            ready!(this.poll_message(cx))
        };
        this.ended = matches!(item, Ok(Inbound::Close(_)) | Err(_));
        this.keep_rest();
        Poll::Ready(Some(item))
    }
}

impl Drop for InboundFrames {
    fn drop(&mut self) {
        self.send_queue.end();
    }
}

#[cfg(test)]
#[path = "inbound_tests.rs"]
mod tests;
