//! What has come by a way that keeps nothing, and waits to be stored: as much of it as memory may take.

use std::collections::VecDeque;

/// Messages in the order in which they came.
#[derive(Debug, Default)]
pub struct Inbox {
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Inbox {
    /// Messages that may wait.
    pub const MAX_MESSAGES: usize = 10_000;
    /// Bytes that they may have together. One message fits in any case.
    pub const MAX_BYTES: usize = 16 << 20;

    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Takes a message, unless there is no room: then it is lost.
    pub fn push(&mut self, message: Vec<u8>) -> bool {
        let fits = self.messages.len() < Self::MAX_MESSAGES && self.bytes + message.len() <= Self::MAX_BYTES;
        if fits || self.is_empty() {
            self.bytes += message.len();
            self.messages.push_back(message);
            return true;
        }
        false
    }

    /// The next messages: at most `max`, and no more bytes than `max_bytes` unless it is one.
    pub fn take(&mut self, max: usize, max_bytes: usize) -> Vec<Vec<u8>> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.messages.front().filter(|next| taken.is_empty() || bytes + next.len() <= max_bytes)
            && taken.len() < max
        {
            bytes += next.len();
            taken.extend(self.messages.pop_front());
        }
        self.bytes -= bytes;
        taken
    }

    /// Forgets all; how many they were.
    pub fn clear(&mut self) -> usize {
        let lost = self.messages.len();
        *self = Self::default();
        lost
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever comes and is taken: the order is kept, nothing is lost but what did not fit, and memory is bounded.
        #[test]
        fn order_and_bounds_are_kept(
            steps in prop::collection::vec((0..3_000_000_usize, 0..4_usize, 0..5_000_000_usize), 1..80),
        ) {
            let mut inbox = Inbox::default();
            let (mut expected, mut taken) = (VecDeque::new(), Vec::new());
            for (at, (size, max, max_bytes)) in steps.into_iter().enumerate() {
                let message = vec![at as u8; size];
                let had_room = inbox.is_empty() || inbox.bytes + size <= Inbox::MAX_BYTES;
                prop_assert_eq!(inbox.push(message), had_room);
                expected.extend(had_room.then_some((at as u8, size)));
                let batch = inbox.take(max, max_bytes);
                prop_assert!(batch.len() <= max);
                prop_assert!(batch.len() <= 1 || batch.iter().map(Vec::len).sum::<usize>() <= max_bytes);
                taken.extend(batch.into_iter().map(|m| (m.first().copied().unwrap_or(at as u8), m.len())));
                prop_assert_eq!(inbox.bytes, inbox.messages.iter().map(Vec::len).sum::<usize>());
            }
            let left = inbox.take(usize::MAX, usize::MAX).len();
            prop_assert_eq!(taken.len() + left, expected.len());
            let sizes = |of: &[(u8, usize)]| of.iter().map(|(_, size)| *size).collect::<Vec<_>>();
            expected.make_contiguous();
            prop_assert_eq!(sizes(&taken), sizes(&expected.as_slices().0[..taken.len()]));
        }
    }

    #[test]
    fn there_are_not_too_many() {
        let mut inbox = Inbox::default();
        let fit = (0..Inbox::MAX_MESSAGES + 3).filter(|_| inbox.push(Vec::new())).count();
        assert_eq!((fit, inbox.clear(), inbox.is_empty()), (Inbox::MAX_MESSAGES, Inbox::MAX_MESSAGES, true));
    }
}
