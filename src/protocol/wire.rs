//! How what a subscriber gets is put on its connection.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr2;

use crate::transport::{append_text_frame, frame_payload};

/// Most bytes of events in one frame of [`Wire::Lines`], beyond the first event: subscribers limit the length of a
/// message.
const MAX_LINES: usize = 64 * 1024;

/// The encoding of a connection, agreed on when it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// A text frame for each event.
    WebSocket,
    /// WebSocket with several events, one a line, in a text frame.
    Lines,
    /// Server-sent events over HTTP.
    Sse,
}

impl Wire {
    pub const COUNT: usize = 3;

    /// The kind of subscriber, as operators see it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::WebSocket | Self::Lines => "websocket",
            Self::Sse => "sse",
        }
    }
}

/// Encoded events that are pushed together.
#[derive(Debug)]
pub struct Bundle {
    wire: Wire,
    bytes: BytesMut,
    /// Events of a frame that is not complete; only with [`Wire::Lines`].
    lines: BytesMut,
}

impl Bundle {
    pub fn new(wire: Wire) -> Self {
        Self { wire, bytes: BytesMut::new(), lines: BytesMut::new() }
    }

    /// Adds an event, encoded by itself for this wire.
    pub fn add(&mut self, frame: &Bytes) {
        match self.wire {
            Wire::WebSocket | Wire::Sse => self.bytes.extend_from_slice(frame),
            Wire::Lines => {
                let event = frame_payload(frame);
                if !self.lines.is_empty() && self.lines.len() + event.len() > MAX_LINES {
                    self.end_frame();
                }
                if !self.lines.is_empty() {
                    self.lines.put_u8(b'\n');
                }
                let start = self.lines.len();
                self.lines.extend_from_slice(event);
                flatten(&mut self.lines[start..]);
            }
        }
    }

    /// Bytes so far, but for the head of a frame.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.lines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is to be pushed.
    pub fn finish(mut self) -> Bytes {
        self.end_frame();
        self.bytes.freeze()
    }

    /// All of `frames`; one alone is shared, not copied, if it is right as it is.
    pub fn of<'a>(wire: Wire, mut frames: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
        let all = frames.clone();
        match (frames.next(), frames.next()) {
            (None, _) => Bytes::new(),
            (Some(one), None) if wire != Wire::Lines || is_flat(one) => one.clone(),
            (Some(_), _) => {
                let mut bundle = Self::new(wire);
                bundle.bytes.reserve(all.clone().map(Bytes::len).sum());
                all.for_each(|frame| bundle.add(frame));
                bundle.finish()
            }
        }
    }

    fn end_frame(&mut self) {
        if !self.lines.is_empty() {
            append_text_frame(&mut self.bytes, &self.lines);
            self.lines.clear();
        }
    }
}

/// Whether the event in a frame is one line.
fn is_flat(frame: &Bytes) -> bool {
    memchr2(b'\n', b'\r', frame_payload(frame)).is_none()
}

/// Makes one line of JSON text, in which the end of a line is white space.
pub fn flatten(text: &mut [u8]) {
    let mut rest = text;
    while let Some(end) = memchr2(b'\n', b'\r', rest) {
        rest[end] = b' ';
        rest = &mut rest[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::text_frame;

    #[test]
    fn events_share_a_frame_only_where_that_was_agreed_on() {
        let frames = [text_frame(b"1"), text_frame(b"22")];
        assert_eq!(
            Bundle::of(Wire::WebSocket, frames.iter()),
            "\u{81}\u{1}1\u{81}\u{2}22".chars().map(|c| c as u8).collect::<Vec<_>>()
        );
        assert_eq!(Bundle::of(Wire::Lines, frames.iter()), text_frame(b"1\n22"));
        assert_eq!(Bundle::of(Wire::Lines, frames[..1].iter()), frames[0]);
        assert_eq!(Bundle::of(Wire::Lines, [].iter()), "");
        let of_lines = [text_frame(b"[1,\r\n2]")];
        assert_eq!(Bundle::of(Wire::WebSocket, of_lines.iter()), of_lines[0]);
        assert_eq!(Bundle::of(Wire::Lines, of_lines.iter()), text_frame(b"[1,  2]"));
    }

    #[test]
    fn a_shared_frame_is_bounded() {
        let text = vec![b'x'; MAX_LINES - 10];
        let frames = [text_frame(&text), text_frame(b"123456789"), text_frame(b"0")];
        let bundle = Bundle::of(Wire::Lines, frames.iter());
        let first = [&text[..], b"\n123456789"].concat();
        assert_eq!(bundle, [text_frame(&first), text_frame(b"0")].concat());
    }
}
