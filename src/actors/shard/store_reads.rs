//! Who of a shard reads the store: so many seats at a time, and the shard itself where it has missed a batch.

use std::collections::VecDeque;

use super::messages::Seated;

/// Pages being read for seats of one shard at once; the others wait their turn.
const MAX_READERS: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub struct StoreReads {
    running: usize,
    waiting: VecDeque<Seated>,
    is_filling: bool,
}

impl StoreReads {
    /// Whether the seat may read now; if not, it waits for its [turn](Self::next).
    pub fn begin(&mut self, seated: Seated) -> bool {
        let may = self.running < MAX_READERS;
        if may {
            self.running += 1;
        } else {
            self.waiting.push_back(seated);
        }
        may
    }

    /// A seat has read its page.
    pub fn end(&mut self) {
        self.running -= 1;
    }

    /// The seat that has waited longest, if one may read now.
    pub fn next(&mut self) -> Option<Seated> {
        if self.running >= MAX_READERS {
            return None;
        }
        self.waiting.pop_front()
    }

    /// The seat is gone: it waits no more.
    pub fn forget(&mut self, seated: Seated) {
        self.waiting.retain(|waiting| *waiting != seated);
    }

    /// Whether the shard may read what it has missed now: it reads one page at a time.
    pub fn begin_filling(&mut self) -> bool {
        !std::mem::replace(&mut self.is_filling, true)
    }

    /// The shard has read its page.
    pub fn end_filling(&mut self) {
        self.is_filling = false;
    }
}
