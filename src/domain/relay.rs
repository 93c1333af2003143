//! What becomes of batches that other nodes have committed, as they come: out of order, twice, or not at all.
//!
//! - *RL-1* A batch is taken only if it continues what is known of the log. For everything else the store is read.

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::{EventId, Timestamp};

/// The ids of a batch: those after `prev`, up to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The last id before the batch.
    pub prev: EventId,
    pub last: EventId,
}

impl Span {
    /// None if it is the span of no batch.
    pub fn new(prev: EventId, last: EventId) -> Option<Self> {
        (0 <= prev && prev < last).then_some(Self { prev, last })
    }
}

/// What becomes of a batch that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is known.
    Known,
    /// It is kept until what is before it is known, which may be so already: see [`Window::next`].
    Kept,
    /// It does not continue what is known. The store has what is missing, and this batch.
    Gap,
}

/// Batches that came before what precedes them: two nodes that commit in turn are not told of in order.
#[derive(Debug)]
pub struct Window<T>(BTreeMap<EventId, Early<T>>);

#[derive(Debug)]
struct Early<T> {
    last: EventId,
    since: Timestamp,
    batch: T,
}

impl<T> Window<T> {
    /// Batches that are kept at most.
    pub const MAX: usize = 64;
    /// For how long what precedes a batch is waited for.
    pub const PATIENCE: Duration = Duration::from_millis(5);

    /// A batch has come, and everything up to `known` is known. After a gap nothing is kept.
    pub fn offer(&mut self, known: EventId, span: Span, batch: T, now: Timestamp) -> Verdict {
        let Span { prev, last } = span;
        if last <= known {
            return Verdict::Known;
        }
        if prev < known || self.0.len() >= Self::MAX {
            self.0.clear();
            return Verdict::Gap;
        }
        self.0.insert(prev, Early { last, since: now, batch });
        Verdict::Kept
    }

    /// The batch that continues the log after `known` (RL-1). Those before it are forgotten.
    pub fn next(&mut self, known: EventId) -> Option<(Span, T)> {
        loop {
            let first = self.0.first_entry().filter(|first| *first.key() <= known)?;
            let (prev, Early { last, batch, .. }) = first.remove_entry();
            if prev == known {
                return Some((Span { prev, last }, batch));
            }
        }
    }

    /// Whether something waits for what precedes it.
    pub fn is_waiting(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether something has waited for too long. Then all is forgotten, since the store has it.
    pub fn expire(&mut self, now: Timestamp) -> bool {
        let is_late = self.0.values().any(|early| now.since(early.since) >= Self::PATIENCE);
        if is_late {
            self.0.clear();
        }
        is_late
    }
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp(0);

    fn span(prev: EventId, last: EventId) -> Span {
        Span::new(prev, last).expect("a span")
    }

    #[test]
    fn what_precedes_a_batch_is_waited_for_a_while() {
        let mut window = Window::default();
        assert_eq!(window.offer(1, span(3, 5), 'b', NOW), Verdict::Kept);
        assert_eq!((window.next(1), window.is_waiting()), (None, true));
        assert_eq!(window.offer(1, span(1, 3), 'a', NOW), Verdict::Kept);
        assert_eq!(window.next(1), Some((span(1, 3), 'a')));
        assert_eq!(window.next(3), Some((span(3, 5), 'b')));
        assert_eq!(window.offer(5, span(3, 5), 'b', NOW), Verdict::Known);
        assert_eq!(window.offer(5, span(4, 6), 'c', NOW), Verdict::Gap, "half of it is known");
        assert_eq!(window.offer(5, span(8, 9), 'd', NOW), Verdict::Kept);
        assert!(!window.expire(NOW.plus(Duration::from_millis(4))));
        assert!(window.expire(NOW.plus(Duration::from_millis(5))) && !window.is_waiting());
        for prev in 0..Window::<i64>::MAX as i64 {
            assert_eq!(window.offer(5, span(10 + prev, 11 + prev), 'e', NOW), Verdict::Kept);
        }
        assert_eq!(window.offer(5, span(100, 101), 'f', NOW), Verdict::Gap, "bounded");
        assert!(!window.is_waiting() && Span::new(5, 5).is_none() && Span::new(-1, 5).is_none());
    }

    /// What happens to a node that follows the batches of a log.
    #[derive(Debug, Clone)]
    enum Step {
        /// The batch of this number comes, for the first time or again.
        Comes(usize),
        /// The store is read up to the end of the batch of this number.
        Looks(usize),
        /// A batch comes that nobody can have sent.
        Odd(EventId, EventId),
    }

    proptest! {
        /// Each event is taken at most once, in order, and only as the batch that continues what is known. What came
        /// in a chain from what is known is taken without a look.
        #[test]
        fn only_what_continues_the_log_is_taken(
            widths in prop::collection::vec(1..5_i64, 1..30),
            steps in prop::collection::vec(
                prop_oneof![
                    8 => (0..30_usize).prop_map(Step::Comes),
                    1 => (0..30_usize).prop_map(Step::Looks),
                    1 => (0..90_i64, 1..9_i64).prop_map(|(prev, width)| Step::Odd(prev, width)),
                ],
                1..200,
            ),
        ) {
            let mut ends = vec![0];
            widths.iter().for_each(|width| ends.push(ends[ends.len() - 1] + width));
            let (mut window, mut known) = (Window::default(), 0);
            for step in steps {
                let came = match step {
                    Step::Looks(at) => {
                        known = known.max(ends[at % ends.len()]);
                        None
                    }
                    Step::Comes(at) => Some(span(ends[at % widths.len()], ends[at % widths.len() + 1])),
                    Step::Odd(prev, width) => Some(span(prev, prev + width)),
                };
                let verdict = came.map(|came| (came, window.offer(known, came, (), NOW)));
                if let Some((came, verdict)) = verdict {
                    let expected = match () {
                        () if came.last <= known => Verdict::Known,
                        () if came.prev < known => Verdict::Gap,
                        () => Verdict::Kept,
                    };
                    prop_assert_eq!(verdict, expected);
                }
                while let Some((taken, ())) = window.next(known) {
                    prop_assert_eq!(taken.prev, known);
                    known = taken.last;
                }
                if let Some((came, Verdict::Kept)) = verdict {
                    prop_assert!(came.prev > known || came.last <= known, "{came:?} continues {known}");
                }
                prop_assert!(window.0.keys().all(|prev| *prev > known));
            }
        }
    }
}
