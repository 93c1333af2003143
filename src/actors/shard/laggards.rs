//! The subscribers that catch up, and wait neither for their own queue nor for the store.

use std::collections::VecDeque;

/// Subscribers that are served in one turn.
const SERVED_PER_TURN: usize = 8;

/// See the module. The key of a subscriber that has gone may belong to another by now, which is then looked at in vain.
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

    /// Takes the subscribers that waited for the next batch.
    pub fn take_early(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.early)
    }

    /// The subscriber waits for room in the queues of all connections.
    pub fn add_without_room(&mut self, key: usize) {
        self.without_room.push_back(key);
    }

    /// One step for each subscriber that may be served in this turn.
    pub fn turn() -> std::ops::Range<usize> {
        0..SERVED_PER_TURN
    }

    /// Takes the subscriber that has waited for room longest.
    pub fn next_without_room(&mut self) -> Option<usize> {
        self.without_room.pop_front()
    }

    /// Whether another turn is to be scheduled. One is due at a time.
    pub fn begin_turn(&mut self) -> bool {
        !std::mem::replace(&mut self.is_turn_due, true)
    }

    /// The turn that was due has begun.
    pub fn end_turn(&mut self) {
        self.is_turn_due = false;
    }
}
