//! How a supervisor learns that a child is gone.

use actix::prelude::Recipient;

use super::messages::{ChildExited, ChildId, Exit};

/// Part of every supervised actor; reports the actor's end to its supervisor when it is dropped with it.
pub struct ExitGuard {
    child: ChildId,
    /// Distinguishes the child from those before it.
    generation: u64,
    supervisor: Recipient<ChildExited>,
    released: bool,
}

impl ExitGuard {
    pub fn new(child: ChildId, generation: u64, supervisor: Recipient<ChildExited>) -> Self {
        Self { child, generation, supervisor, released: false }
    }

    /// The actor is about to stop because it was asked to.
    pub fn release(&mut self) {
        self.released = true;
    }
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        let exit = match (self.released, std::thread::panicking()) {
            (_, true) => Exit::Panicked,
            (true, false) => Exit::Finished,
            (false, false) => Exit::Stopped,
        };
        // One message per life of a child: unbounded sending is bounded by that.
        self.supervisor.do_send(ChildExited { child: self.child, generation: self.generation, exit });
    }
}
