//! A downstream service: takes requests as fast as they come, and answers all of them alike.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use memchr::memmem;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

const ACCEPT: Token = Token(usize::MAX);
const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const REFUSED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

/// Runs on a thread of its own until it is dropped.
pub struct Sink {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Default)]
struct Shared {
    taken: AtomicU64,
    is_down: AtomicBool,
    is_over: AtomicBool,
}

impl Sink {
    pub fn start() -> io::Result<Self> {
        let mut listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, ACCEPT, Interest::READABLE)?;
        let thread = std::thread::spawn(move || serve(poll, &listener, &of_thread));
        Ok(Self { addr, shared, thread: Some(thread) })
    }

    /// Requests answered with 200.
    pub fn taken(&self) -> u64 {
        self.shared.taken.load(Ordering::Relaxed)
    }

    /// From now on answers 503, or 200 again.
    pub fn set_down(&self, is_down: bool) {
        self.shared.is_down.store(is_down, Ordering::Relaxed);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("a service ended: {error}");
        }
    }
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

fn serve(mut poll: Poll, listener: &TcpListener, shared: &Shared) -> io::Result<()> {
    let mut connections: Slab<Connection> = Slab::new();
    let mut events = Events::with_capacity(256);
    while !shared.is_over.load(Ordering::Relaxed) {
        poll.poll(&mut events, Some(Duration::from_millis(50)))?;
        for event in &events {
            if event.token() == ACCEPT {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let slot = connections.vacant_entry();
                    poll.registry().register(&mut stream, Token(slot.key()), Interest::READABLE)?;
                    slot.insert(Connection { stream, input: Vec::new() });
                }
            } else if let Some(connection) = connections.get_mut(event.token().0)
                && !connection.answer(shared)
            {
                connections.remove(event.token().0);
            }
        }
    }
    Ok(())
}

impl Connection {
    /// Answers what is whole; false at the end of the connection.
    fn answer(&mut self, shared: &Shared) -> bool {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        while let Some(length) = whole_request(&self.input) {
            self.input.drain(..length);
            let is_down = shared.is_down.load(Ordering::Relaxed);
            if !is_down {
                shared.taken.fetch_add(1, Ordering::Relaxed);
            }
            // So short an answer always fits.
            if self.stream.write_all(if is_down { REFUSED } else { TAKEN }).is_err() {
                return false;
            }
        }
        true
    }
}

/// The length of the first request, once it is there.
fn whole_request(input: &[u8]) -> Option<usize> {
    const LENGTH: &[u8] = b"content-length: ";
    let head = memmem::find(input, b"\r\n\r\n")? + 4;
    let at = memmem::find(&input[..head], LENGTH)? + LENGTH.len();
    let digits = input[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let body = digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
    (input.len() >= head + body).then_some(head + body)
}
