//! Finds the heads of requests in the bytes that a connection receives, and corrects them before the HTTP library reads
//! them.
//!
//! - HD-1 Nothing is changed but in a head whose beginning and end are certain: everything that is not in the plain
//!   form of HTTP/1.1, or could be read in two ways, is passed on as it is from there on, to be judged by the library.
//! - HD-2 What is changed moves no boundary: characters within the target are percent-encoded, and a request without a
//!   body says so.

use memchr::memmem;

/// Longest head that is looked at, in bytes; the library refuses a longer one.
const MAX_HEAD: usize = 128 * 1024;
const CRLF: &[u8] = b"\r\n";

/// The state of this search on one connection.
#[derive(Debug)]
pub struct Heads(State);

impl Default for Heads {
    fn default() -> Self {
        Self(State::Head(0))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A head begins here; its first so many bytes do not have its end.
    Head(usize),
    /// So many bytes of a body are still to come.
    Body(u64),
    Chunks(Chunk),
    /// It is no longer known where requests begin, so nothing more is changed.
    Lost,
}

/// The next byte of a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// A digit of a size, of which so many have come, or the end of its line.
    Size(u64, u8),
    SizeEnd(u64),
    /// So many bytes of the chunk are to come, with the end of its line.
    Data(u64),
    LastEnd(u8),
}

/// What to do with the bytes that have come.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// They are passed on unchanged.
    AsTheyAre,
    /// These bytes replace them. The last so many that came are kept back, to be looked at again with more.
    Changed(Vec<u8>, usize),
}

impl Heads {
    /// Whether nothing will be changed any more.
    pub fn is_lost(&self) -> bool {
        self.0 == State::Lost
    }

    /// Looks at the next bytes of the connection. A head that is not whole is kept back.
    pub fn see(&mut self, bytes: &[u8]) -> Seen {
        let mut changed: Option<Vec<u8>> = None;
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let width = match self.0 {
                State::Lost => rest.len(),
                State::Body(left) => {
                    let width = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    self.0 = following(left - width as u64);
                    width
                }
                State::Chunks(chunk) => {
                    let (next, width) = chunk.after(rest);
                    self.0 = next;
                    width
                }
                State::Head(searched) => match end_of_head(rest, searched) {
                    None if rest.len() < MAX_HEAD && may_become_plain(rest, searched) => {
                        self.0 = State::Head(rest.len());
                        let before = changed.unwrap_or_else(|| bytes[..at].to_vec());
                        return Seen::Changed(before, rest.len());
                    }
                    None => {
                        self.0 = State::Lost;
                        0
                    }
                    Some(width) => {
                        let head = Head::read(&rest[..width]);
                        self.0 = head.as_ref().map_or(State::Lost, |head| head.then);
                        if let Some(mended) = head.and_then(|head| head.mended(&rest[..width])) {
                            changed.get_or_insert_with(|| bytes[..at].to_vec()).extend_from_slice(&mended);
                            at += width;
                            continue;
                        }
                        width
                    }
                },
            };
            if let Some(changed) = &mut changed {
                changed.extend_from_slice(&rest[..width]);
            }
            at += width;
        }
        changed.map_or(Seen::AsTheyAre, |changed| Seen::Changed(changed, 0))
    }

    /// The input has ended: what was kept back is passed on.
    pub fn end(&mut self) {
        self.0 = State::Lost;
    }
}

fn following(left: u64) -> State {
    if left == 0 { State::Head(0) } else { State::Body(left) }
}

/// The length of the head at the beginning of `bytes`, which does not end within the first `searched` of them.
fn end_of_head(bytes: &[u8], searched: usize) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    let from = searched.saturating_sub(END.len() - 1);
    memmem::find(&bytes[from..], END).map(|at| from + at + END.len())
}

/// Whether more bytes can make `begun` a head in plain form. What cannot become one is not kept back: the library may
/// see an end in it. Its first `searched` bytes were looked at before.
fn may_become_plain(begun: &[u8], searched: usize) -> bool {
    let from = searched.saturating_sub(1);
    let mut ends = memchr::memchr_iter(b'\n', &begun[from..]).map(|at| from + at);
    begun[0].is_ascii_uppercase() && ends.all(|end| end > 0 && begun[end - 1] == b'\r')
}

impl Chunk {
    /// The state after some of `rest`, and after how many bytes of it.
    fn after(self, rest: &[u8]) -> (State, usize) {
        const MOST_DIGITS: u8 = 15;
        let next = match (self, rest[0]) {
            (Self::Size(size, digits), byte) => match char::from(byte).to_digit(16) {
                Some(digit) if digits < MOST_DIGITS => Self::Size(size * 16 + u64::from(digit), digits + 1),
                None if byte == b'\r' && digits > 0 => Self::SizeEnd(size),
                _ => return (State::Lost, 0),
            },
            (Self::SizeEnd(0), b'\n') => Self::LastEnd(b'\r'),
            (Self::SizeEnd(size), b'\n') => Self::Data(size + CRLF.len() as u64),
            (Self::Data(left), _) if left > CRLF.len() as u64 => {
                let data = left - CRLF.len() as u64;
                let width = usize::try_from(data).unwrap_or(usize::MAX).min(rest.len());
                return (State::Chunks(Self::Data(left - width as u64)), width);
            }
            (Self::Data(2), b'\r') => Self::Data(1),
            (Self::Data(1), b'\n') => Self::Size(0, 0),
            (Self::LastEnd(b'\r'), b'\r') => Self::LastEnd(b'\n'),
            (Self::LastEnd(b'\n'), b'\n') => return (State::Head(0), 1),
            _ => return (State::Lost, 0),
        };
        (State::Chunks(next), 1)
    }
}

/// A head in plain form.
struct Head<'a> {
    target: &'a [u8],
    /// The library refuses a `POST` by HTTP/1.0 that says nothing of a body, as proxies send it that has none.
    needs_length: bool,
    /// What follows it.
    then: State,
}

impl<'a> Head<'a> {
    /// Reads a head with its empty line; none if there is any doubt about it.
    fn read(head: &'a [u8]) -> Option<Self> {
        let mut lines = head[..head.len() - CRLF.len()].split_inclusive(|byte| *byte == b'\n');
        let mut line = || lines.next().map(|line| line.strip_suffix(CRLF));
        let mut words = line()??.split(|byte| *byte == b' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let is_old = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return None,
        };
        if words.next().is_some() || !method.first().is_some_and(u8::is_ascii_uppercase) || target.is_empty() {
            return None;
        }
        let (mut length, mut is_chunked, mut is_upgrade) = (None, false, method == b"CONNECT");
        while let Some(line) = line() {
            let line = line?;
            let colon = memchr::memchr(b':', line)?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
            match name.len() {
                14 if is(b"content-length") => {
                    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                    let number = std::str::from_utf8(value).ok().filter(|_| is_number && length.is_none())?;
                    length = Some(number.parse::<u64>().ok()?);
                }
                17 if is(b"transfer-encoding") => {
                    if is_old || is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return None;
                    }
                    is_chunked = true;
                }
                7 if is(b"upgrade") => is_upgrade |= value.eq_ignore_ascii_case(b"websocket"),
                0 => return None,
                _ if name[0].is_ascii_whitespace() => return None,
                _ => {}
            }
        }
        let then = match (length, is_chunked) {
            (Some(_), true) => return None,
            _ if is_upgrade => State::Lost,
            (_, true) => State::Chunks(Chunk::Size(0, 0)),
            (length, false) => following(length.unwrap_or(0)),
        };
        let needs_length = is_old && method == b"POST" && length.is_none() && !is_upgrade;
        Some(Self { target, needs_length, then })
    }

    /// The corrected head, if the library would refuse it as it is.
    fn mended(&self, head: &[u8]) -> Option<Vec<u8>> {
        // Characters that a URI must not have, but that are sent nevertheless.
        let is_escaped = |byte: &u8| matches!(byte, b'<' | b'>' | b'`' | b'"') || !byte.is_ascii();
        if !self.needs_length && !self.target.iter().any(is_escaped) {
            return None;
        }
        let start = memchr::memchr(b' ', head)? + 1;
        let (before, after) = (&head[..start], &head[start + self.target.len()..head.len() - CRLF.len()]);
        let mut mended = Vec::with_capacity(head.len() + 64);
        mended.extend_from_slice(before);
        for byte in self.target {
            match is_escaped(byte) {
                true => mended.extend_from_slice(format!("%{byte:02X}").as_bytes()),
                false => mended.push(*byte),
            }
        }
        mended.extend_from_slice(after);
        if self.needs_length {
            mended.extend_from_slice(b"Content-Length: 0\r\n");
        }
        mended.extend_from_slice(CRLF);
        Some(mended)
    }
}

#[cfg(test)]
#[path = "heads_tests.rs"]
mod tests;
