//! What the supervisor takes.

use actix::prelude::Message;
use actix_rt::ArbiterHandle;

use crate::actors::observe::ActorReport;

/// A child of the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChildId {
    Persistence,
    Router,
    Shard(usize),
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

/// A child is gone.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct ChildExited {
    pub child: ChildId,
    pub generation: u64,
    pub exit: Exit,
}

/// An HTTP worker thread is ready for its shard.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct WorkerReady {
    pub number: usize,
    pub arbiter: ArbiterHandle,
}

/// Report the whole tree.
#[derive(Debug, Message)]
#[rtype(result = "ActorReport")]
pub struct ObserveTree;

/// Close the sessions; answers when they are gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Drain {
    /// Over how long the closing of sessions is spread.
    pub spread: std::time::Duration,
    /// Commit what waits then, and take no more.
    pub finish: bool,
}

/// Panic, for tests.
#[cfg(feature = "fault-injection")]
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct InjectPanic {
    /// `persistence`, `router` or `shard`.
    pub actor: String,
}
