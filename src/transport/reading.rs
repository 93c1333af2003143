//! Reads from a socket into one buffer a thread, which holds nothing while nobody reads.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::rc::Rc;

use actix_rt::net::TcpStream;
use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::Interest;

/// Most bytes read at once, and in one turn.
pub(super) const READ_BUFFER: usize = 32 * 1024;

thread_local! {
    pub(super) static BUFFER: RefCell<BytesMut> = RefCell::default();
}

/// A connection that its HTTP dispatcher has left.
#[derive(Debug)]
pub(super) struct TakenOver {
    pub stream: Rc<TcpStream>,
    /// What the subscriber sent before that.
    pub early: Bytes,
}

/// Reads and drops the input until the peer closes its side.
pub(super) async fn discard(stream: &TcpStream) {
    while stream.readable().await.is_ok() {
        match read(stream) {
            Ok(chunk) if chunk.is_empty() => return,
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Ok(_) | Err(_) => {}
        }
    }
}

/// The bytes that have arrived, as a part of the thread's buffer, which the caller must drop before the next read;
/// empty at the end.
pub(super) fn read(stream: &TcpStream) -> io::Result<Bytes> {
    let chunk = BUFFER.with_borrow_mut(|buffer| {
        buffer.reserve(READ_BUFFER);
        stream.try_read_buf(&mut buffer.limit(READ_BUFFER))?;
        Ok::<_, io::Error>(buffer.split().freeze())
    })?;
    if (1..READ_BUFFER).contains(&chunk.len()) {
        // A short read has emptied the socket, so the next one waits for readiness instead of failing once.
        let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
    }
    Ok(chunk)
}
