//! What the client of a service is driven by.

use super::event::EventId;

/// Names one unit of work for a service. Work of one ordering key is done in the order of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkId {
    /// The delivery of this event, in the order of the log.
    Delivery(EventId),
}
