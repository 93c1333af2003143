//! Which log it is and where it ends, for everybody on this node.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::domain::event::{EventId, LogBounds};
use crate::domain::log::{LogId, Seen};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::subscription::Start;
use crate::storage::Reader;

/// The retained bounds of the log as the persistence actor last knew them.
///
/// LP-1: `last` is raised before any event up to it is acknowledged. So whoever subscribes and then publishes
/// starts before that publish, and whoever publishes and then reads this sees at least its own id.
#[derive(Debug, Default)]
pub struct LogPosition {
    known: AtomicBool,
    earliest: AtomicI64,
    last: AtomicI64,
    /// Written when the store is opened; read once for a request or delivery.
    log: RwLock<Option<LogId>>,
    /// As of the last look at the store: for a writer that takes over from one that failed.
    seen: RwLock<Option<Seen>>,
}

impl LogPosition {
    /// The bounds; `None` until the store was opened for the first time.
    pub fn get(&self) -> Option<LogBounds> {
        self.known.load(Ordering::Acquire).then(|| LogBounds {
            earliest: self.earliest.load(Ordering::Acquire),
            last: self.last.load(Ordering::Acquire),
        })
    }

    /// The bounds, or what is answered until the store was opened for the first time.
    pub fn bounds(&self) -> Result<LogBounds, ApiError> {
        self.get().ok_or_else(|| ApiError::transient(ErrorCode::StoreUnavailable, "the store has not been opened yet"))
    }

    /// The last committed id; 0 when it is not known.
    pub fn last(&self) -> EventId {
        self.last.load(Ordering::Acquire)
    }

    /// Which log it is; `None` until the store was opened for the first time. With an event's id it names the event as
    /// no other log does.
    pub fn log_id(&self) -> Option<LogId> {
        *self.log.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store has this log.
    pub fn set_log_id(&self, log: LogId) {
        if self.log_id() == Some(log) {
            return;
        }
        *self.log.write().unwrap_or_else(PoisonError::into_inner) = Some(log);
    }

    /// The newest event, a second ago at most.
    pub fn seen(&self) -> Option<Seen> {
        *self.seen.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer has seen this of the log.
    pub fn set_seen(&self, seen: Option<Seen>) {
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// Takes over what was read from the store.
    pub fn set(&self, bounds: LogBounds) {
        self.earliest.store(bounds.earliest, Ordering::Release);
        self.last.fetch_max(bounds.last, Ordering::AcqRel);
        self.known.store(true, Ordering::Release);
    }

    /// Where the log ends for a subscription that begins at `start`: at `known`, or, if `start` lies beyond that, where the
    /// store says. A subscriber that comes from another node may be ahead of this one.
    pub async fn end_for(&self, start: Start, known: EventId, reader: &Reader) -> EventId {
        if !matches!(start, Start::After(id) if id > known) {
            return known;
        }
        match reader.bounds().await {
            Ok(bounds) => self.set(bounds),
            Err(error) => log::warn!(error:%; "the end of the log cannot be read"),
        }
        self.last()
    }

    /// Everything up to `last` is committed.
    pub fn advance(&self, last: EventId) {
        self.last.fetch_max(last, Ordering::AcqRel);
    }
}
