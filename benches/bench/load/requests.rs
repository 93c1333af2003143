//! Requests as bytes, built once; a publish has holes for its time and number, filled in place before each send.

use std::net::SocketAddr;

use memchr::memmem;

const TIME_KEY: &[u8] = b"\"t\":\"";
const TIME_DIGITS: usize = 16;
const NUMBER_KEY: &[u8] = b"\"n\":\"";
const NUMBER_DIGITS: usize = 8;

/// An HTTP/1.1 GET on a kept-alive connection.
pub fn get(addr: SocketAddr, target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: {addr}\r\n\r\n").into_bytes()
}

/// An HTTP/1.1 POST of JSON on a kept-alive connection.
pub fn post(addr: SocketAddr, target: &str, body: &[u8]) -> Vec<u8> {
    with_body("POST", addr, target, body)
}

/// The same as a PUT.
pub fn put(addr: SocketAddr, target: &str, body: &[u8]) -> Vec<u8> {
    with_body("PUT", addr, target, body)
}

fn with_body(method: &str, addr: SocketAddr, target: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "{method} {target} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// A JSON object of `size` bytes (at least 49) with holes for time and number.
pub fn payload(size: usize) -> String {
    let bare = format!(r#"{{"t":"{:0TIME_DIGITS$}","n":"{:0NUMBER_DIGITS$}","pad":""}}"#, 0, 0);
    let pad = "x".repeat(size.saturating_sub(bare.len()));
    bare.replace(r#""pad":"""#, &format!(r#""pad":"{pad}""#))
}

/// A publish request whose payload tells when it was sent and which one it is.
#[derive(Clone)]
pub struct Stamped {
    bytes: Vec<u8>,
    time_at: usize,
    number_at: usize,
}

impl Stamped {
    pub fn new(bytes: Vec<u8>) -> Self {
        let after = |key: &[u8]| memmem::find(&bytes, key).map_or(0, |at| at + key.len());
        let (time_at, number_at) = (after(TIME_KEY), after(NUMBER_KEY));
        assert!(time_at > 0 && number_at > 0, "the request has no holes for time and number");
        Self { bytes, time_at, number_at }
    }

    pub fn fill(&mut self, nanos: u64, number: u64) -> &[u8] {
        write_digits(&mut self.bytes[self.time_at..][..TIME_DIGITS], nanos);
        write_digits(&mut self.bytes[self.number_at..][..NUMBER_DIGITS], number);
        &self.bytes
    }
}

/// Time and number of a received payload; none if it holds no stamp.
pub fn read_stamp(frame: &[u8]) -> Option<(u64, u64)> {
    let digits = |key: &[u8], count: usize| {
        let at = memmem::find(frame, key)? + key.len();
        std::str::from_utf8(frame.get(at..at + count)?).ok()?.parse().ok()
    };
    Some((digits(TIME_KEY, TIME_DIGITS)?, digits(NUMBER_KEY, NUMBER_DIGITS)?))
}

fn write_digits(hole: &mut [u8], mut value: u64) {
    for digit in hole.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}
