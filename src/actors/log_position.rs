//! Where the log ends, for everybody on this node.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::domain::event::{EventId, LogBounds};

/// The retained bounds of the log as the persistence actor last knew them.
///
/// LP-1: `last` is raised before any event up to it is acknowledged. So whoever subscribes and then publishes
/// starts before that publish, and whoever publishes and then reads this sees at least its own id.
#[derive(Debug, Default)]
pub struct LogPosition {
    known: AtomicBool,
    earliest: AtomicI64,
    last: AtomicI64,
}

impl LogPosition {
    /// The bounds; `None` until the store was opened for the first time.
    pub fn get(&self) -> Option<LogBounds> {
        self.known.load(Ordering::Acquire).then(|| LogBounds {
            earliest: self.earliest.load(Ordering::Acquire),
            last: self.last.load(Ordering::Acquire),
        })
    }

    /// The last committed id; 0 when it is not known.
    pub fn last(&self) -> EventId {
        self.last.load(Ordering::Acquire)
    }

    /// Takes over what was read from the store.
    pub fn set(&self, bounds: LogBounds) {
        self.earliest.store(bounds.earliest, Ordering::Release);
        self.last.fetch_max(bounds.last, Ordering::AcqRel);
        self.known.store(true, Ordering::Release);
    }

    /// Everything up to `last` is committed.
    pub fn advance(&self, last: EventId) {
        self.last.fetch_max(last, Ordering::AcqRel);
    }
}
