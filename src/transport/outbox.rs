//! What waits to be written to one connection.
//!
//! The queue holds encoded frames, shared and never copied; the response body hands them to the HTTP
//! dispatcher, which asks for more only while its write buffer has room. So a full socket leaves the
//! bytes here, where they are counted, and nobody but this connection waits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Weak;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use futures_util::Stream;

use super::frame::CloseFrame;
use super::gate::ReadGate;
use super::socket::ConnectionSocket;

/// Most bytes handed over at once. The dispatcher copies each piece into its write buffer and asks for more
/// until that holds 32 KiB, so small frames share a write without being joined here, and large batches do
/// not make the buffer grow.
pub const MAX_SLICE: usize = 16 * 1024;

/// Room for queued frames that is kept by an empty queue.
const KEPT_SLOTS: usize = 8;

/// How the shard knows an outbox.
pub type OutboxKey = usize;

/// What the outboxes of one shard have in common.
#[derive(Debug)]
pub struct ShardQueues {
    pub budget: QueueBudget,
    pub drained: DrainQueue,
}

impl ShardQueues {
    /// `limit`: bytes that all outboxes of the shard together should not exceed.
    pub fn new(limit: usize) -> Rc<Self> {
        Rc::new(Self {
            budget: QueueBudget { limit, used: Cell::new(0) },
            drained: DrainQueue { keys: RefCell::default(), waker: RefCell::default() },
        })
    }

    /// The keys of outboxes that have drained, in batches, for as long as the shard lives.
    pub fn drain_notices(self: &Rc<Self>) -> DrainNotices {
        DrainNotices(Rc::clone(self))
    }
}

/// Counts the bytes that wait in all outboxes of a shard, frames shared by n connections n times.
///
/// It only counts: whether to push, to make a connection read from the store, or to close it is the shard's verdict.
#[derive(Debug)]
pub struct QueueBudget {
    limit: usize,
    used: Cell<usize>,
}

impl QueueBudget {
    pub fn used(&self) -> usize {
        self.used.get()
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether `bytes` more fit.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.used.get().saturating_add(bytes) <= self.limit
    }
}

/// The keys of outboxes that have fallen to their low-water mark; each armed notice arrives once, none is lost.
#[derive(Debug)]
pub struct DrainQueue {
    keys: RefCell<Vec<OutboxKey>>,
    waker: RefCell<Option<Waker>>,
}

impl DrainQueue {
    fn put(&self, key: OutboxKey) {
        self.keys.borrow_mut().push(key);
        wake(self.waker.take());
    }
}

/// See [`ShardQueues::drain_notices`]. One reader a shard.
#[derive(Debug)]
pub struct DrainNotices(Rc<ShardQueues>);

impl Stream for DrainNotices {
    type Item = Vec<OutboxKey>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let DrainQueue { keys, waker } = &self.0.drained;
        let keys = keys.take();
        if keys.is_empty() {
            remember(&mut waker.borrow_mut(), cx);
            return Poll::Pending;
        }
        Poll::Ready(Some(keys))
    }
}

/// The outgoing bytes of one connection; shared by its session, its shard and the response body, on one thread.
///
/// Invariant: nothing is queued once the connection is gone, so the budget returns to where it was.
#[derive(Debug)]
pub struct Outbox {
    shard: Rc<ShardQueues>,
    socket: Weak<ConnectionSocket>,
    reading: ReadGate,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Bytes handed to the dispatcher so far.
    taken: u64,
    /// The front of the queue is the rest of something already begun.
    front_begun: bool,
    phase: Phase,
    close_code: Option<u16>,
    notice: Option<Notice>,
    last_look: Option<Look>,
    body: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing is accepted; the body ends after what is queued.
    Closing,
    /// The body is gone, and the connection with it.
    Gone,
}

#[derive(Debug, Clone, Copy)]
struct Notice {
    key: OutboxKey,
    low: usize,
}

/// How far the bytes had come, and when that was first seen.
#[derive(Debug, Clone, Copy)]
struct Look {
    taken: u64,
    acknowledged: Option<u64>,
    since: Instant,
}

impl Outbox {
    /// An empty outbox and the response body that drains it.
    pub fn new(shard: Rc<ShardQueues>, socket: Weak<ConnectionSocket>) -> (Rc<Self>, OutboxBody) {
        let state = State {
            queue: VecDeque::new(),
            queued: 0,
            taken: 0,
            front_begun: false,
            phase: Phase::Open,
            close_code: None,
            notice: None,
            last_look: None,
            body: None,
        };
        let outbox = Rc::new(Self { shard, socket, reading: ReadGate::default(), state: RefCell::new(state) });
        let body = OutboxBody(Rc::clone(&outbox));
        (outbox, body)
    }

    /// Queues `frames`: one or more whole frames, encoded. Ignored once the outbox is closed.
    pub fn push(&self, frames: Bytes) {
        if frames.is_empty() || self.is_closed() {
            return;
        }
        self.enqueue(frames);
    }

    /// Bytes that wait here, not counting what the dispatcher and the system have taken.
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

    /// The socket below, while the connection lives.
    pub fn socket(&self) -> &Weak<ConnectionSocket> {
        &self.socket
    }

    /// Ends the connection with `frame`, after what is queued.
    pub fn close(&self, frame: &CloseFrame) {
        if self.is_closed() {
            return;
        }
        self.enqueue(frame.encode());
        self.state.borrow_mut().close_code = Some(frame.code);
        self.end();
    }

    /// Ends the connection with `frame`, instead of what is queued; only a piece already begun is finished first.
    pub fn close_now(&self, frame: &CloseFrame) {
        if self.is_closed() {
            return;
        }
        let keep = usize::from(self.state.borrow().front_begun);
        self.discard_from(keep);
        self.close(frame);
    }

    /// Ends the connection after what is queued, without a close frame: the last word has been said, or the peer is gone.
    pub fn end(&self) {
        let mut state = self.state.borrow_mut();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing;
            let body = state.body.take();
            drop(state);
            wake(body);
        }
    }

    /// Asks for `key` in the shard's drain notices once at most `low` bytes are queued, which may be now,
    /// and is certain to come: a connection that goes away drains too. Replaces an earlier request.
    pub fn arm_drain_notice(&self, key: OutboxKey, low: usize) {
        self.state.borrow_mut().notice = Some(Notice { key, low });
        self.announce();
    }

    /// For how long the peer has taken nothing, neither from here nor from the socket's own buffer, while bytes
    /// waited; `None` when none wait.
    ///
    /// Counted from the first look that found things as they are, so it is late by at most the time between two
    /// looks, and never early. A look at a waiting outbox costs one system call.
    pub fn stalled_for(&self, now: Instant) -> Option<Duration> {
        let mut state = self.state.borrow_mut();
        if state.queued == 0 {
            state.last_look = None;
            return None;
        }
        let taken = state.taken;
        let acknowledged = self.socket.upgrade().and_then(|socket| socket.acknowledged_bytes());
        let unmoved = state.last_look.filter(|look| (look.taken, look.acknowledged) == (taken, acknowledged));
        let Look { since, .. } = *state.last_look.insert(unmoved.unwrap_or(Look { taken, acknowledged, since: now }));
        Some(now.saturating_duration_since(since))
    }

    /// Stops and restarts the reading of this connection's requests.
    pub fn reading(&self) -> &ReadGate {
        &self.reading
    }

    fn enqueue(&self, bytes: Bytes) {
        let mut state = self.state.borrow_mut();
        state.queued += bytes.len();
        self.shard.budget.used.update(|used| used + bytes.len());
        state.queue.push_back(bytes);
        let body = state.body.take();
        drop(state);
        wake(body);
    }

    /// The next piece to write; the end once the outbox is closed and empty.
    fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.state.borrow_mut();
        let Some(front) = state.queue.front_mut() else {
            if state.phase != Phase::Open {
                return Poll::Ready(None);
            }
            remember(&mut state.body, cx);
            return Poll::Pending;
        };
        let piece = if front.len() > MAX_SLICE { front.split_to(MAX_SLICE) } else { std::mem::take(front) };
        state.front_begun = !state.queue[0].is_empty();
        if !state.front_begun {
            state.queue.pop_front();
            state.release_slots();
        }
        state.taken += piece.len() as u64;
        self.account_for_removal(&mut state, piece.len());
        drop(state);
        self.announce();
        Poll::Ready(Some(piece))
    }

    /// Drops everything queued but the first `keep` pieces.
    fn discard_from(&self, keep: usize) {
        let mut state = self.state.borrow_mut();
        let removed = state.queue.drain(keep..).map(|piece| piece.len()).sum();
        state.release_slots();
        self.account_for_removal(&mut state, removed);
        drop(state);
        self.announce();
    }

    fn account_for_removal(&self, state: &mut State, removed: usize) {
        state.queued -= removed;
        self.shard.budget.used.update(|used| used - removed);
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
    }

    fn on_body_dropped(&self) {
        self.state.borrow_mut().phase = Phase::Gone;
        self.discard_from(0);
        // Reading on finds the end of the input, which is how the session learns of it.
        self.reading.resume();
    }
}

impl State {
    fn release_slots(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > KEPT_SLOTS {
            self.queue = VecDeque::new();
        }
    }
}

/// The body of the response that switched protocols: yields what the outbox holds until that is closed.
#[derive(Debug)]
pub struct OutboxBody(Rc<Outbox>);

impl MessageBody for OutboxBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        self.0.poll_take(cx).map(|piece| piece.map(Ok))
    }
}

impl Drop for OutboxBody {
    fn drop(&mut self) {
        self.0.on_body_dropped();
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Keeps the waker of the task behind `cx`, for [`wake`].
pub(super) fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
