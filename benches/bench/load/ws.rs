//! A subscriber, over WebSocket or server-sent events, that counts what comes and looks into it only when it is a
//! sample.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use memchr::memmem;
use socket2::{Domain, Socket, Type};

use super::requests::read_stamp;
use super::sse::Blocks;
use super::{Clock, Latencies};

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// How long a server may take to accept a subscriber.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where and how to subscribe.
pub struct Subscription {
    pub wire: Wire,
    pub addr: SocketAddr,
    pub target: String,
    /// Text frames to send after the upgrade; each is answered by one frame that contains `"subscribed"`.
    pub requests: Vec<String>,
}

/// What the server answers with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    WebSocket,
    EventStream,
}

impl Subscription {
    /// Connects and subscribes; returns once the server has confirmed it.
    /// `receive_buffer` bounds how much the kernel takes in for a subscriber that does not read.
    pub fn open(&self, receive_buffer: Option<usize>) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.addr), Type::STREAM, None)?;
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.connect(&self.addr.into())?;
        let mut stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (upgrade, answer): (_, &[u8]) = match self.wire {
            Wire::WebSocket => (UPGRADE, b"HTTP/1.1 101"),
            Wire::EventStream => ("", b"HTTP/1.1 200"),
        };
        write!(stream, "GET {} HTTP/1.1\r\nHost: {}\r\n{upgrade}\r\n", self.target, self.addr)?;
        read_head(&mut stream, answer)?;
        for request in &self.requests {
            stream.write_all(&client_frame(TEXT, request.as_bytes()))?;
            let reply = read_frame(&mut stream)?;
            if memmem::find(&reply, b"subscribed").is_none() {
                return Err(io::Error::other(format!("subscribe refused: {}", String::from_utf8_lossy(&reply))));
            }
        }
        Ok(stream)
    }
}

/// Reads exactly the head of the answer, which must begin with `expected`.
fn read_head(stream: &mut TcpStream, expected: &[u8]) -> io::Result<()> {
    let mut head = Vec::with_capacity(256);
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    match head.starts_with(expected) {
        true => Ok(()),
        false => Err(io::Error::other(format!("not accepted: {}", String::from_utf8_lossy(&head)))),
    }
}

fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut frames = Frames::keeping();
    let mut payload = None;
    while payload.is_none() {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        frames.feed(&byte, |_, bytes| payload = Some(bytes.to_vec()));
    }
    Ok(payload.unwrap_or_default())
}

/// A text frame with a short request.
pub fn request_frame(request: &str) -> Vec<u8> {
    client_frame(TEXT, request.as_bytes())
}

/// A frame as clients must send it: masked, here with a key of zeros. At most 125 bytes of payload.
fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= 125, "longer frames are not needed here");
    let mut frame = vec![FIN | opcode, MASKED | payload.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// Splits a byte stream into frames, however it is cut; keeps payloads only if told to (control frames always).
#[derive(Default)]
pub struct Frames {
    keep: bool,
    header: [u8; 10],
    header_filled: usize,
    /// Payload bytes still to come of the frame whose header is whole.
    left: Option<u64>,
    kept: Vec<u8>,
}

impl Frames {
    /// With all payloads.
    pub fn keeping() -> Self {
        Self { keep: true, ..Self::default() }
    }

    pub fn feed(&mut self, mut input: &[u8], mut each: impl FnMut(u8, &[u8])) {
        loop {
            if let Some(left) = self.left {
                let count = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let opcode = self.header[0] & 0x0F;
                if self.keep || opcode >= CLOSE {
                    self.kept.extend_from_slice(&input[..count]);
                }
                input = &input[count..];
                if left > count as u64 {
                    self.left = Some(left - count as u64);
                    return;
                }
                if self.header[0] & FIN != 0 {
                    each(opcode, &self.kept);
                    self.kept.clear();
                }
                self.left = None;
                self.header_filled = 0;
            }
            while self.left.is_none() {
                let Some((&byte, rest)) = input.split_first() else { return };
                self.header[self.header_filled] = byte;
                self.header_filled += 1;
                input = rest;
                self.left = self.payload_length();
            }
        }
    }

    /// None while the header is incomplete. Servers do not mask.
    fn payload_length(&self) -> Option<u64> {
        let header = &self.header[..self.header_filled];
        match (*header.get(1)? & 0x7F, header.get(2..)?) {
            (126, [high, low]) => Some(u64::from(u16::from_be_bytes([*high, *low]))),
            (127, extended) => Some(u64::from_be_bytes(extended.try_into().ok()?)),
            (126, _) => None,
            (short, _) => Some(u64::from(short)),
        }
    }
}

/// What a sampled subscriber saw since the last reset.
#[derive(Default)]
pub struct Sample {
    pub latencies: Latencies,
    /// One flag for each event number: seen.
    seen: Vec<bool>,
    pub duplicates: u64,
    pub foreign: u64,
    /// A hash of the event numbers in the order they came: equal for all that saw the same order.
    pub order: u64,
}

impl Sample {
    fn take(&mut self, frame: &[u8], clock: Clock) {
        let Some((sent_at, number)) = read_stamp(frame) else {
            self.foreign += 1;
            return;
        };
        self.latencies.record(clock.nanos().saturating_sub(sent_at));
        let index = number as usize;
        if index >= self.seen.len() {
            self.seen.resize(index + 1, false);
        }
        self.duplicates += u64::from(std::mem::replace(&mut self.seen[index], true));
        self.order = self.order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(number + 1);
    }
}

enum Splitter {
    Frames(Frames),
    Blocks(Blocks),
}

/// A subscriber in an epoll loop.
pub struct Subscriber {
    pub stream: mio::net::TcpStream,
    splitter: Splitter,
    /// Events since the last reset.
    pub count: u64,
    /// The code of the server's close frame, or 1006 when the connection just ended.
    pub closed: Option<u16>,
    pub sample: Option<Box<Sample>>,
}

impl Subscriber {
    pub fn new(stream: TcpStream, wire: Wire, sampled: bool) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: mio::net::TcpStream::from_std(stream),
            splitter: match wire {
                Wire::WebSocket => Splitter::Frames(Frames { keep: sampled, ..Frames::default() }),
                Wire::EventStream => Splitter::Blocks(Blocks::default()),
            },
            count: 0,
            closed: None,
            sample: sampled.then(Box::default),
        })
    }

    pub fn reset(&mut self) {
        self.count = 0;
        if let Some(sample) = &mut self.sample {
            **sample = Sample::default();
        }
    }

    /// Reads until the socket is empty; returns how many events came.
    pub fn receive(&mut self, buffer: &mut [u8], clock: Clock) -> io::Result<u64> {
        let before = self.count;
        while self.closed.is_none() {
            let read = match self.stream.read(buffer) {
                Ok(0) => {
                    self.closed = Some(1006);
                    break;
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.closed = Some(1006);
                    break;
                }
            };
            let Self { stream, splitter, count, closed, sample } = self;
            let mut failure = None;
            let mut take = |event: &[u8]| {
                *count += 1;
                if let Some(sample) = sample {
                    sample.take(event, clock);
                }
            };
            let frames = match splitter {
                Splitter::Frames(frames) => frames,
                Splitter::Blocks(blocks) => {
                    blocks.feed(&buffer[..read], take);
                    if read < buffer.len() {
                        break;
                    }
                    continue;
                }
            };
            frames.feed(&buffer[..read], |opcode, payload| match opcode {
                0 | TEXT | BINARY => take(payload),
                PING => failure = stream.write_all(&client_frame(PONG, payload)).err(),
                CLOSE => *closed = Some(payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]))),
                _ => {}
            });
            if let Some(error) = failure {
                return Err(error);
            }
            if read < buffer.len() {
                break; // a short read has emptied the socket
            }
        }
        Ok(self.count - before)
    }
}
