//! The types of a durable subscription's state machine.

use std::time::Duration;

use crate::domain::event::EventId;

/// How events are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerPolicy {
    /// How long a member may take to acknowledge.
    pub ack_wait: Duration,
    /// Most events that are with all members together.
    pub max_in_flight: u32,
    /// Deliveries after which an event is dead; 0 for any number.
    pub max_deliver: u32,
}

/// The number of a member, never used for another.
pub type MemberId = u64;

/// What keeps a durable subscription from giving more to its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    /// As many events are with members as the policy allows.
    MaxInFlight,
    /// The unacknowledged events together have as many bytes as the configuration allows.
    MaxUnackedBytes,
    /// So many later events are settled that the oldest unsettled one has to be settled first.
    MaxSettled,
}

impl HeldBy {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxInFlight => "max_in_flight",
            Self::MaxUnackedBytes => "max_unacked_bytes",
            Self::MaxSettled => "max_settled",
        }
    }
}

/// An event for a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery<T> {
    pub member: MemberId,
    pub id: EventId,
    pub item: T,
    /// The number of this delivery of the event, from 1.
    pub delivery: u32,
}

/// What an acknowledgement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    Now,
    /// It was settled already.
    Before,
    /// No member was given this event.
    Unknown,
}

/// How far an event has come at a durable subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is to be delivered, or to be delivered again.
    Waiting,
    /// It is with a member.
    InFlight,
    /// Nothing is left to do: it was acknowledged, is dead, or lies before the beginning.
    Settled,
}

impl Fate {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::InFlight => "in_flight",
            Self::Settled => "settled",
        }
    }
}
