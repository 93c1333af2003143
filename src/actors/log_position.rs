//! Which log it is and where it ends, for all actors and endpoints of this node.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwapOption;

use crate::domain::event::{EventId, LogBounds};
use crate::domain::log::{Gap, LogId, Seen};
use crate::domain::relay::Span;
use crate::domain::secret::Secret;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::relay::RelayKey;
use crate::protocol::subscription::Start;
use crate::storage::{Reader, Writer};

/// The retained bounds of the log, as persistence last knew them.
///
/// LP-1: `last` is raised before any event up to it is acknowledged. So a subscription that precedes a publish begins
/// before its event, and whoever reads `last` after a publish sees at least the id of its event.
#[derive(Default)]
pub struct LogPosition {
    known: AtomicBool,
    earliest: AtomicI64,
    last: AtomicI64,
    /// Written when the store is opened, and read once for each request or delivery.
    log: RwLock<Option<LogId>>,
    /// What only the nodes on the store know; empty until the store was opened for the first time.
    key: RwLock<Secret>,
    /// As of the present session with the store.
    relay_key: ArcSwapOption<RelayKey>,
    /// The newest event that was seen of the log, for a writer that replaces a failed one.
    seen: RwLock<Option<Seen>>,
    /// The ids that were left out, each time that the log was set back.
    gaps: RwLock<Vec<Gap>>,
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

    /// By what batches of other nodes are known; none until the store was opened for the first time.
    pub fn relay_key(&self) -> Option<Arc<RelayKey>> {
        self.relay_key.load_full()
    }

    /// Takes what the writer knows of the log and of its store.
    pub fn learn_of(&self, writer: &mut Writer) {
        writer.log().into_iter().for_each(|log| self.set_log_id(log));
        writer.seen().into_iter().for_each(|seen| self.saw(seen));
        self.set_gaps(writer.gaps());
        let (key, known) = (writer.relay_key(), self.relay_key.load());
        if key.as_ref().map(Arc::as_ptr) != known.as_ref().map(Arc::as_ptr) {
            self.set_key(writer.key());
            self.relay_key.store(key);
        }
    }

    /// The newest event that was committed by this node or shown here.
    pub fn seen(&self) -> Option<Seen> {
        *self.seen.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// This event of the log is committed. What is newer of the same log stays.
    pub fn saw(&self, seen: Seen) {
        let mut known = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        if known.is_none_or(|known| known.log != seen.log || known.last < seen.last) {
            *known = Some(seen);
        }
    }

    fn set_gaps(&self, gaps: &[Gap]) {
        if *self.gaps.read().unwrap_or_else(PoisonError::into_inner) != gaps {
            *self.gaps.write().unwrap_or_else(PoisonError::into_inner) = gaps.to_vec();
        }
    }

    /// After which event a subscription begins, and whether nothing is missing that was to come before.
    pub fn place(&self, start: Start, bounds: LogBounds, log_end: EventId) -> (EventId, bool) {
        let (from, is_whole) = start.place(bounds, log_end);
        let gaps = self.gaps.read().unwrap_or_else(PoisonError::into_inner);
        // What it has seen is gone.
        let is_lost = matches!(start, Start::After(id) if gaps.iter().any(|gap| gap.has(id)));
        (from, is_whole && !is_lost)
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

    /// The batch is committed; whether it continues what was known, as nobody else has said meanwhile.
    pub fn follow(&self, Span { prev, last }: Span) -> bool {
        self.last.compare_exchange(prev, last, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Everything up to `last` is committed.
    pub fn advance(&self, last: EventId) {
        self.last.fetch_max(last, Ordering::AcqRel);
    }
}
