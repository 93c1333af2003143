//! The reads of a shard: a few subscribers at a time, and the shard itself after it has missed a batch.

use std::collections::VecDeque;

use super::messages::Place;

/// Pages that are read at once for the subscribers of one shard. Other subscribers wait.
const MAX_READERS: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub struct StoreReads {
    running: usize,
    waiting: VecDeque<Place>,
    is_filling: bool,
}

impl StoreReads {
    /// Whether the subscriber may read now. If not, it waits for its [turn](Self::next).
    pub fn begin(&mut self, place: Place) -> bool {
        let may = self.running < MAX_READERS;
        if may {
            self.running += 1;
        } else {
            self.waiting.push_back(place);
        }
        may
    }

    /// A subscriber has read its page.
    pub fn end(&mut self) {
        self.running -= 1;
    }

    /// The subscriber that has waited longest, if one may read now.
    pub fn next(&mut self) -> Option<Place> {
        if self.running >= MAX_READERS {
            return None;
        }
        self.waiting.pop_front()
    }

    /// The subscriber has gone, and waits no more.
    pub fn remove(&mut self, place: Place) {
        self.waiting.retain(|waiting| *waiting != place);
    }

    /// Whether the shard may read what it has missed. It reads one page at a time.
    pub fn begin_filling(&mut self) -> bool {
        !std::mem::replace(&mut self.is_filling, true)
    }

    /// The shard has read its page.
    pub fn end_filling(&mut self) {
        self.is_filling = false;
    }
}
