//! What an actor is given for one life, and how its supervisor learns of its end.

use actix::prelude::{Actor, Addr, Message, Recipient};

use super::address::{Address, Depth, Generation};
use super::report::ActorKind;

/// A child of a supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId {
    pub kind: ActorKind,
    /// Among those of its kind, from 0.
    pub number: usize,
}

/// Why a child is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It panicked; the thread lives on.
    Panicked,
    /// It stopped without being asked to.
    Stopped,
    /// It was asked to stop.
    Finished,
}

/// What becomes of a child.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct ChildChanged {
    pub child: ChildId,
    pub generation: Generation,
    pub change: Change,
}

/// See [`ChildChanged`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is at its address.
    Began,
    Ended(Exit),
}

/// Part of every supervised actor. Dropped with it, it reports the end of this life, and whether that was a panic.
pub struct Life {
    child: ChildId,
    generation: Generation,
    depth: Depth,
    supervisor: Recipient<ChildChanged>,
    is_finished: bool,
}

impl Life {
    /// The life of a child that is about to start.
    pub fn new(child: ChildId, generation: Generation, supervisor: Recipient<ChildChanged>) -> Self {
        Self { child, generation, depth: Depth::default(), supervisor, is_finished: false }
    }

    /// Its number.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Messages that wait for it.
    pub fn depth(&self) -> usize {
        self.depth.get()
    }

    /// The actor is at `addr`: it is reached at `address` from now on.
    pub fn begin<A: Actor>(&self, address: &Address<A>, addr: Addr<A>) {
        address.fill(self.generation, addr, self.depth.clone());
        self.report(Change::Began);
    }

    /// The actor is about to stop because it was asked to.
    pub fn finish(&mut self) {
        self.is_finished = true;
    }

    /// Two messages a life: unbounded sending is bounded by that.
    fn report(&self, change: Change) {
        self.supervisor.do_send(ChildChanged { child: self.child, generation: self.generation, change });
    }
}

#[cfg(test)]
impl Life {
    /// A life of which no supervisor learns.
    pub fn unsupervised(kind: ActorKind, generation: Generation) -> Self {
        use actix::prelude::{Context, Handler};
        struct Nobody;
        impl Actor for Nobody {
            type Context = Context<Self>;
        }
        impl Handler<ChildChanged> for Nobody {
            type Result = ();

            fn handle(&mut self, _: ChildChanged, _: &mut Self::Context) {}
        }
        Self::new(ChildId { kind, number: 0 }, generation, Nobody.start().recipient())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.report(Change::Ended(match (self.is_finished, std::thread::panicking()) {
            (_, true) => Exit::Panicked,
            (true, false) => Exit::Finished,
            (false, false) => Exit::Stopped,
        }));
    }
}
