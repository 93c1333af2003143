//! What the send queues of one worker thread have in common: their budget, their notices, and the task that writes them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::Stream;

use super::SendQueue;
use crate::transport::limit::ConnectionLimit;
use crate::transport::waking::{remember, wake};

/// Send queues, and bytes, written in a row before the other tasks of the thread get their turn.
const WRITES_PER_TURN: usize = 128;
const BYTES_PER_TURN: usize = 1024 * 1024;

/// How the shard knows a send queue.
pub type SendQueueKey = usize;

/// See the module.
#[derive(Debug)]
pub struct ShardQueues {
    pub budget: QueueBudget,
    pub drained: DrainQueue,
    pub(in crate::transport) due: DueWrites,
    pub(in crate::transport) connections: Arc<ConnectionLimit>,
}

impl ShardQueues {
    /// `limit`: bytes that all send queues of the shard together should not exceed.
    pub fn new(limit: usize, connections: Arc<ConnectionLimit>) -> Rc<Self> {
        Rc::new(Self {
            budget: QueueBudget { limit, used: Cell::new(0) },
            drained: DrainQueue::default(),
            due: DueWrites::default(),
            connections,
        })
    }

    /// The keys of send queues that have drained, in order, for as long as the shard lives.
    pub fn drain_notices(self: &Rc<Self>) -> DrainNotices {
        DrainNotices(Rc::clone(self))
    }

    /// Starts the task that writes, unless it runs already.
    pub(in crate::transport) fn start_flusher(self: &Rc<Self>) {
        if !self.due.is_served.replace(true) {
            actix_rt::spawn(Flusher(Rc::downgrade(self)));
        }
    }
}

impl Drop for ShardQueues {
    fn drop(&mut self) {
        wake(self.due.flusher.take());
    }
}

/// Counts the bytes that wait in all send queues of a shard, frames shared by n connections n times.
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

    pub(in crate::transport) fn add(&self, bytes: usize) {
        self.used.update(|used| used + bytes);
    }

    pub(in crate::transport) fn remove(&self, bytes: usize) {
        self.used.update(|used| used - bytes);
    }
}

/// The keys of send queues that have fallen to their low-water mark; each armed notice arrives once, none is lost.
#[derive(Debug, Default)]
pub struct DrainQueue {
    keys: RefCell<VecDeque<SendQueueKey>>,
    waker: RefCell<Option<Waker>>,
}

impl DrainQueue {
    pub(in crate::transport) fn put(&self, key: SendQueueKey) {
        self.keys.borrow_mut().push_back(key);
        wake(self.waker.take());
    }
}

/// See [`ShardQueues::drain_notices`]. One reader a shard.
#[derive(Debug)]
pub struct DrainNotices(Rc<ShardQueues>);

impl Stream for DrainNotices {
    type Item = SendQueueKey;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let DrainQueue { keys, waker } = &self.0.drained;
        let next = keys.borrow_mut().pop_front();
        if next.is_none() {
            remember(&mut waker.borrow_mut(), cx);
            return Poll::Pending;
        }
        Poll::Ready(next)
    }
}

/// The send queues that have something to do at their sockets, each once, first come first served.
#[derive(Debug, Default)]
pub(in crate::transport) struct DueWrites {
    send_queues: RefCell<VecDeque<Rc<SendQueue>>>,
    flusher: RefCell<Option<Waker>>,
    is_served: Cell<bool>,
    #[cfg(test)]
    pub(in crate::transport) writes: Cell<u64>,
}

impl DueWrites {
    /// Has `send_queue` written once the current turn is over: what is pushed until then shares a write.
    pub(in crate::transport) fn add(&self, send_queue: Rc<SendQueue>) {
        self.send_queues.borrow_mut().push_back(send_queue);
        wake(self.flusher.take());
    }

    /// Notes that a write was made.
    #[cfg(test)]
    pub(in crate::transport) fn count_write(&self) {
        self.writes.update(|writes| writes + 1);
    }
}

/// The task that writes for all connections of a thread: none has a task of its own.
struct Flusher(Weak<ShardQueues>);

impl Future for Flusher {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(shard) = self.0.upgrade() else { return Poll::Ready(()) };
        let mut bytes = 0;
        for _ in 0..WRITES_PER_TURN {
            let Some(send_queue) = shard.due.send_queues.borrow_mut().pop_front() else {
                remember(&mut shard.due.flusher.borrow_mut(), cx);
                return Poll::Pending;
            };
            bytes += send_queue.write();
            if bytes >= BYTES_PER_TURN {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
