//! Frames as a server writes them: RFC 6455, section 5, never masked, never fragmented.
//!
//! A frame is encoded once, header included, and then shared by every connection that gets it.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

/// Longest payload of a control frame, in bytes.
pub(super) const MAX_CONTROL_PAYLOAD: usize = 125;

/// Longest header of a frame that is not masked, in bytes.
const MAX_HEADER: usize = 10;

const FIN: u8 = 0x80;

/// The meaning of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xa,
}

impl Opcode {
    /// Reads the low four bits of a frame's first byte; `None` for the reserved ones.
    pub(super) fn parse(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    pub(super) fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// Why a connection is closed, in the words of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseFrame {
    pub code: u16,
    /// For people; cut to 123 bytes on the wire.
    pub reason: ByteString,
}

impl CloseFrame {
    pub const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason: ByteString::from_static(reason) }
    }

    /// The frame on the wire.
    pub fn encode(&self) -> Bytes {
        let reason = &self.reason[..self.reason.floor_char_boundary(MAX_CONTROL_PAYLOAD - 2)];
        let mut payload = [0; MAX_CONTROL_PAYLOAD];
        payload[..2].copy_from_slice(&self.code.to_be_bytes());
        payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
        frame(Opcode::Close, &payload[..2 + reason.len()])
    }
}

/// The payload of an encoded frame.
pub fn frame_payload(frame: &Bytes) -> &[u8] {
    let head = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    &frame[head..]
}

/// A text frame with `payload`, which must be UTF-8.
pub fn text_frame(payload: &[u8]) -> Bytes {
    frame(Opcode::Text, payload)
}

/// A binary frame with `payload`.
pub fn binary_frame(payload: &[u8]) -> Bytes {
    frame(Opcode::Binary, payload)
}

/// Appends a text frame with `payload`, which must be UTF-8.
pub fn append_text_frame(to: &mut BytesMut, payload: &[u8]) {
    append_frame(to, Opcode::Text, payload);
}

/// A ping with the first 125 bytes of `payload`.
pub fn ping_frame(payload: &[u8]) -> Bytes {
    frame(Opcode::Ping, control(payload))
}

/// A pong with the first 125 bytes of `payload`.
pub fn pong_frame(payload: &[u8]) -> Bytes {
    frame(Opcode::Pong, control(payload))
}

fn control(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().min(MAX_CONTROL_PAYLOAD)]
}

fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    append_frame(&mut bytes, opcode, payload);
    bytes.freeze()
}

fn append_frame(to: &mut BytesMut, opcode: Opcode, payload: &[u8]) {
    to.reserve(MAX_HEADER + payload.len());
    to.put_u8(FIN | opcode as u8);
    match payload.len() {
        short @ 0..=125 => to.put_u8(short as u8),
        medium @ 126..=0xffff => {
            to.put_u8(126);
            to.put_u16(medium as u16);
        }
        long => {
            to.put_u8(127);
            to.put_u64(long as u64);
        }
    }
    to.put_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455, section 5.7, the examples of a server.
    #[test]
    fn encodes_the_examples_of_the_standard() {
        assert_eq!(text_frame(b"Hello")[..], *b"\x81\x05Hello");
        assert_eq!(ping_frame(b"Hello")[..], *b"\x89\x05Hello");
        assert_eq!(pong_frame(b"Hello")[..], *b"\x8a\x05Hello");
        assert_eq!(binary_frame(&[7; 256])[..4], *b"\x82\x7e\x01\x00");
        assert_eq!(binary_frame(&[7; 65_536])[..10], *b"\x82\x7f\0\0\0\0\0\x01\0\0");
    }

    #[test]
    fn lengths_take_the_shortest_form() {
        for (len, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let frame = text_frame(&vec![b'x'; len]);
            assert_eq!((frame.len(), frame_payload(&frame).len()), (header + len, len));
        }
    }

    #[test]
    fn frames_are_appended_to_a_batch() {
        let mut batch = BytesMut::new();
        append_text_frame(&mut batch, b"a");
        append_text_frame(&mut batch, b"b");
        assert_eq!(batch[..], *b"\x81\x01a\x81\x01b");
    }

    #[test]
    fn control_frames_never_grow_too_long() {
        assert_eq!(ping_frame(&[b'x'; 200]).len(), 2 + 125);
        let close = CloseFrame { code: 4101, reason: "ä".repeat(100).into() }.encode();
        assert_eq!(close[..4], *b"\x88\x7c\x10\x05");
        assert_eq!(std::str::from_utf8(&close[4..]), Ok("ä".repeat(61).as_str()));
    }
}
