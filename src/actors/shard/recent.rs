//! The newest events in memory, for subscribers that fall behind a little or reconnect.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::domain::event::EventId;
use crate::protocol::log_batch::{LogBatch, LogEvent};

/// The newest part of the log up to the shard's head, without gaps. The shards share the batches.
#[derive(Debug)]
pub struct RecentEvents {
    batches: VecDeque<(Arc<LogBatch>, usize)>,
    /// Every event after this one, up to the head, is here.
    floor: EventId,
    bytes: usize,
    limit: usize,
}

impl RecentEvents {
    /// Begins after `head`, with room for `limit` bytes. At least the newest batch is kept.
    pub fn new(head: EventId, limit: usize) -> Self {
        Self { batches: VecDeque::new(), floor: head, bytes: 0, limit }
    }

    /// Adds the next batch.
    pub fn push(&mut self, batch: Arc<LogBatch>) {
        debug_assert_eq!(batch.prev, self.batches.back().map_or(self.floor, |(b, _)| b.last()));
        let memory = batch.memory();
        self.bytes += memory;
        self.batches.push_back((batch, memory));
        while self.bytes > self.limit && self.batches.len() > 1 {
            if let Some((oldest, memory)) = self.batches.pop_front() {
                self.bytes -= memory;
                self.floor = oldest.last();
            }
        }
    }

    /// Drops everything, and begins anew after `head`.
    pub fn restart(&mut self, head: EventId) {
        self.batches.clear();
        self.bytes = 0;
        self.floor = head;
    }

    /// Every event after this one is here.
    pub fn floor(&self) -> EventId {
        self.floor
    }

    /// The approximate memory in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The events after `position`, in order; `None` if some of them are not here any more.
    pub fn after(&self, position: EventId) -> Option<impl Iterator<Item = &LogEvent>> {
        if position < self.floor {
            return None;
        }
        let first = self.batches.partition_point(|(batch, _)| batch.last() <= position);
        let rest = self.batches.range(first..).flat_map(|(batch, _)| &batch.events);
        Some(rest.skip_while(move |e| e.event.id <= position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::Event;

    fn batch(ids: std::ops::RangeInclusive<EventId>) -> Arc<LogBatch> {
        let prev = ids.start() - 1;
        let event = |id| Event::plain(id, "a", "1");
        LogBatch::new(prev, ids.map(event).collect())
    }

    fn after(recent: &RecentEvents, position: EventId) -> Option<Vec<EventId>> {
        recent.after(position).map(|events| events.map(|e| e.event.id).collect())
    }

    #[test]
    fn gives_everything_after_a_position_or_nothing() {
        let mut recent = RecentEvents::new(10, usize::MAX);
        assert_eq!(after(&recent, 10), Some(vec![]));
        recent.push(batch(11..=13));
        recent.push(batch(14..=14));
        assert_eq!(after(&recent, 9), None);
        assert_eq!(after(&recent, 10), Some(vec![11, 12, 13, 14]));
        assert_eq!(after(&recent, 12), Some(vec![13, 14]));
        assert_eq!(after(&recent, 14), Some(vec![]));
    }

    #[test]
    fn forgets_the_oldest_first() {
        let mut recent = RecentEvents::new(0, batch(1..=2).memory() * 2);
        for k in 0..5 {
            recent.push(batch(2 * k + 1..=2 * k + 2));
        }
        assert_eq!(recent.floor(), 6);
        assert_eq!(after(&recent, 6), Some(vec![7, 8, 9, 10]));
        assert_eq!(after(&recent, 5), None);
    }
}
