//! The subscribers of a shard that are not live, and wait for something other than their own queue or the store.

use std::collections::VecDeque;

/// Subscribers without room that are served in one turn.
const SERVED_PER_TURN: usize = 8;

/// See the module. A key may be that of another subscriber by now: whoever is there is looked at, which does no harm.
#[derive(Debug, Default)]
pub struct Laggards {
    /// They begin with an event that is committed and not routed yet.
    early: Vec<usize>,
    /// They found the queues of all connections together full.
    without_room: VecDeque<usize>,
    is_turn_due: bool,
}

impl Laggards {
    /// The subscriber waits for the next batch.
    pub fn add_early(&mut self, key: usize) {
        self.early.push(key);
    }

    /// Those that waited for the next batch.
    pub fn take_early(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.early)
    }

    /// The subscriber waits for room in the queues of all connections.
    pub fn add_without_room(&mut self, key: usize) {
        self.without_room.push_back(key);
    }

    /// The subscribers that are served in this turn, at most; each with [`Self::next_without_room`].
    pub fn turn() -> std::ops::Range<usize> {
        0..SERVED_PER_TURN
    }

    /// The subscriber that has waited for room longest.
    pub fn next_without_room(&mut self) -> Option<usize> {
        self.without_room.pop_front()
    }

    /// Whether another turn is to be arranged for: one is due at a time.
    pub fn begin_turn(&mut self) -> bool {
        !std::mem::replace(&mut self.is_turn_due, true)
    }

    /// The turn that was due has come.
    pub fn end_turn(&mut self) {
        self.is_turn_due = false;
    }
}
