//! Following the log: what a follower has missed, and when it stores how far it has come.
//!
//! - *FO-1* A follower sees every event, in the order of ids: it goes on from the position that is stored with what it
//!   has made of the events before. What retention has removed before that is counted.

use std::time::Duration;

use super::event::{EventId, Timestamp};
use super::{mirror, saga};

/// For how long a position is kept in memory only, if nothing else is stored with it. What was followed meanwhile is
/// followed again after a crash.
pub const STORE_INTERVAL: Duration = Duration::from_millis(100);

/// A follower whose reading retention waits for, within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    Mirror,
    Orchestrator,
}

impl Awaited {
    pub const ALL: [Self; 2] = [Self::Mirror, Self::Orchestrator];

    /// The name of its position.
    pub fn position(self) -> &'static str {
        match self {
            Self::Mirror => mirror::FOLLOWER,
            Self::Orchestrator => saga::FOLLOWER,
        }
    }

    /// Its name for operators.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Orchestrator => "orchestrator",
        }
    }
}

/// How far a follower has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    /// Everything up to this event is done with.
    pub after: EventId,
    stored: EventId,
    stored_at: Timestamp,
}

impl Course {
    /// From `after` on, which is stored.
    pub fn new(after: EventId, now: Timestamp) -> Self {
        Self { after, stored: after, stored_at: now }
    }

    /// Whether the position is to be stored though nothing else is.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.is_ahead() && now.since(self.stored_at) >= STORE_INTERVAL
    }

    /// Whether it has come further than is stored.
    pub fn is_ahead(&self) -> bool {
        self.after != self.stored
    }

    /// The position is stored.
    pub fn stored(&mut self, now: Timestamp) {
        (self.stored, self.stored_at) = (self.after, now);
    }
}

/// After which event a follower goes on that has come up to `stored`, in a log that ends with `last`. A new one begins at
/// the end; so does one that is ahead, because the log was set back.
pub fn begin(stored: Option<EventId>, last: EventId) -> EventId {
    stored.map_or(last, |stored| stored.min(last))
}

/// How many of the ids after `after` and up to `through` were removed by retention before they were read: the log begins
/// with `earliest` by now, and `found` of those before that were read.
pub fn missed(after: EventId, through: EventId, earliest: EventId, found: usize) -> u64 {
    let removed = (earliest - 1).min(through).saturating_sub(after);
    u64::try_from(removed).unwrap_or(0).saturating_sub(found as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_position_is_stored_at_intervals() {
        let at = |ms: i64| Timestamp(ms * 1_000);
        let mut course = Course::new(7, at(0));
        assert!(!course.is_due(at(1_000)), "it is where it was");
        course.after = 9;
        assert!(course.is_ahead() && !course.is_due(at(99)) && course.is_due(at(100)));
        course.stored(at(100));
        assert!(!course.is_ahead() && !course.is_due(at(1_000)));
        course.after = 10;
        assert!(course.is_due(at(1_000)), "at once if nothing was stored for long");
    }

    #[test]
    fn it_goes_on_from_its_position_within_the_log() {
        assert_eq!([begin(None, 7), begin(Some(0), 7), begin(Some(7), 7), begin(Some(9), 7)], [7, 0, 7, 7]);
    }

    proptest! {
        /// A log of dense ids, trimmed before the read or amid it: what was not read of the range is what is counted.
        #[test]
        fn what_retention_has_removed_is_counted(
            after in 0..50_i64, ids in 0..50_i64, trimmed in 0..120_i64, seen in any::<u64>(),
        ) {
            let (through, earliest) = (after + ids, trimmed + 1);
            // Of those that are removed now, some may have been read before.
            let read: Vec<i64> =
                (after + 1..=through).filter(|id| *id >= earliest || seen >> (id % 64) & 1 == 1).collect();
            let found = read.iter().filter(|id| **id < earliest).count();
            prop_assert_eq!(missed(after, through, earliest, found), ids as u64 - read.len() as u64);
        }
    }
}
