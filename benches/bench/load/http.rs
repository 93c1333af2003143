//! HTTP/1.1 over kept-alive connections: one request in flight on each, as fast as the server answers.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use memchr::memmem;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::{Clock, Cost, Latencies, Meter};
use crate::system::System;

/// How long a server may leave every connection unanswered before a run is given up.
const SILENCE: Duration = Duration::from_secs(20);

/// One kept-alive connection with at most one request in flight.
pub struct Connection {
    stream: TcpStream,
    unsent: Vec<u8>,
    input: Vec<u8>,
    filled: usize,
}

pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

impl Answer<'_> {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Status and the beginning of the body, for a message.
    pub fn excerpt(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body[..self.body.len().min(300)]))
    }
}

impl Connection {
    pub fn open(addr: SocketAddr, poll: &Poll, token: Token) -> io::Result<Self> {
        let stream = std::net::TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, unsent: Vec::new(), input: vec![0; 16 * 1024], filled: 0 })
    }

    pub fn send(&mut self, request: &[u8]) -> io::Result<()> {
        let sent = match self.stream.write(request) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.unsent.extend_from_slice(&request[sent..]);
        Ok(())
    }

    /// Sends what the socket refused before.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what has come; hands over the answer once it is whole.
    pub fn receive(&mut self) -> io::Result<Option<Answer<'_>>> {
        loop {
            if self.filled == self.input.len() {
                self.input.resize(self.input.len() * 4, 0);
            }
            match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.filled += count;
                    if self.filled < self.input.len() {
                        break; // a short read has emptied the socket
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        match Head::parse(&self.input[..self.filled])? {
            Some(head) => {
                let end = std::mem::take(&mut self.filled);
                Ok(Some(Answer { status: head.status, body: &self.input[head.body_at..end] }))
            }
            None => Ok(None),
        }
    }
}

struct Head {
    status: u16,
    body_at: usize,
}

impl Head {
    /// None while the answer is incomplete. A chunked body stays as it came.
    fn parse(input: &[u8]) -> io::Result<Option<Self>> {
        let Some(end) = memmem::find(input, b"\r\n\r\n") else { return Ok(None) };
        let head = std::str::from_utf8(&input[..end]).map_err(io::Error::other)?;
        let malformed = || io::Error::other(format!("not an HTTP/1.1 answer: {head:.80}"));
        let status = head.get(9..12).and_then(|digits| digits.parse().ok()).ok_or_else(malformed)?;
        let body_at = end + 4;
        let body = &input[body_at..];
        for line in head.split("\r\n").skip(1) {
            let Some((name, value)) = line.split_once(':') else { continue };
            if name.eq_ignore_ascii_case("content-length") {
                let length: usize = value.trim().parse().map_err(|_| malformed())?;
                return Ok((body.len() >= length).then_some(Self { status, body_at }));
            }
            if name.eq_ignore_ascii_case("transfer-encoding") {
                return Ok(body.ends_with(b"0\r\n\r\n").then_some(Self { status, body_at }));
            }
        }
        Ok(Some(Self { status, body_at })) // 204 and the like
    }
}

/// What the connections of a closed loop send, and what they take for right.
pub trait Workload {
    fn next(&mut self, connection: usize, nanos: u64) -> &[u8];
    /// Says what is wrong with an answer of status 2xx, if anything is.
    fn check(&mut self, _connection: usize, _body: &[u8]) -> Option<String> {
        None
    }
}

pub struct Limits {
    pub duration: Duration,
    pub requests: u64,
}

pub struct Outcome {
    pub answered: u64,
    pub latencies: Latencies,
    pub cost: Cost,
    pub faults: Vec<String>,
}

/// Keeps one request in flight on each connection until a limit is reached and all are answered.
pub fn closed_loop(
    system: &System,
    clock: Clock,
    connections: usize,
    limits: &Limits,
    workload: &mut impl Workload,
) -> io::Result<Outcome> {
    let mut poll = Poll::new()?;
    let mut pool = (0..connections)
        .map(|index| Ok((Connection::open(system.addr_of(index), &poll, Token(index))?, 0_u64)))
        .collect::<io::Result<Vec<_>>>()?;
    let meter = Meter::start(system)?;
    let (began, mut last_answer) = (Instant::now(), Instant::now());
    let mut latencies = Latencies::default();
    let (mut sent, mut answered, mut failed, mut first_fault) = (0_u64, 0_u64, 0_u64, None);
    for (index, (connection, sent_at)) in pool.iter_mut().enumerate() {
        *sent_at = clock.nanos();
        connection.send(workload.next(index, *sent_at))?;
        sent += 1;
    }
    let mut events = Events::with_capacity(connections.max(16));
    while answered + failed < sent {
        poll.poll(&mut events, Some(SILENCE))?;
        let open = began.elapsed() < limits.duration;
        for event in &events {
            let index = event.token().0;
            let (connection, sent_at) = &mut pool[index];
            connection.flush()?;
            let Some(answer) = connection.receive()? else { continue };
            let now = clock.nanos();
            let fault = match answer.is_success() {
                true => workload.check(index, answer.body),
                false => Some(answer.excerpt()),
            };
            match fault {
                None => {
                    answered += 1;
                    latencies.record(now - *sent_at);
                }
                Some(fault) => {
                    failed += 1;
                    first_fault.get_or_insert(fault);
                }
            }
            if open && sent < limits.requests {
                *sent_at = now;
                connection.send(workload.next(index, now))?;
                sent += 1;
            }
            last_answer = Instant::now();
        }
        if last_answer.elapsed() >= SILENCE {
            break;
        }
    }
    let cost = meter.stop()?;
    let mut faults = Vec::new();
    if let Some(first) = first_fault {
        faults.push(format!("FAILED {failed} of {sent} requests, the first: {first}"));
    }
    if answered + failed < sent {
        faults.push(format!("UNANSWERED {} of {sent} requests", sent - answered - failed));
    }
    Ok(Outcome { answered, latencies, cost, faults })
}
