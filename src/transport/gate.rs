//! Stops the reading of a connection without losing what has been read.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

use super::waking::{remember, wake};

/// Whether a connection is read. A stopped reader leaves what arrives to the system's buffers, and so slows the peer.
#[derive(Debug, Default)]
pub struct ReadGate {
    state: Cell<Reading>,
    reader: RefCell<Option<Waker>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Reading {
    #[default]
    Open,
    Paused,
    /// Resumes by itself when at most so many bytes are queued to be written.
    PausedUntil(usize),
    /// The connection is being closed: what arrives concerns nobody any more.
    Discarding,
    Ended,
}

impl ReadGate {
    /// Stops reading until [`resume`](Self::resume) or the end of the connection.
    pub fn pause(&self) {
        self.set(Reading::Paused);
    }

    /// Stops reading until at most `low` bytes are queued in the send queue, which is looked at whenever it shrinks.
    pub fn pause_until(&self, low: usize) {
        self.set(Reading::PausedUntil(low));
    }

    pub fn resume(&self) {
        self.set(Reading::Open);
        self.wake();
    }

    pub fn is_paused(&self) -> bool {
        !matches!(self.state.get(), Reading::Open | Reading::Ended)
    }

    /// Stops reading until [`end`](Self::end).
    pub(super) fn discard(&self) {
        self.set(Reading::Discarding);
    }

    /// Ends the input, whatever has arrived.
    pub(super) fn end(&self) {
        self.state.set(Reading::Ended);
        self.wake();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state.get() == Reading::Ended
    }

    /// Notes that `queued` bytes are left in the send queue.
    pub(super) fn on_queued(&self, queued: usize) {
        if matches!(self.state.get(), Reading::PausedUntil(low) if queued <= low) {
            self.resume();
        }
    }

    /// Ready while reading is allowed.
    pub(super) fn poll_open(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_paused() {
            remember(&mut self.reader.borrow_mut(), cx);
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn set(&self, reading: Reading) {
        if !matches!(self.state.get(), Reading::Discarding | Reading::Ended) {
            self.state.set(reading);
        }
    }

    fn wake(&self) {
        wake(self.reader.take());
    }
}
