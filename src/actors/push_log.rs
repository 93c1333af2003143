//! To how many subscribers recent events were pushed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::event::EventId;

/// Counts for the newest events of this process. All shards share it, and add to it once for each topic and event.
#[derive(Debug)]
pub struct PushLog(Box<[AtomicU64]>);

impl Default for PushLog {
    fn default() -> Self {
        Self((0..Self::EVENTS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl PushLog {
    /// Events that are remembered.
    pub const EVENTS: usize = 16_384;

    /// The event was queued for so many more subscribers.
    pub fn add(&self, id: EventId, pushes: u32) {
        let (slot, mark) = (self.slot(id), mark(id));
        let add = |seen: u64| match (seen >> 32).cmp(&mark) {
            // The slot belongs to a later event already.
            std::cmp::Ordering::Greater => None,
            std::cmp::Ordering::Equal => Some(seen.saturating_add(u64::from(pushes)).min(mark << 32 | 0xffff_ffff)),
            std::cmp::Ordering::Less => Some(mark << 32 | u64::from(pushes)),
        };
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// For how many subscribers the event was queued; `None` if it is not remembered, or was queued for nobody.
    pub fn get(&self, id: EventId) -> Option<u32> {
        let seen = self.slot(id).load(Ordering::Relaxed);
        (seen >> 32 == mark(id)).then_some(seen as u32)
    }

    fn slot(&self, id: EventId) -> &AtomicU64 {
        &self.0[id.rem_euclid(Self::EVENTS as EventId) as usize]
    }
}

/// Tells the events of one slot apart, and which one is later. It wraps around after 2³².
fn mark(id: EventId) -> u64 {
    (id / PushLog::EVENTS as EventId + 1) as u64 & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_events_are_remembered() {
        let log = PushLog::default();
        log.add(5, 3);
        log.add(5, 4);
        assert_eq!((log.get(5), log.get(6)), (Some(7), None));
        let later = 5 + PushLog::EVENTS as EventId;
        log.add(later, 1);
        log.add(5, 9);
        assert_eq!((log.get(5), log.get(later)), (None, Some(1)));
    }
}
