//! The head of a shard: how far it has routed the log, and the newest events.

use std::sync::Arc;

use super::recent::RecentEvents;
use crate::domain::event::EventId;
use crate::domain::log::LogId;
use crate::protocol::log_batch::LogBatch;

/// See the module.
#[derive(Debug)]
pub struct Head {
    /// Everything up to here has been routed; `None` until the log is known.
    position: Option<EventId>,
    /// The position at the last tick.
    at_last_tick: Option<EventId>,
    /// The log, as the subscribers were told. The first tick sets it.
    log: Option<LogId>,
    recent: RecentEvents,
}

impl Head {
    /// Begins at the end of the log, if that is known. `recent_bytes` bounds the memory of recent events.
    pub fn new(end: Option<EventId>, recent_bytes: usize) -> Self {
        let recent = RecentEvents::new(end.unwrap_or_default(), recent_bytes);
        Self { position: end, at_last_tick: None, log: None, recent }
    }

    /// Everything up to here has been routed; 0 until the log is known.
    pub fn position(&self) -> EventId {
        self.position.unwrap_or_default()
    }

    /// The position; `None` until the log is known.
    pub fn known(&self) -> Option<EventId> {
        self.position
    }

    /// The position. If nothing was known of the log, it is `end` from now on.
    pub fn learn(&mut self, end: EventId) -> EventId {
        if self.position.is_none() {
            self.recent.restart(end);
        }
        *self.position.get_or_insert(end)
    }

    /// The batch, which follows the position, has been routed.
    pub fn advance(&mut self, batch: Arc<LogBatch>) {
        self.position = Some(batch.last());
        self.recent.push(batch);
    }

    /// Continues after `id`, whatever lies before it.
    pub fn skip_to(&mut self, id: EventId) {
        self.position = Some(id);
        self.recent.restart(id);
    }

    /// The newest events up to the position.
    pub fn recent(&self) -> &RecentEvents {
        &self.recent
    }

    /// Whether the position has stood still since the last tick although the log goes on to `end`. Then the shard has
    /// missed a hint, or a read has failed.
    pub fn is_stuck(&self, end: EventId) -> bool {
        self.position == self.at_last_tick && self.position.is_some_and(|position| end > position)
    }

    /// A tick has ended.
    pub fn end_tick(&mut self) {
        self.at_last_tick = self.position;
    }

    /// Whether the log is another one than the subscribers were told.
    pub fn is_other_log(&mut self, log: Option<LogId>) -> bool {
        std::mem::replace(&mut self.log, log).is_some_and(|before| Some(before) != log)
    }
}
