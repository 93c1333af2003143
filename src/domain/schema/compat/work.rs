//! The work that a comparison may cost, in steps that do not depend on the machine.

/// Steps of one comparison: a schema or value looked at is one.
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
        self.left = self.left.checked_sub(1).ok_or(TooMuch)?;
        Ok(())
    }
}
