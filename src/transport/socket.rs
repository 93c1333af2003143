//! The socket below a connection: how it is prepared, found again at the upgrade, and asked how far its bytes have come.

use std::any::Any;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use actix_rt::net::TcpStream;
use actix_web::dev::Extensions;
use socket2::{SockRef, Socket};

/// What is remembered of a connection's socket until it may become a WebSocket: its number, so it costs nothing.
#[derive(Debug)]
pub struct ConnectionSocket(RawFd);

impl ConnectionSocket {
    /// For `HttpServer::on_connect`: prepares the socket `io` and notes it in the connection's `data`.
    ///
    /// Data that the peer does not acknowledge for `user_timeout` (Linux: nor has room for) end the
    /// connection in the kernel. A socket that cannot be prepared is served without these guards.
    pub fn register(io: &dyn Any, data: &mut Extensions, user_timeout: Duration) {
        let Some(stream) = io.downcast_ref::<TcpStream>() else { return };
        if let Err(error) = prepare(stream, user_timeout) {
            log::warn!(error:%; "connection goes without its guards");
        }
        data.insert(Self(stream.as_raw_fd()));
    }

    /// A second handle on the socket.
    ///
    /// # Safety
    ///
    /// The dispatcher of this connection must still own its stream.
    pub(super) unsafe fn duplicate(&self) -> io::Result<TcpStream> {
        // SAFETY: the stream that this number stands for is open, as the caller promises, and stays so for this
        // call, because it lives on this thread.
        let socket = unsafe { BorrowedFd::borrow_raw(self.0) };
        let duplicate = Socket::from(socket.try_clone_to_owned()?);
        TcpStream::from_std(duplicate.into())
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
pub(super) fn progress(stream: &TcpStream) -> Option<Progress> {
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
pub(super) fn progress(_: &TcpStream) -> Option<Progress> {
    None
}

/// Whether the system would take bytes now.
pub(super) fn has_room(stream: &TcpStream) -> bool {
    let mut poll = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: `poll` is one valid entry, and the descriptor is open as long as `stream` lives.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1 && poll.revents & libc::POLLOUT != 0
}
