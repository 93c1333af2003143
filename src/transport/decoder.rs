//! Frames of subscribers (a client's frames in RFC 6455, sections 5, 7.4 and 8.1), read piece by piece.
//!
//! Nothing is buffered that the peer has not sent, and nothing is accepted on the strength of what it declares:
//! a length over the limit is refused as soon as the header is there.

use std::io;

use bytes::{Buf, Bytes};
use bytestring::ByteString;

use super::frame::{CloseFrame, MAX_CONTROL_PAYLOAD, Opcode};

/// Bounds of what one subscriber can make the server hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboundLimits {
    /// Longest message, in bytes, all fragments together.
    pub max_message: usize,
    /// Most fragments in one message, empty ones included.
    pub max_fragments: u32,
}

impl Default for InboundLimits {
    fn default() -> Self {
        Self { max_message: 64 * 1024, max_fragments: 1024 }
    }
}

/// A whole message, or a control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    Text(ByteString),
    Binary(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    /// The peer closes the connection; nothing follows.
    Close(Option<CloseFrame>),
}

/// Why the input ended before a close frame. Nothing follows.
#[derive(Debug, thiserror::Error)]
pub enum InboundError {
    #[error("message of {declared} bytes exceeds the limit of {limit}")]
    TooBig { declared: u64, limit: usize },
    #[error("message has more than {limit} fragments")]
    TooManyFragments { limit: u32 },
    #[error("{0}")]
    Violation(&'static str),
    #[error("text is not valid utf-8")]
    NotUtf8,
    #[error("connection ended: {0}")]
    Disconnected(io::Error),
}

impl InboundError {
    /// What to tell the peer; `None` when it is gone.
    pub fn close_frame(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::TooBig { .. } => (1009, "message too big"),
            Self::TooManyFragments { .. } => (4008, "policy violation"),
            Self::Violation(what) => (1002, *what),
            Self::NotUtf8 => (1007, "text is not valid utf-8"),
            Self::Disconnected(_) => return None,
        };
        Some(CloseFrame::new(code, reason))
    }
}

/// Reads frames out of a byte stream that arrives in arbitrary pieces; holds only what is incomplete.
#[derive(Debug)]
pub(super) struct FrameDecoder {
    limits: InboundLimits,
    header: PartialHeader,
    frame: Option<Frame>,
    /// The payload of a control frame, which may come between the fragments of a message.
    control: Vec<u8>,
    message: Vec<u8>,
    /// The kind of the message that has begun.
    kind: Option<Opcode>,
    /// How much of the message, if it is a text, is known to be UTF-8.
    checked: usize,
    fragments: u32,
}

/// A frame whose header has been read.
#[derive(Debug, Clone, Copy)]
struct Frame {
    opcode: Opcode,
    last: bool,
    /// Rotated to fit the next payload byte.
    mask: [u8; 4],
    remaining: usize,
}

impl FrameDecoder {
    pub(super) fn new(limits: InboundLimits) -> Self {
        Self {
            limits,
            header: PartialHeader::default(),
            frame: None,
            control: Vec::new(),
            message: Vec::new(),
            kind: None,
            checked: 0,
            fragments: 0,
        }
    }

    /// Reads from the front of `input` up to the end of the next message or control frame;
    /// `None` when all of it was used and more is needed.
    pub(super) fn decode(&mut self, input: &mut Bytes) -> Result<Option<Inbound>, InboundError> {
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.header.read(input)? {
                    Some(header) => self.begin(header)?,
                    None => return Ok(None),
                },
            };
            self.read_payload(&mut frame, input);
            if frame.remaining > 0 {
                self.frame = Some(frame);
                self.check_text()?;
                return Ok(None);
            }
            if let Some(inbound) = self.finish(frame)? {
                return Ok(Some(inbound));
            }
        }
    }

    /// Accepts or refuses a frame on what its header declares.
    fn begin(&mut self, header: Header) -> Result<Frame, InboundError> {
        let Header { opcode, last, length, mask } = header;
        if !opcode.is_control() {
            self.fragments = match (opcode, self.kind) {
                (Opcode::Continuation, None) => return Err(InboundError::Violation("continuation of nothing")),
                (Opcode::Continuation, Some(_)) => self.fragments + 1,
                (_, Some(_)) => return Err(InboundError::Violation("new message within a message")),
                (_, None) => {
                    self.kind = Some(opcode);
                    1
                }
            };
            if self.fragments > self.limits.max_fragments {
                return Err(InboundError::TooManyFragments { limit: self.limits.max_fragments });
            }
            let declared = length.saturating_add(self.message.len() as u64);
            if declared > self.limits.max_message as u64 {
                return Err(InboundError::TooBig { declared, limit: self.limits.max_message });
            }
        }
        Ok(Frame { opcode, last, mask, remaining: length as usize })
    }

    fn read_payload(&mut self, frame: &mut Frame, input: &mut Bytes) {
        let available = frame.remaining.min(input.len());
        let buffer = if frame.opcode.is_control() { &mut self.control } else { &mut self.message };
        let start = buffer.len();
        if start == 0 && available == frame.remaining {
            buffer.reserve_exact(available);
        }
        buffer.extend_from_slice(&input[..available]);
        unmask(&mut buffer[start..], frame.mask);
        input.advance(available);
        frame.mask.rotate_left(available % 4);
        frame.remaining -= available;
    }

    /// Refuses an incomplete text that can no longer become valid UTF-8.
    fn check_text(&mut self) -> Result<(), InboundError> {
        if self.kind != Some(Opcode::Text) {
            return Ok(());
        }
        match std::str::from_utf8(&self.message[self.checked..]) {
            Ok(_) => self.checked = self.message.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(InboundError::NotUtf8),
        }
        Ok(())
    }

    /// The message that a complete frame ends; `None` if the message has further fragments.
    fn finish(&mut self, frame: Frame) -> Result<Option<Inbound>, InboundError> {
        let control = |payload: &mut Vec<u8>| Bytes::from(std::mem::take(payload));
        Ok(Some(match frame.opcode {
            Opcode::Ping => Inbound::Ping(control(&mut self.control)),
            Opcode::Pong => Inbound::Pong(control(&mut self.control)),
            Opcode::Close => Inbound::Close(parse_close(&control(&mut self.control))?),
            Opcode::Continuation | Opcode::Text | Opcode::Binary if !frame.last => {
                self.check_text()?;
                return Ok(None);
            }
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                let payload = Bytes::from(std::mem::take(&mut self.message));
                self.checked = 0;
                match self.kind.take() {
                    Some(Opcode::Text) => {
                        Inbound::Text(ByteString::try_from(payload).map_err(|_| InboundError::NotUtf8)?)
                    }
                    _ => Inbound::Binary(payload),
                }
            }
        }))
    }
}

/// Reads the payload of a close frame.
fn parse_close(payload: &Bytes) -> Result<Option<CloseFrame>, InboundError> {
    match payload[..] {
        [] => Ok(None),
        [_] => Err(InboundError::Violation("close frame with half a code")),
        [high, low, ..] => {
            let code = u16::from_be_bytes([high, low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(InboundError::Violation("close frame with a code that must not be sent"));
            }
            let reason = ByteString::try_from(payload.slice(2..)).map_err(|_| InboundError::NotUtf8)?;
            Ok(Some(CloseFrame { code, reason }))
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Header {
    opcode: Opcode,
    last: bool,
    length: u64,
    mask: [u8; 4],
}

/// As much of a header as has arrived.
#[derive(Debug, Default)]
struct PartialHeader {
    bytes: [u8; 14],
    filled: u8,
}

impl PartialHeader {
    /// Takes header bytes from the front of `input`; `None` when it needs more than there are.
    fn read(&mut self, input: &mut Bytes) -> Result<Option<Header>, InboundError> {
        if !self.fill(input, 2) {
            return Ok(None);
        }
        let [first, second] = [self.bytes[0], self.bytes[1]];
        let opcode = check_start(first, second)?;
        let length_bytes = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let end = 2 + length_bytes + 4;
        if !self.fill(input, end) {
            return Ok(None);
        }
        self.filled = 0;
        let length = match length_bytes {
            0 => u64::from(second & 0x7f),
            _ => self.bytes[2..2 + length_bytes].iter().fold(0, |length, &byte| length << 8 | u64::from(byte)),
        };
        if length > i64::MAX as u64 {
            return Err(InboundError::Violation("length of more than 63 bits"));
        }
        let mask = [self.bytes[end - 4], self.bytes[end - 3], self.bytes[end - 2], self.bytes[end - 1]];
        Ok(Some(Header { opcode, last: first & 0x80 != 0, length, mask }))
    }

    /// Whether the first `wanted` bytes are there now.
    fn fill(&mut self, input: &mut Bytes, wanted: usize) -> bool {
        let filled = usize::from(self.filled);
        let taken = wanted.saturating_sub(filled).min(input.len());
        self.bytes[filled..filled + taken].copy_from_slice(&input[..taken]);
        input.advance(taken);
        self.filled += taken as u8;
        usize::from(self.filled) >= wanted
    }
}

/// Checks what the first two bytes of a frame say.
fn check_start(first: u8, second: u8) -> Result<Opcode, InboundError> {
    if first & 0x70 != 0 {
        return Err(InboundError::Violation("reserved bits are set"));
    }
    let Some(opcode) = Opcode::parse(first & 0x0f) else {
        return Err(InboundError::Violation("reserved opcode"));
    };
    if second & 0x80 == 0 {
        return Err(InboundError::Violation("frame is not masked"));
    }
    if opcode.is_control() && first & 0x80 == 0 {
        return Err(InboundError::Violation("fragmented control frame"));
    }
    if opcode.is_control() && usize::from(second & 0x7f) > MAX_CONTROL_PAYLOAD {
        return Err(InboundError::Violation("control frame too long"));
    }
    Ok(opcode)
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([mask, mask].as_flattened().try_into().expect("invariant: twice four is eight"));
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
