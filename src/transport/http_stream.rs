//! The connection as the HTTP library has it: requests are mended before it reads them, and where it refuses one
//! without a word, the answer gets some.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_rt::net::TcpStream;
use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::heads::{Heads, Seen};

/// What stands in for an answer of the library to a request that it could not read: a whole response. It gets the
/// status, and whose connection it is.
pub type Refuse = fn(u16, Option<SocketAddr>) -> Bytes;

/// Bytes read at a time while a head is not whole.
const PIECE: usize = 4096;
/// Longest answer that the library makes by itself, in bytes.
const MAX_REFUSAL: usize = 512;

/// See the module.
#[derive(Debug)]
pub struct HttpStream {
    io: TcpStream,
    heads: Heads,
    /// The beginning of a head that is not whole.
    kept: BytesMut,
    /// To be read by the library.
    mended: Bytes,
    /// To be written before anything else.
    refusal: Bytes,
    refuse: Refuse,
}

impl HttpStream {
    pub fn new(io: TcpStream, refuse: Refuse) -> Self {
        Self { io, heads: Heads::default(), kept: BytesMut::new(), mended: Bytes::new(), refusal: Bytes::new(), refuse }
    }

    pub fn socket(&self) -> &TcpStream {
        &self.io
    }

    /// Reads on for a head that is not whole.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut piece = [MaybeUninit::uninit(); PIECE];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece))?;
        if piece.filled().is_empty() {
            self.heads.end();
        }
        self.kept.extend_from_slice(piece.filled());
        let mut seen = self.kept.split();
        match self.heads.see(&seen) {
            Seen::AsTheyAre => self.mended = seen.freeze(),
            Seen::Changed(mended, left) => {
                self.mended = mended.into();
                seen.advance(seen.len() - left);
                self.kept = seen;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.refusal.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.refusal))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.refusal.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.mended.is_empty() {
                let width = this.mended.len().min(buf.remaining());
                buf.put_slice(&this.mended.split_to(width));
                return Poll::Ready(Ok(()));
            }
            if !this.kept.is_empty() {
                ready!(this.poll_more(cx))?;
                continue;
            }
            let start = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let read = &buf.filled()[start..];
            if read.is_empty() || this.heads.is_lost() {
                return Poll::Ready(Ok(()));
            }
            let Seen::Changed(mended, left) = this.heads.see(read) else { return Poll::Ready(Ok(())) };
            this.kept.extend_from_slice(&read[read.len() - left..]);
            this.mended = mended.into();
            buf.set_filled(start);
        }
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_refusal(cx))?;
        let Some((start, status)) = refusal(buf) else { return Pin::new(&mut this.io).poll_write(cx, buf) };
        if start > 0 {
            return Pin::new(&mut this.io).poll_write(cx, &buf[..start]);
        }
        this.refusal = (this.refuse)(status, this.io.peer_addr().ok());
        match this.poll_refusal(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What is left is written at the next flush.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(buf.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_refusal(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_refusal(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

/// Where in `bytes` an answer of the library's own begins, and its status. It is the last one of a connection, has no
/// body, and lacks the header that all other answers have. (No body has its status line: JSON has no line ends within
/// texts, nor anything like it outside of them.)
fn refusal(bytes: &[u8]) -> Option<(usize, u16)> {
    const LINES: [(&[u8], u16); 3] = [
        (b" 400 Bad Request\r\n", 400),
        (b" 408 Request Timeout\r\n", 408),
        (b" 431 Request Header Fields Too Large\r\n", 431),
    ];
    const VERSION: usize = "HTTP/1.1".len();
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let last = bytes.len().saturating_sub(MAX_REFUSAL);
    let start = last + memmem::rfind(&bytes[last..], b"HTTP/1.")?;
    let answer = &bytes[start..];
    let (_, status) = LINES.into_iter().find(|(line, _)| answer.get(VERSION..).is_some_and(|a| a.starts_with(line)))?;
    let is_own = memmem::find(answer, b"\r\n\r\n") == Some(answer.len() - 4)
        && memmem::find(answer, b"content-length: 0\r\n").is_some()
        && memmem::find(answer, b"x-request-id").is_none();
    is_own.then_some((start, status))
}

#[cfg(test)]
mod tests {
    use super::refusal;

    #[test]
    fn refusals_of_the_library_are_known() {
        let own = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\ndate: Thu\r\n\r\n";
        assert_eq!(refusal(own.as_bytes()), Some((0, 400)));
        let before = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-request-id: 1\r\n\r\n{}";
        assert_eq!(refusal(format!("{before}{own}").as_bytes()), Some((before.len(), 400)));
        for other in [
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nx-request-id: 1\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 7\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "{\"HTTP/1.1 400 Bad Request\\r\\n\":0}\r\n\r\n",
            "",
        ] {
            assert_eq!(refusal(other.as_bytes()), None, "{other}");
        }
    }
}
