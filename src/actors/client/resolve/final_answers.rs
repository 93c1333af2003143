//! A connection on which interim answers are not seen: the HTTP client would take the first answer for the last one,
//! and the last one for that of the next request.

use std::fmt;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_rt::net::{ActixStream, Ready};
use bytes::{Buf, BytesMut};
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How every interim answer begins (RFC 9110, section 15.2).
const INTERIM: &[u8] = b"HTTP/1.1 1";
/// The one after which something else than HTTP follows. Nothing here asks for it, so it is the last answer, and wrong.
const SWITCHING: &[u8] = b"HTTP/1.1 101";
/// Longest head of an interim answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// TCP, or TLS over it.
pub(in super::super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// `io` without the interim answers that come between a request and its final answer.
pub(in super::super) struct FinalAnswers {
    io: Box<dyn Stream>,
    /// What has come and is not read yet. While `is_at_head`, the front of an answer that may be interim.
    held: BytesMut,
    /// A request was written, and its final answer has not begun.
    is_at_head: bool,
}

impl FinalAnswers {
    pub fn new(io: impl Stream + 'static) -> Self {
        Self { io: Box::new(io), held: BytesMut::new(), is_at_head: false }
    }

    fn wrote(&mut self) {
        if !self.is_at_head {
            (self.held, self.is_at_head) = (BytesMut::new(), true);
        }
    }
}

/// Takes interim answers off the front; whether what is left is known to be the final one.
fn is_final(held: &mut BytesMut) -> Result<bool> {
    let begins =
        |held: &BytesMut, with: &[u8]| held[..held.len().min(with.len())] == with[..held.len().min(with.len())];
    while begins(held, INTERIM) {
        if held.len() < SWITCHING.len() {
            return Ok(false);
        }
        if begins(held, SWITCHING) {
            return Ok(true);
        }
        match memmem::find(held, b"\r\n\r\n") {
            Some(end) => held.advance(end + 4),
            None if held.len() > MAX_HEAD => {
                return Err(Error::new(ErrorKind::InvalidData, "an endless interim answer"));
            }
            None => return Ok(false),
        }
    }
    Ok(true)
}

impl AsyncRead for FinalAnswers {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        while this.is_at_head {
            let mut space = [MaybeUninit::uninit(); 4096];
            let mut chunk = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut chunk))?;
            this.held.extend_from_slice(chunk.filled());
            this.is_at_head = !chunk.filled().is_empty() && !is_final(&mut this.held)?;
        }
        if this.held.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
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

/// Always worth a try: the HTTP client reads and writes without asking first.
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
