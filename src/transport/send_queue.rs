//! What waits to be written to one connection.
//!
//! The queue holds encoded frames, shared and never copied: they go from here straight into the socket, at the end
//! of the turn in which they were pushed. A full socket leaves the bytes here, where they are counted, and nobody
//! but this connection waits.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_rt::net::TcpStream;
use bytes::Bytes;

use super::frame::CloseFrame;
use super::gate::ReadGate;
use super::limit::Admission;
use super::socket::progress;

mod queues;
mod writing;

pub use queues::{DrainNotices, DrainQueue, QueueBudget, SendQueueKey, ShardQueues};

/// Room for queued frames that is kept by an empty queue.
const KEPT_SLOTS: usize = 4;

/// The outgoing side of one connection; shared by its session and its shard, on one thread.
///
/// Invariant: nothing is queued once the connection is gone, so the budget returns to where it was.
#[derive(Debug)]
pub struct SendQueue {
    shard: Rc<ShardQueues>,
    reading: ReadGate,
    feeding: ReadGate,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    /// `None` until the connection is taken over, and when it is gone.
    stream: Option<Rc<TcpStream>>,
    admission: Option<Admission>,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Bytes taken by the system so far.
    written: u64,
    /// The front of the queue is the rest of something already begun.
    front_begun: bool,
    phase: Phase,
    turn: Turn,
    close_code: Option<u16>,
    notice: Option<Notice>,
    last_look: Option<Look>,
    /// What `written` was when the peer was last seen to have acknowledged all of it.
    settled: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing is accepted; what is queued is still written.
    Closing,
    /// All is written; the peer has a moment to read it and to close its side.
    Lingering,
    Gone,
}

/// What the writing waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Something to write.
    Idle,
    /// The end of the current turn.
    Due,
    /// Room in the socket.
    Blocked,
}

#[derive(Debug, Clone, Copy)]
struct Notice {
    key: SendQueueKey,
    low: usize,
}

/// How far the bytes had come, and when that was first seen.
#[derive(Debug, Clone, Copy)]
struct Look {
    written: u64,
    acknowledged: Option<u64>,
    since: Instant,
}

impl SendQueue {
    /// An empty send queue, which keeps what is pushed until it is [connected](Self::connect).
    pub(super) fn new(shard: Rc<ShardQueues>, admission: Option<Admission>) -> Rc<Self> {
        let state = State {
            stream: None,
            admission,
            queue: VecDeque::new(),
            queued: 0,
            written: 0,
            front_begun: false,
            phase: Phase::Open,
            turn: Turn::Idle,
            close_code: None,
            notice: None,
            last_look: None,
            settled: 0,
        };
        Rc::new(Self { shard, reading: ReadGate::default(), feeding: ReadGate::default(), state: RefCell::new(state) })
    }

    /// Queues `frames`: one or more whole frames, encoded. Ignored once the send queue is closed.
    pub fn push(self: &Rc<Self>, frames: Bytes) {
        if frames.is_empty() || self.is_closed() {
            return;
        }
        let mut state = self.state.borrow_mut();
        state.queued += frames.len();
        self.shard.budget.add(frames.len());
        state.queue.push_back(frames);
        self.schedule(&mut state);
    }

    /// Bytes that wait here, not counting what the system has taken.
    pub fn queued_bytes(&self) -> usize {
        self.state.borrow().queued
    }

    /// Whether it accepts nothing more: closed from this side, or the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.state.borrow().phase != Phase::Open
    }

    /// Whether the connection is gone.
    pub fn is_gone(&self) -> bool {
        self.state.borrow().phase == Phase::Gone
    }

    /// The code of the close frame that was queued here.
    pub fn close_code(&self) -> Option<u16> {
        self.state.borrow().close_code
    }

    /// Ends the connection with `frame`, after what is queued.
    pub fn close(self: &Rc<Self>, frame: &CloseFrame) {
        self.close_with(frame.code, frame.encode());
    }

    /// Ends the connection for the reason `code` with `last_words`, after what is queued.
    pub fn close_with(self: &Rc<Self>, code: u16, last_words: Bytes) {
        if self.is_closed() {
            return;
        }
        self.push(last_words);
        self.state.borrow_mut().close_code = Some(code);
        self.end();
    }

    /// Ends the connection for the reason `code` with `last_words`, instead of what is queued; only a piece already
    /// begun is finished first.
    pub fn close_now(self: &Rc<Self>, code: u16, last_words: Bytes) {
        if self.is_closed() {
            return;
        }
        let keep = usize::from(self.state.borrow().front_begun);
        self.discard_from(keep);
        self.close_with(code, last_words);
    }

    /// Ends the connection after what is queued, without a close frame: the last word has been said, or the peer is
    /// gone.
    pub fn end(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing;
            self.schedule(&mut state);
        }
    }

    /// Ends the connection at once, whatever is queued.
    pub fn kill(&self) {
        self.reading.end();
        self.disconnect();
    }

    /// Asks for `key` in the shard's drain notices once at most `low` bytes are queued, which may be now,
    /// and is certain to come: a connection that goes away drains too. Replaces an earlier request.
    pub fn arm_drain_notice(&self, key: SendQueueKey, low: usize) {
        self.state.borrow_mut().notice = Some(Notice { key, low });
        self.announce();
    }

    /// For how long the peer has taken nothing, neither from here nor from the socket's own buffer, while bytes
    /// waited; `None` when none wait.
    ///
    /// Counted from the first look that found things as they are, so it is late by at most the time between two
    /// looks, and never early. A look at a waiting send queue costs one system call.
    pub fn stalled_for(&self, now: Instant) -> Option<Duration> {
        let mut state = self.state.borrow_mut();
        if state.queued == 0 && state.written == state.settled {
            state.last_look = None;
            return None;
        }
        let written = state.written;
        let progress = state.stream.as_deref().and_then(progress);
        if state.queued == 0 && progress.is_none_or(|progress| progress.acknowledged >= progress.written) {
            state.settled = written;
            state.last_look = None;
            return None;
        }
        let acknowledged = progress.map(|progress| progress.acknowledged);
        let unmoved = state.last_look.filter(|look| (look.written, look.acknowledged) == (written, acknowledged));
        let look = unmoved.unwrap_or(Look { written, acknowledged, since: now });
        state.last_look = Some(look);
        Some(now.saturating_duration_since(look.since))
    }

    /// Stops and restarts the reading of this connection's requests.
    pub fn reading(&self) -> &ReadGate {
        &self.reading
    }

    /// Stops and restarts those who have one thing after the other to push here, and [wait](Self::may_feed) for room.
    pub fn feeding(&self) -> &ReadGate {
        &self.feeding
    }

    /// Until [`Self::feeding`] is not stopped.
    pub async fn may_feed(&self) {
        std::future::poll_fn(|cx| self.feeding.poll_open(cx)).await;
    }

    /// Drops everything queued but the first `keep` pieces.
    fn discard_from(&self, keep: usize) {
        let mut state = self.state.borrow_mut();
        let removed = state.queue.drain(keep..).map(|piece| piece.len()).sum();
        self.account_for_removal(&mut state, removed);
        drop(state);
        self.announce();
    }

    fn account_for_removal(&self, state: &mut State, removed: usize) {
        if state.queue.is_empty() && state.queue.capacity() > KEPT_SLOTS {
            state.queue = VecDeque::new();
        }
        state.queued -= removed;
        self.shard.budget.remove(removed);
    }

    /// Tells those who wait for the queue to have shrunk.
    fn announce(&self) {
        let mut state = self.state.borrow_mut();
        let queued = state.queued;
        let due = state.notice.take_if(|notice| queued <= notice.low);
        drop(state);
        if let Some(Notice { key, .. }) = due {
            self.shard.drained.put(key);
        }
        self.reading.on_queued(queued);
        self.feeding.on_queued(queued);
    }
}

#[cfg(test)]
#[path = "send_queue_tests.rs"]
mod tests;
