//! How a service is kept in step, and what is told of it.

use std::time::Duration;

use super::check::Difference;
use super::{Counts, SyncState};
use crate::domain::event::{EventId, Timestamp};

/// How a service is kept in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncPolicy {
    /// Time from one check to the next.
    pub every: Duration,
    /// How long it takes until the service has what it has changed itself.
    pub settle: Duration,
    /// Whether differences are repaired without being asked.
    pub repairs: bool,
    /// Most repairs in a second.
    pub rate: u32,
}

/// How far the service agrees, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    pub state: SyncState,
    /// The newest event that the service says it has applied.
    pub as_of: Option<EventId>,
    /// How many events the log had then after that one.
    pub lag: Option<i64>,
    pub checked_at: Option<Timestamp>,
    pub next_check_at: Option<Timestamp>,
    /// Why the last check has failed, or was not made.
    pub error: Option<String>,
    /// What the last check has found, and is not repaired.
    pub differences: Counts,
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    Diverged { counts: Counts, sample: Vec<Difference> },
    Synced { as_of: Option<EventId> },
}

/// How a check has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Synced,
    Diverged,
    /// The service has not answered as it should, or was not asked.
    Failed,
    Cancelled,
}
