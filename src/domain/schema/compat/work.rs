//! The work that a comparison may cost, in steps that do not depend on the machine.

/// Steps of one comparison: a schema or value looked at is one, and so is a name held against a pattern.
const MAX_STEPS: u64 = 400_000;

/// The work was too much; what is asked for stays undecided.
#[derive(Debug, Clone, Copy)]
pub(super) struct TooMuch;

pub(super) struct Work {
    pub(super) left: u64,
}

impl Work {
    pub(super) fn new() -> Self {
        Self { left: MAX_STEPS }
    }

    pub(super) fn step(&mut self) -> Result<(), TooMuch> {
        self.steps(1)
    }

    pub(super) fn steps(&mut self, count: usize) -> Result<(), TooMuch> {
        let left = self.left.checked_sub(count as u64);
        self.left = left.unwrap_or(0);
        left.map(drop).ok_or(TooMuch)
    }
}
