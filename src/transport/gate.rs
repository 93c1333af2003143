//! Stops the reading of a connection without losing what has been read.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

use super::outbox::remember;

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
}

impl ReadGate {
    /// Stops reading until [`resume`](Self::resume) or the end of the connection.
    pub fn pause(&self) {
        self.state.set(Reading::Paused);
    }

    /// Stops reading until at most `low` bytes are queued in the outbox, which is looked at whenever it shrinks.
    pub fn pause_until(&self, low: usize) {
        self.state.set(Reading::PausedUntil(low));
    }

    pub fn resume(&self) {
        self.state.set(Reading::Open);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    pub fn is_paused(&self) -> bool {
        self.state.get() != Reading::Open
    }

    /// Notes that `queued` bytes are left in the outbox.
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
}
