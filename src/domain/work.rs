//! What the client of a service is driven by.

use super::event::EventId;

/// Names one unit of work for a service. Deliveries of one ordering key are made in the order of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkId {
    /// The delivery of this event, in the order of the log.
    Delivery(EventId),
    /// A request that somebody in this process waits for, in the order of asking. The store does not know it.
    Ask(u64),
}

impl WorkId {
    /// Whether only memory has it: it may never come again, so nothing waits for it to come again.
    pub fn is_ask(self) -> bool {
        matches!(self, Self::Ask(_))
    }
}
