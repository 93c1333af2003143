//! Writes on their way to the store.
//!
//! - *PW-1* What was pushed is stored in that order, or handed back; nothing is lost, and nothing that was confirmed is
//!   written again.
//! - *PW-2* One batch is under way at a time: what is pushed meanwhile shares the next.

/// The writes of one owner: collected, under way, put back if they were not stored.
#[derive(Debug)]
pub struct PendingWrites<T> {
    collected: Vec<T>,
    stage: Stage<T>,
}

#[derive(Debug)]
enum Stage<T> {
    Idle,
    UnderWay(Vec<T>),
    /// Nothing is begun until [`PendingWrites::rested`].
    Resting,
}

impl<T> Default for PendingWrites<T> {
    fn default() -> Self {
        Self { collected: Vec::new(), stage: Stage::Idle }
    }
}

impl<T> PendingWrites<T> {
    pub fn push(&mut self, write: T) {
        self.collected.push(write);
    }

    /// Whether a batch may begin.
    pub fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Whether nothing is to be written, or being written.
    pub fn is_empty(&self) -> bool {
        self.collected.is_empty() && self.under_way().is_empty()
    }

    /// All that was collected, to be written now, if there is something and nothing stands against it. It ends with
    /// [`Self::ended`] or [`Self::failed`].
    pub fn begin(&mut self) -> Option<&[T]> {
        if !self.is_idle() || self.collected.is_empty() {
            return None;
        }
        self.stage = Stage::UnderWay(std::mem::take(&mut self.collected));
        Some(self.under_way())
    }

    /// What is being written.
    pub fn under_way(&self) -> &[T] {
        if let Stage::UnderWay(batch) = &self.stage { batch } else { &[] }
    }

    /// All that is not known to be stored, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.under_way().iter().chain(&self.collected)
    }

    /// The batch under way is stored, or is no more to be written: returns it.
    pub fn ended(&mut self) -> Vec<T> {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::UnderWay(batch) => batch,
            stage @ (Stage::Idle | Stage::Resting) => {
                self.stage = stage;
                Vec::new()
            }
        }
    }

    /// The batch under way was not stored, as far as is known: it goes before what was collected since. Nothing is
    /// begun until [`Self::rested`].
    pub fn failed(&mut self) {
        let mut batch = self.ended();
        batch.append(&mut self.collected);
        self.collected = batch;
        self.rest();
    }

    /// Begins nothing until [`Self::rested`]. Does nothing while a batch is under way.
    pub fn rest(&mut self) {
        if self.is_idle() {
            self.stage = Stage::Resting;
        }
    }

    pub fn rested(&mut self) {
        if let Stage::Resting = self.stage {
            self.stage = Stage::Idle;
        }
    }

    /// Hands back of what is collected whatever is `wanted`: its owner makes it anew.
    pub fn withdraw(&mut self, wanted: impl Fn(&T) -> bool) -> Vec<T> {
        self.collected.extract_if(.., |write| wanted(write)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_not_stored_goes_before_what_came_since() {
        let mut writes = PendingWrites::default();
        assert_eq!(writes.begin(), None);
        [1, 2].into_iter().for_each(|n| writes.push(n));
        assert_eq!(writes.begin(), Some(&[1, 2][..]));
        writes.push(3);
        assert_eq!(writes.begin(), None);
        assert_eq!(writes.iter().count(), 3);
        writes.failed();
        assert_eq!(writes.begin(), None, "it rests");
        assert!(writes.under_way().is_empty());
        assert_eq!(writes.withdraw(|n| *n == 2), [2]);
        writes.rested();
        assert_eq!(writes.begin(), Some(&[1, 3][..]));
        writes.rest();
        assert_eq!(writes.ended(), [1, 3]);
        assert!(writes.is_idle());
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Push,
        Begin,
        Stored,
        Failed,
        Rested,
        Rest,
    }

    proptest! {
        /// PW-1 and PW-2, however the store fares.
        #[test]
        fn everything_is_stored_once_and_in_order(steps in prop::collection::vec(
            prop::sample::select(&[Step::Push, Step::Begin, Step::Stored, Step::Failed, Step::Rested, Step::Rest][..]), 0..100,
        )) {
            let mut writes = PendingWrites::default();
            let (mut pushed, mut stored, mut is_under_way) = (0, Vec::new(), false);
            for step in steps {
                match step {
                    Step::Push => {
                        writes.push(pushed);
                        pushed += 1;
                    }
                    Step::Begin => {
                        let has_begun = writes.begin().is_some();
                        prop_assert!(!(has_begun && is_under_way), "PW-2");
                        is_under_way |= has_begun;
                    }
                    Step::Stored => {
                        stored.extend(writes.ended());
                        is_under_way = false;
                    }
                    Step::Failed if is_under_way => {
                        writes.failed();
                        is_under_way = false;
                        prop_assert!(writes.begin().is_none());
                    }
                    Step::Failed => {}
                    Step::Rested => writes.rested(),
                    Step::Rest => writes.rest(),
                }
                prop_assert_eq!(!writes.under_way().is_empty(), is_under_way);
                prop_assert_eq!(stored.iter().chain(writes.iter()).copied().collect::<Vec<i32>>(), (0..pushed).collect::<Vec<_>>(), "PW-1");
            }
            stored.extend(writes.ended());
            writes.rested();
            stored.extend(writes.begin().into_iter().flatten());
            prop_assert_eq!(stored, (0..pushed).collect::<Vec<_>>());
        }
    }
}
