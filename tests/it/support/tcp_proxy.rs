//! A TCP proxy of the test's own: a link that can be slow, cut, or dead without anybody being told.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

/// How connections end that are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// In good order, as by a peer that closes.
    Fin,
    /// At once, as by a peer that has lost its memory.
    Rst,
}

/// See the module. All connections through it are one link. Ends when dropped.
pub struct TcpProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    flow: Flow,
    delay: Duration,
    is_over: bool,
    connections: Vec<Weak<Connection>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Flow {
    #[default]
    Passes,
    /// Nothing arrives, in either direction, and neither end is told that the other has closed.
    Swallowed,
    /// There are no connections.
    Cut,
}

struct Connection {
    ends: [TcpStream; 2],
    is_cut: AtomicBool,
}

impl TcpProxy {
    /// A link to `upstream`, on a free port.
    pub fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared { upstream, state: Mutex::default(), changed: Condvar::new() });
        let acceptor = Some(thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener)
        }));
        Self { addr, shared, acceptor }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The link is well again. What was held up since it was swallowed arrives now.
    pub fn heal(&self) {
        self.shared.change(|state| (state.flow, state.delay) = (Flow::Passes, Duration::ZERO));
    }

    /// Whatever is sent arrives this much later.
    pub fn delay(&self, delay: Duration) {
        self.shared.change(|state| state.delay = delay);
    }

    /// From now on nothing passes either way, and nobody is told.
    pub fn swallow(&self) {
        self.shared.change(|state| state.flow = Flow::Swallowed);
    }

    /// All connections end; new ones end at once.
    pub fn cut(&self, how: Cut) {
        let connections = self.shared.change(|state| {
            state.flow = Flow::Cut;
            std::mem::take(&mut state.connections)
        });
        for connection in connections.iter().filter_map(Weak::upgrade) {
            connection.cut(how);
        }
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.shared.change(|state| state.is_over = true);
        self.cut(Cut::Rst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.addr);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changed.notify_all();
        changed
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().flatten() {
            if self.lock().is_over {
                return;
            }
            let shared = Arc::clone(&self);
            // However it ends, it ends.
            thread::spawn(move || shared.carry(client));
        }
    }

    /// Waits while the link is swallowed. Returns for how long a piece is on its way, unless the link is cut.
    fn wait_to_pass(&self) -> io::Result<Duration> {
        let state = self.changed.wait_while(self.lock(), |state| state.flow == Flow::Swallowed);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        match state.flow {
            Flow::Cut => Err(io::ErrorKind::ConnectionAborted.into()),
            Flow::Passes | Flow::Swallowed => Ok(state.delay),
        }
    }

    fn carry(self: Arc<Self>, client: TcpStream) -> io::Result<()> {
        reset_when_dropped(&client)?;
        self.wait_to_pass()?;
        let upstream = TcpStream::connect(self.upstream)?;
        reset_when_dropped(&upstream)?;
        for end in [&client, &upstream] {
            end.set_nodelay(true)?;
        }
        let connection = Arc::new(Connection { ends: [client, upstream], is_cut: AtomicBool::new(false) });
        {
            let mut state = self.lock();
            if state.flow == Flow::Cut {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            state.connections.retain(|other| other.strong_count() > 0);
            state.connections.push(Arc::downgrade(&connection));
        }
        let back = {
            let (shared, connection) = (Arc::clone(&self), Arc::clone(&connection));
            thread::spawn(move || shared.pass(&connection, 1, 0))
        };
        self.pass(&connection, 0, 1);
        let _ = back.join();
        Ok(())
    }

    /// Passes on what comes from one end to the other, until the end of it.
    fn pass(&self, connection: &Connection, from: usize, to: usize) {
        let (mut from, mut to) = (&connection.ends[from], &connection.ends[to]);
        let mut buffer = [0; 16 * 1024];
        loop {
            let read = from.read(&mut buffer);
            let Ok(delay) = self.wait_to_pass() else { return };
            match read {
                _ if connection.is_cut.load(Ordering::Acquire) => return,
                Ok(0) => {
                    let _ = SockRef::from(to).set_linger(None);
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(count) => {
                    thread::sleep(delay);
                    if to.write_all(&buffer[..count]).is_err() {
                        return connection.cut(Cut::Rst);
                    }
                }
                Err(_) => return connection.cut(Cut::Rst),
            }
        }
    }
}

impl Connection {
    fn cut(&self, how: Cut) {
        self.is_cut.store(true, Ordering::Release);
        for end in &self.ends {
            let _ = match how {
                Cut::Fin => end.shutdown(Shutdown::Both),
                // Says nothing, but wakes who reads from it. Who has it last drops it.
                Cut::Rst => reset_when_dropped(end).and_then(|()| end.shutdown(Shutdown::Read)),
            };
        }
    }
}

/// The other end is told that the connection is no more, rather than that it was closed.
fn reset_when_dropped(end: &TcpStream) -> io::Result<()> {
    SockRef::from(end).set_linger(Some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::PATIENCE;

    const A_WHILE: Duration = Duration::from_millis(200);

    /// Both ends of a connection through a link, which has been used.
    fn connect(proxy: &TcpProxy, listener: &TcpListener) -> [TcpStream; 2] {
        let mut client = TcpStream::connect(proxy.addr()).expect("a connection");
        let (server, _) = listener.accept().expect("a connection");
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
        }
        client.write_all(b"?").expect("an open connection");
        assert_eq!(read(&server).ok(), Some(b'?'));
        [client, server]
    }

    fn link() -> (TcpProxy, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        (TcpProxy::to(listener.local_addr().expect("bound")), listener)
    }

    fn read(mut end: &TcpStream) -> io::Result<u8> {
        let mut byte = [0];
        end.read_exact(&mut byte).map(|()| byte[0])
    }

    #[test]
    fn passes_both_ways_and_later_if_it_is_slow() {
        let (proxy, listener) = link();
        let [mut client, mut server] = connect(&proxy, &listener);
        client.write_all(b"a").expect("an open connection");
        server.write_all(b"b").expect("an open connection");
        assert_eq!([read(&server).ok(), read(&client).ok()], [Some(b'a'), Some(b'b')]);
        proxy.delay(A_WHILE);
        let begin = std::time::Instant::now();
        client.write_all(b"c").expect("an open connection");
        assert_eq!(read(&server).ok(), Some(b'c'));
        assert!(begin.elapsed() >= A_WHILE);
    }

    #[test]
    fn a_cut_is_told_as_asked_for_and_lasts() {
        for (how, expected) in [(Cut::Fin, io::ErrorKind::UnexpectedEof), (Cut::Rst, io::ErrorKind::ConnectionReset)] {
            let (proxy, listener) = link();
            let [client, server] = connect(&proxy, &listener);
            proxy.cut(how);
            assert_eq!(read(&client).expect_err("cut").kind(), expected);
            assert_eq!(read(&server).expect_err("cut").kind(), expected);
            let refused = TcpStream::connect(proxy.addr()).expect("the port is open");
            assert!(read(&refused).is_err());
            proxy.heal();
            let [mut client, server] = connect(&proxy, &listener);
            client.write_all(b"a").expect("an open connection");
            assert_eq!(read(&server).ok(), Some(b'a'));
        }
    }

    #[test]
    fn what_is_swallowed_arrives_when_the_link_is_well_again_and_so_does_the_end() {
        let (proxy, listener) = link();
        let [mut client, server] = connect(&proxy, &listener);
        proxy.swallow();
        client.write_all(b"a").expect("nobody is told");
        drop(client);
        server.set_read_timeout(Some(A_WHILE)).expect("a valid timeout");
        assert!(crate::support::load::is_timeout(&read(&server).expect_err("nothing comes")));
        server.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
        proxy.heal();
        assert_eq!(read(&server).ok(), Some(b'a'));
        assert_eq!(read(&server).expect_err("the end").kind(), io::ErrorKind::UnexpectedEof);
    }
}
