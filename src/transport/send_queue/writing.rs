//! How a send queue comes to its socket, empties itself into it, and leaves it.

use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use actix_rt::net::TcpStream;
use bytes::Buf;
use smallvec::SmallVec;
use socket2::SockRef;

use super::{Phase, SendQueue, State, Turn};
use crate::transport::reading::discard;

/// Most pieces in one write.
const MAX_PIECES: usize = 64;

/// Most bytes written for one connection before the next one has its turn.
const MAX_ROUND: usize = 256 * 1024;

/// How long a peer may take to close its side after the last byte was written.
const LINGER: Duration = Duration::from_secs(2);

/// How a round of writing ended.
enum Round {
    Emptied,
    /// There is more, but it is somebody else's turn.
    Unfinished,
    /// The socket is full.
    Blocked,
}

impl SendQueue {
    /// The connection's own socket, from now on.
    pub(in crate::transport) fn connect(self: &Rc<Self>, stream: Rc<TcpStream>) {
        self.shard.start_flusher();
        let mut state = self.state.borrow_mut();
        state.stream = Some(stream);
        self.schedule(&mut state);
    }

    /// Has the queue written, or the connection ended, when the current turn is over.
    pub(super) fn schedule(self: &Rc<Self>, state: &mut State) {
        if state.turn == Turn::Idle && state.stream.is_some() {
            state.turn = Turn::Due;
            self.shard.due.add(Rc::clone(self));
        }
    }

    /// Writes as much as the socket takes and fairness allows; how many bytes that were.
    pub(in crate::transport) fn write(self: &Rc<Self>) -> usize {
        let mut state = self.state.borrow_mut();
        state.turn = Turn::Idle;
        let Some(stream) = state.stream.clone() else { return 0 };
        let before = state.written;
        let outcome = self.write_round(&mut state, &stream);
        match outcome {
            Ok(Round::Emptied) if state.phase == Phase::Closing => self.linger(&mut state, stream),
            Ok(Round::Emptied) => {}
            Ok(Round::Unfinished) => self.schedule(&mut state),
            Ok(Round::Blocked) => {
                state.turn = Turn::Blocked;
                actix_rt::spawn(await_room(Rc::clone(self), stream));
            }
            Err(_) => {
                drop(state);
                // What the peer sent before it went is still read.
                self.reading.resume();
                self.disconnect();
                return 0;
            }
        }
        let written = state.written - before;
        drop(state);
        self.announce();
        usize::try_from(written).unwrap_or(usize::MAX)
    }

    fn write_round(&self, state: &mut State, stream: &TcpStream) -> io::Result<Round> {
        let mut left = MAX_ROUND;
        while !state.queue.is_empty() {
            if left == 0 {
                return Ok(Round::Unfinished);
            }
            match write_once(state, stream, left) {
                Ok(written) => {
                    #[cfg(test)]
                    self.shard.due.count_write();
                    left -= written;
                    state.advance(written);
                    self.account_for_removal(state, written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Round::Blocked),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Round::Emptied)
    }

    /// Says that nothing more comes, and waits for the peer to say the same: closing a socket with unread input
    /// would destroy what is on its way to the peer.
    fn linger(self: &Rc<Self>, state: &mut State, stream: Rc<TcpStream>) {
        state.phase = Phase::Lingering;
        self.reading.discard();
        // The only error is that the peer was faster.
        let _ = SockRef::from(&*stream).shutdown(Shutdown::Write);
        let send_queue = Rc::clone(self);
        actix_rt::spawn(async move {
            let _ = tokio::time::timeout(LINGER, discard(&stream)).await;
            send_queue.kill();
        });
    }

    /// Lets go of the socket, the queue and the place among the connections.
    pub(super) fn disconnect(&self) {
        let mut state = self.state.borrow_mut();
        state.phase = Phase::Gone;
        state.admission = None;
        if let Some(stream) = state.stream.take() {
            // Whoever else holds the stream wakes up and finds it closed.
            let _ = SockRef::from(&*stream).shutdown(Shutdown::Both);
        }
        drop(state);
        self.discard_from(0);
    }
}

impl State {
    /// Removes `written` bytes from the front of the queue.
    pub(super) fn advance(&mut self, written: usize) {
        self.written += written as u64;
        let mut left = written;
        while let Some(front) = self.queue.front_mut() {
            if left < front.len() {
                self.front_begun |= left > 0;
                front.advance(left);
                return;
            }
            left -= front.len();
            self.front_begun = false;
            self.queue.pop_front();
        }
    }
}

/// One write of at most `most` bytes from the front of the queue, which is not empty.
fn write_once(state: &State, stream: &TcpStream, most: usize) -> io::Result<usize> {
    if let [front] = state.queue.as_slices().0
        && state.queue.len() == 1
    {
        return stream.try_write(&front[..front.len().min(most)]);
    }
    let mut left = most;
    let pieces: SmallVec<[IoSlice<'_>; MAX_PIECES]> = state
        .queue
        .iter()
        .take(MAX_PIECES)
        .map(|piece| {
            let taken = piece.len().min(left);
            left -= taken;
            IoSlice::new(&piece[..taken])
        })
        .take_while(|slice| !slice.is_empty())
        .collect();
    stream.try_write_vectored(&pieces)
}

/// Waits until the socket takes bytes again, or is closed.
async fn await_room(send_queue: Rc<SendQueue>, stream: Rc<TcpStream>) {
    // An error means that the runtime ends.
    if stream.writable().await.is_ok() {
        let mut state = send_queue.state.borrow_mut();
        state.turn = Turn::Idle;
        send_queue.schedule(&mut state);
    }
}
