//! A connection on which only final answers appear, with plain heads. The HTTP client would take an interim answer for
//! the final one, and the final one for the answer to the next request. It also reads heads less leniently than other
//! clients do.

use std::fmt;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_rt::net::{ActixStream, Ready};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{HAS_ENDED, head};

/// How every answer begins.
const HTTP: &[u8] = b"HTTP/1.";
/// How every interim answer begins (RFC 9110, section 15.2).
const INTERIM: &[u8] = b"HTTP/1.1 1";
/// The interim answer after which another protocol follows. Nothing here asks for one, so it counts as the final
/// answer, and is an error.
const SWITCHING: &[u8] = b"HTTP/1.1 101";
/// Longest head of an answer, in bytes.
const MAX_HEAD: usize = 128 * 1024;

/// TCP, or TLS over it.
pub(in super::super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// `io` without the interim answers between a request and its final answer, and with a plain head of the final answer.
pub(in super::super) struct FinalAnswers {
    io: Box<dyn Stream>,
    /// Bytes that have arrived and were not read yet. While `is_at_head`, they begin with the head of an answer.
    held: BytesMut,
    /// A request was written, and its final answer has not begun.
    is_at_head: bool,
    /// The first bytes of `held` that were searched for the end of a head, without a result.
    seen: usize,
}

impl FinalAnswers {
    pub fn new(io: impl Stream + 'static) -> Self {
        Self { io: Box::new(io), held: BytesMut::new(), is_at_head: false, seen: 0 }
    }

    fn wrote(&mut self) {
        if !self.is_at_head {
            (self.held, self.is_at_head, self.seen) = (BytesMut::new(), true, 0);
        }
    }
}

/// Removes interim answers from the front, and rewrites the head of the final answer. Returns whether the final answer
/// was found. The bytes before `seen` were searched before, without a result.
fn is_final(held: &mut BytesMut, seen: &mut usize) -> Result<bool> {
    let begins =
        |held: &BytesMut, with: &[u8]| held[..held.len().min(with.len())] == with[..held.len().min(with.len())];
    loop {
        if !begins(held, HTTP) {
            // These bytes are no answer; the HTTP client reports that.
            return Ok(true);
        }
        let Some(end) = head::end(held, *seen) else {
            // The end of a head has four bytes, so three of them may have arrived.
            *seen = held.len().saturating_sub(3);
            return if held.len() > MAX_HEAD {
                Err(Error::new(ErrorKind::InvalidData, "an endless head"))
            } else {
                Ok(false)
            };
        };
        *seen = 0;
        if begins(held, INTERIM) && !begins(held, SWITCHING) {
            held.advance(end);
            continue;
        }
        let body = held.split_off(end);
        *held = BytesMut::from(&head::plain(held)?[..]);
        held.unsplit(body);
        return Ok(true);
    }
}

impl AsyncRead for FinalAnswers {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        while this.is_at_head {
            let mut space = [MaybeUninit::uninit(); 4096];
            let mut chunk = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut chunk))?;
            this.held.extend_from_slice(chunk.filled());
            this.is_at_head = !chunk.filled().is_empty() && !is_final(&mut this.held, &mut this.seen)?;
        }
        if this.held.is_empty() {
            let before = buf.remaining();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            if before == buf.remaining() {
                // Nobody asks but who reads a body to its end.
                let _ = HAS_ENDED.try_with(|has_ended| has_ended.set(true));
            }
            return Poll::Ready(Ok(()));
        }
        let count = this.held.len().min(buf.remaining());
        buf.put_slice(&this.held.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FinalAnswers {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.wrote();
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.wrote();
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Always ready: the HTTP client reads and writes without asking first.
impl ActixStream for FinalAnswers {
    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<Result<Ready>> {
        Poll::Ready(Ok(Ready::READABLE))
    }

    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<Result<Ready>> {
        Poll::Ready(Ok(Ready::WRITABLE))
    }
}

impl fmt::Debug for FinalAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinalAnswers").field("held", &self.held.len()).finish_non_exhaustive()
    }
}
