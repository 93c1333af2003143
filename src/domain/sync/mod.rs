//! The state of services: whether each of them has the entities that it keeps a copy of, and how it gets them again.
//!
//! - *SY-1* No false alarm: a key is judged only when nothing of it is on its way to the service, so that whatever is
//!   found then is a difference that lasts.
//! - *SY-2* A difference of any kind is found, whatever the service says that it has applied: all keys are compared,
//!   by their digests at least.

mod check;
mod judge;
mod repair;
mod standing;
mod type_sync;

pub use self::check::{CheckNeed, Difference, MAX_HELD, TheirDigest};
pub use self::judge::{Asked, Compared, Current, Facts};
pub use self::repair::{Repair, Repaired};
pub use self::standing::{Ended, Happened, Standing, SyncPolicy};
pub use self::type_sync::{Need, TypeSync};
use super::event::Timestamp;

/// One moment on two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The time of day.
    pub day: Timestamp,
    /// By a clock that only counts.
    pub steady: Timestamp,
}

/// How far a service agrees with the entities of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncState {
    /// It was not compared yet, or the comparison has failed.
    #[default]
    Unknown,
    /// It is to be compared once what it has missed is delivered.
    CatchingUp,
    /// The last comparison has found no difference.
    Synced,
    /// The last comparison has found differences.
    Diverged,
}

impl SyncState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::CatchingUp, Self::Synced, Self::Diverged];

    /// The name on the wire and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::CatchingUp => "catching_up",
            Self::Synced => "synced",
            Self::Diverged => "diverged",
        }
    }

    /// Reads the name; unknown names count as unknown.
    pub(crate) fn from_store(name: &str) -> Self {
        Self::ALL.into_iter().find(|state| state.as_str() == name).unwrap_or_default()
    }
}

/// How an entity of a service differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The service does not have it.
    Missing,
    /// The service has an earlier version.
    Stale,
    /// The service has it, and it was deleted or never here.
    Extra,
    /// The service has a later version than there is.
    Ahead,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Missing, Self::Stale, Self::Extra, Self::Ahead];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Stale => "stale",
            Self::Extra => "extra",
            Self::Ahead => "ahead",
        }
    }
}

/// How many differences there are of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts([u64; Kind::ALL.len()]);

impl Counts {
    pub fn of(self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    /// Counts so many more.
    pub fn add(&mut self, kind: Kind, count: u64) {
        self.0[kind as usize] += count;
    }

    /// Counts so many less.
    pub fn remove(&mut self, kind: Kind, count: u64) {
        self.0[kind as usize] = self.of(kind).saturating_sub(count);
    }

    pub fn total(self) -> u64 {
        self.0.iter().sum()
    }
}

/// What a node that checks a service is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Compare the service; after what is under way.
    Check,
    /// Compare it, and repair what differs, whatever is configured. What is ahead only if that is said.
    Repair { ahead: bool },
    /// End the check or the repairs under way.
    Cancel,
    /// The breaker of the service has closed after an outage: compare it once its backlog is through.
    Recovered,
}

#[cfg(test)]
mod tests;
