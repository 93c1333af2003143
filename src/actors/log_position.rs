//! Which log it is and where it ends, for all actors and endpoints of this node.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::domain::event::{EventId, LogBounds};
use crate::domain::log::{LogId, Seen};
use crate::domain::secret::Secret;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::subscription::Start;
use crate::storage::Reader;

/// The retained bounds of the log, as persistence last knew them.
///
/// LP-1: `last` is raised before any event up to it is acknowledged. So a subscription that precedes a publish begins
/// before its event, and whoever reads `last` after a publish sees at least the id of its event.
#[derive(Debug, Default)]
pub struct LogPosition {
    known: AtomicBool,
    earliest: AtomicI64,
    last: AtomicI64,
    /// Written when the store is opened, and read once for each request or delivery.
    log: RwLock<Option<LogId>>,
    /// What only the nodes on the store know; empty until the store was opened for the first time.
    key: RwLock<Secret>,
    /// The newest event at the last look at the store, for a writer that replaces a failed one.
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

    /// The bounds, or the answer to requests until the store was opened for the first time.
    pub fn bounds(&self) -> Result<LogBounds, ApiError> {
        self.get().ok_or_else(|| ApiError::transient(ErrorCode::StoreUnavailable, "the store has not been opened yet"))
    }

    /// The last committed id; 0 if it is not known.
    pub fn last(&self) -> EventId {
        self.last.load(Ordering::Acquire)
    }

    /// The identity of the log; `None` until the store was opened for the first time. Together with it an event id is
    /// unique among all logs.
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

    /// What only the nodes on the store know; empty until the store was opened for the first time.
    pub fn key(&self) -> Secret {
        self.key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The nodes on the store know this.
    pub fn set_key(&self, key: &Secret) {
        if !self.key().matches(key.expose()) {
            *self.key.write().unwrap_or_else(PoisonError::into_inner) = key.clone();
        }
    }

    /// The newest event, as of a second ago at most.
    pub fn seen(&self) -> Option<Seen> {
        *self.seen.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest event that the writer has seen.
    pub fn set_seen(&self, seen: Option<Seen>) {
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// Takes the bounds that were read from the store.
    pub fn set(&self, bounds: LogBounds) {
        self.earliest.store(bounds.earliest, Ordering::Release);
        self.last.fetch_max(bounds.last, Ordering::AcqRel);
        self.known.store(true, Ordering::Release);
    }

    /// The end of the log for a subscription that begins at `start`: `known`, or, if `start` lies beyond it, what the
    /// store says. A subscriber that comes from another node may be ahead of this one. An error while the store cannot
    /// be read: without it nobody knows whether the subscriber misses anything.
    pub async fn end_for(&self, start: Start, known: EventId, reader: &Reader) -> Result<EventId, ApiError> {
        if !matches!(start, Start::After(id) if id > known) {
            return Ok(known);
        }
        self.set(reader.bounds().await?);
        Ok(self.last())
    }

    /// Everything up to `last` is committed.
    pub fn advance(&self, last: EventId) {
        self.last.fetch_max(last, Ordering::AcqRel);
    }
}
