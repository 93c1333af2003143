//! Connections that keep no rules: raw bytes, before and after the WebSocket handshake.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::PATIENCE;

/// How long a write may be held back before it is given up.
const HELD_BACK: Duration = Duration::from_millis(700);

/// Opcodes of RFC 6455.
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
/// The last fragment.
pub const FIN: u8 = 0x80;

/// A connection that sends what it is told.
pub struct Raw(TcpStream);

impl Raw {
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("a listening server");
        stream.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
        stream.set_write_timeout(Some(HELD_BACK)).expect("a valid timeout");
        Self(stream)
    }

    /// A connection that has been switched to WebSocket.
    pub fn websocket(addr: SocketAddr) -> Self {
        let mut raw = Self::connect(addr);
        let handshake = format!(
            "GET /ws HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        raw.send(handshake.as_bytes()).expect("an open connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(raw.byte().expect("an answer"));
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        raw
    }

    /// Sends all of `bytes`; fails when the peer holds it back for long, or is gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Sends `chunk` until `total` bytes were sent, or the peer holds it back, or is gone; returns what was sent.
    pub fn flood(&mut self, chunk: &[u8], total: usize) -> usize {
        let mut sent = 0;
        while sent < total && self.send(chunk).is_ok() {
            sent += chunk.len();
        }
        sent
    }

    /// The next WebSocket frame of the server: opcode and payload.
    pub fn frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let opcode = self.byte()? & 0x0f;
        let length = match self.byte()? {
            126 => u64::from(u16::from_be_bytes(self.array()?)),
            127 => u64::from_be_bytes(self.array()?),
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).expect("a frame that fits into memory")];
        self.0.read_exact(&mut payload)?;
        Ok((opcode, payload))
    }

    /// The code of the close frame that comes; other frames before are skipped.
    pub fn close_code(&mut self) -> io::Result<u16> {
        loop {
            if let (CLOSE, payload) = self.frame()? {
                return Ok(u16::from_be_bytes([payload[0], payload[1]]));
            }
        }
    }

    /// Says that nothing more will be sent.
    pub fn end_input(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }

    /// Everything up to the end of the connection, however it ends.
    ///
    /// # Panics
    /// When it does not end.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Err(error) = self.0.read_to_end(&mut bytes) {
            assert!(!super::load::is_timeout(&error), "the connection does not end, after {} bytes", bytes.len());
        }
        bytes
    }

    fn byte(&mut self) -> io::Result<u8> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).map(|()| bytes)
    }
}

/// A frame as a client sends it; `first` is the opcode, with [`FIN`] or without. The mask is zero.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame_head(first, payload.len() as u64);
    frame.extend_from_slice(payload);
    frame
}

/// The head of a frame that declares `length` bytes.
pub fn frame_head(first: u8, length: u64) -> Vec<u8> {
    const MASKED: u8 = 0x80;
    let mut head = vec![first];
    match length {
        0..126 => head.push(MASKED | length as u8),
        126..0x1_0000 => {
            head.push(MASKED | 126);
            head.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            head.push(MASKED | 127);
            head.extend_from_slice(&length.to_be_bytes());
        }
    }
    head.extend_from_slice(&[0; 4]);
    head
}
