//! How far a shard has routed the log, and the newest events of it.

use std::sync::Arc;

use super::recent::RecentEvents;
use crate::domain::event::EventId;
use crate::domain::log::LogId;
use crate::protocol::log_batch::LogBatch;

/// See the module.
#[derive(Debug)]
pub struct Head {
    /// Everything up to here has been routed. `None` until the log is known.
    position: Option<EventId>,
    /// Where that was at the last tick.
    at_last_tick: Option<EventId>,
    /// Which log it is, as the subscribers were told; learned with the first tick.
    log: Option<LogId>,
    recent: RecentEvents,
}

impl Head {
    /// At the end of the log, if that is known, with room for `recent_bytes` of recent events.
    pub fn new(end: Option<EventId>, recent_bytes: usize) -> Self {
        let recent = RecentEvents::new(end.unwrap_or_default(), recent_bytes);
        Self { position: end, at_last_tick: None, log: None, recent }
    }

    /// Everything up to here has been routed; 0 until the log is known.
    pub fn position(&self) -> EventId {
        self.position.unwrap_or_default()
    }

    /// The same; `None` until the log is known.
    pub fn known(&self) -> Option<EventId> {
        self.position
    }

    /// The position; `end` from now on if nothing was known of the log so far.
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

    /// Goes on after `id`, whatever is before it.
    pub fn skip_to(&mut self, id: EventId) {
        self.position = Some(id);
        self.recent.restart(id);
    }

    /// The newest events up to the position.
    pub fn recent(&self) -> &RecentEvents {
        &self.recent
    }

    /// Whether the position has stood still since the last tick although the log goes on to `end`. Then a hint was
    /// missed, or a read has failed.
    pub fn is_stuck(&self, end: EventId) -> bool {
        self.position == self.at_last_tick && self.position.is_some_and(|position| end > position)
    }

    /// A tick is over.
    pub fn end_tick(&mut self) {
        self.at_last_tick = self.position;
    }

    /// Whether the log is another one than the subscribers were told.
    pub fn is_other_log(&mut self, log: Option<LogId>) -> bool {
        std::mem::replace(&mut self.log, log).is_some_and(|before| Some(before) != log)
    }
}
