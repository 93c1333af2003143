//! The socket below a connection: what can be known and done without the task that owns it.
//!
//! A task that waits for a full socket to drain runs none of its own timers, so the verdict on a peer
//! that takes nothing, and its execution, come from outside.

use std::any::Any;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix_rt::net::TcpStream;
use actix_web::dev::Extensions;
use socket2::{SockRef, Socket};

/// A second handle on the socket of one connection, usable from any thread.
///
/// The connection's own data hold the only strong reference: the peer sees the end of the connection
/// when both handles are gone, so everybody else keeps a `Weak`.
#[derive(Debug)]
pub struct ConnectionSocket {
    socket: Socket,
    peer: Option<SocketAddr>,
}

impl ConnectionSocket {
    /// For `HttpServer::on_connect`: prepares the socket `io` and puts a handle on it into the connection's `data`.
    ///
    /// Data that the peer does not acknowledge for `user_timeout` (Linux: nor has room for) end the
    /// connection in the kernel. A socket that cannot be prepared is served without these guards.
    pub fn register(io: &dyn Any, data: &mut Extensions, user_timeout: Duration) {
        let Some(stream) = io.downcast_ref::<TcpStream>() else { return };
        match Self::duplicate(stream, user_timeout) {
            Ok(socket) => {
                data.insert(Arc::new(socket));
            }
            Err(error) => log::warn!(error:%; "connection goes without its guards"),
        }
    }

    fn duplicate(stream: &TcpStream, user_timeout: Duration) -> io::Result<Self> {
        let own = SockRef::from(stream);
        own.set_tcp_nodelay(true)?;
        #[cfg(target_os = "linux")]
        own.set_tcp_user_timeout(Some(user_timeout))?;
        #[cfg(not(target_os = "linux"))]
        let _ = user_timeout;
        Ok(Self { socket: own.try_clone()?, peer: stream.peer_addr().ok() })
    }

    /// The peer's address; `None` when it was gone before it was asked for.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Ends the connection at once, in both directions; its task wakes up and finds it closed.
    pub fn shutdown(&self) {
        // The only error is that the peer was faster.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Bytes that the peer has acknowledged since the connection began; `None` where the system does not tell.
    #[cfg(target_os = "linux")]
    pub fn acknowledged_bytes(&self) -> Option<u64> {
        use std::mem::{MaybeUninit, offset_of};
        use std::os::fd::AsRawFd;

        const END_OF_FIELD: usize = offset_of!(libc::tcp_info, tcpi_bytes_acked) + size_of::<u64>();

        let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: `info` is writable for `len` bytes, and the descriptor is open as long as `self` lives.
        let outcome = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if outcome != 0 || (len as usize) < END_OF_FIELD {
            return None;
        }
        // SAFETY: every field is an integer, for which the zeroes of the start are valid too.
        Some(unsafe { info.assume_init() }.tcpi_bytes_acked)
    }

    /// Bytes that the peer has acknowledged since the connection began; `None` where the system does not tell.
    #[cfg(not(target_os = "linux"))]
    pub fn acknowledged_bytes(&self) -> Option<u64> {
        None
    }
}
