//! The socket below a connection: how it is prepared, found again at the upgrade, and asked how far its bytes have
//! come.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use actix_rt::net::TcpStream;
use actix_web::dev::Extensions;
use socket2::{SockRef, Socket};
use tokio::io::Interest;

/// How long a connection may be without progress before it is closed.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionTimeouts {
    /// Data that the peer does not acknowledge (Linux: nor has room for); seen to by the system.
    pub unacknowledged: Duration,
    /// A further request, whole with its head, after the answer to the one before.
    pub next_request: Duration,
}

/// What is remembered of an HTTP connection's socket: its number, and whether it serves a request.
///
/// The library times the head of the first request, and the time until the first byte of the next; the rest of that
/// one's head it would await for ever. So each connection has a task that ends it.
#[derive(Debug)]
pub struct ConnectionSocket {
    descriptor: RawFd,
    requests: Cell<u32>,
    answered: Cell<Instant>,
}

impl ConnectionSocket {
    /// For `HttpServer::on_connect`: prepares the socket `io` and notes it in the connection's `data`.
    ///
    /// A socket that cannot be prepared is served without its guards.
    pub fn register(io: &dyn Any, data: &mut Extensions, timeouts: ConnectionTimeouts) {
        let Some(stream) = io.downcast_ref::<TcpStream>() else { return };
        if let Err(error) = prepare(stream, timeouts.unacknowledged) {
            log::warn!(error:%; "connection goes without its guards");
        }
        let socket = Rc::new(Self {
            descriptor: stream.as_raw_fd(),
            requests: Cell::new(0),
            answered: Cell::new(Instant::now()),
        });
        actix_rt::spawn(end_when_idle(Rc::downgrade(&socket), timeouts.next_request));
        data.insert(socket);
    }

    /// A request is served as long as what is returned lives, to be kept by the future that makes the answer: the
    /// dispatcher owns that beside its stream, and drops it first.
    pub fn serve(self: &Rc<Self>) -> ServedRequest {
        self.requests.update(|requests| requests + 1);
        ServedRequest(Rc::clone(self))
    }

    /// A second handle on the socket.
    ///
    /// # Safety
    ///
    /// The dispatcher of this connection must still own its stream.
    pub(super) unsafe fn duplicate(&self) -> io::Result<TcpStream> {
        // SAFETY: the stream that this number stands for is open, as the caller promises, and stays so for this
        // call, because it lives on this thread.
        let socket = unsafe { BorrowedFd::borrow_raw(self.descriptor) };
        let duplicate = Socket::from(socket.try_clone_to_owned()?);
        TcpStream::from_std(duplicate.into())
    }

    /// A second handle on the socket, for who serves a request of this connection.
    pub(super) fn duplicate_served(&self) -> io::Result<TcpStream> {
        if self.requests.get() == 0 {
            return Err(io::ErrorKind::NotConnected.into());
        }
        // SAFETY: a request is served, so the future of its answer lives, and with it the dispatcher that owns both.
        unsafe { self.duplicate() }
    }

    /// Ready when the peer has closed its side, or the connection; to be awaited by who serves a request.
    pub async fn gone(&self) {
        /// Between two looks at a peer that sends what is not read yet.
        const LOOK: Duration = Duration::from_secs(1);
        let Ok(stream) = self.duplicate_served() else { return std::future::pending().await };
        loop {
            match stream.ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => {}
                Ok(_) | Err(_) => return,
            }
            // The dispatcher reads; here it is only found whether it has.
            let look = stream.try_io(Interest::READABLE, || SockRef::from(&stream).peek(&mut [MaybeUninit::uninit()]));
            match look {
                Ok(0) => return,
                Ok(_) => tokio::time::sleep(LOOK).await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// How much longer the next request may take; none when it should be there.
    fn patience(&self, next_request: Duration) -> Duration {
        match self.requests.get() {
            0 => next_request.saturating_sub(self.answered.get().elapsed()),
            _ => next_request,
        }
    }
}

/// See [`ConnectionSocket::serve`].
#[derive(Debug)]
pub struct ServedRequest(Rc<ConnectionSocket>);

impl Drop for ServedRequest {
    fn drop(&mut self) {
        self.0.requests.update(|requests| requests - 1);
        self.0.answered.set(Instant::now());
    }
}

/// Ends the connection when its next request does not come; not while the last answer is under way, which the system
/// sees to.
async fn end_when_idle(socket: Weak<ConnectionSocket>, next_request: Duration) {
    // Between two looks at an answer that is under way.
    let look = next_request / 8;
    loop {
        let Some(socket) = socket.upgrade() else { return };
        let mut wait = socket.patience(next_request);
        if wait.is_zero() {
            // SAFETY: the dispatcher owns the stream and what is registered of it, and drops both in one go on this
            // thread; so while the latter is there, the number stands for the stream.
            let stream = unsafe { BorrowedFd::borrow_raw(socket.descriptor) };
            if progress(&stream).is_none_or(|progress| progress.acknowledged == progress.written) {
                // Fails only if the connection has ended by itself.
                let _ = SockRef::from(&stream).shutdown(Shutdown::Both);
                return;
            }
            wait = look;
        }
        drop(socket);
        tokio::time::sleep(wait).await;
    }
}

fn prepare(stream: &TcpStream, user_timeout: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(user_timeout))?;
    #[cfg(not(target_os = "linux"))]
    let _ = user_timeout;
    Ok(())
}

/// How far the bytes of a connection have come since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Accepted by the system.
    pub written: u64,
    /// Acknowledged by the peer.
    pub acknowledged: u64,
}

/// See [`Progress`]; `None` where the system does not tell.
#[cfg(target_os = "linux")]
pub(super) fn progress(stream: &impl AsRawFd) -> Option<Progress> {
    use std::mem::{MaybeUninit, offset_of};

    const END_OF_FIELDS: usize = offset_of!(libc::tcp_info, tcpi_bytes_retrans) + size_of::<u64>();

    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` is writable for `len` bytes, and the descriptor is open as long as `stream` lives.
    let outcome = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    if outcome != 0 || (len as usize) < END_OF_FIELDS {
        return None;
    }
    // SAFETY: every field is an integer, for which the zeroes of the start are valid too.
    let info = unsafe { info.assume_init() };
    let sent = info.tcpi_bytes_sent.saturating_sub(info.tcpi_bytes_retrans);
    Some(Progress { written: sent + u64::from(info.tcpi_notsent_bytes), acknowledged: info.tcpi_bytes_acked })
}

/// See [`Progress`]; `None` where the system does not tell.
#[cfg(not(target_os = "linux"))]
pub(super) fn progress(_: &impl AsRawFd) -> Option<Progress> {
    None
}

/// Whether the system would take bytes now.
pub(super) fn has_room(stream: &TcpStream) -> bool {
    let mut poll = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: `poll` is one valid entry, and the descriptor is open as long as `stream` lives.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1 && poll.revents & libc::POLLOUT != 0
}

/// An address for the log, without the port if that is not known.
pub fn peer_name(peer: Option<SocketAddr>) -> String {
    match peer {
        None => "-".to_owned(),
        Some(peer) if peer.port() == 0 => peer.ip().to_string(),
        Some(peer) => peer.to_string(),
    }
}
