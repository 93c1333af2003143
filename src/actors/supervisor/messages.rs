//! The messages that the supervisor takes.

use actix::prelude::Message;

use crate::runtime::child::Child;
use crate::runtime::life::ChildId;
use crate::runtime::report::{ActorKind, ActorReport};

/// Start this child, and supervise it from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Supervise {
    pub id: ChildId,
    pub child: Child,
}

/// Report the actor tree, or only the children of one kind.
#[derive(Debug, Message)]
#[rtype(result = "ActorReport")]
pub struct ObserveTree {
    pub only: Option<ActorKind>,
}

/// Answer, to show that messages are still taken.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Ping;

/// The process is about to end. Restart nobody any more, and stop those children now that no session needs.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct BeginFinish;

/// Stop all children in good order, the last of the tree first. The answer comes when they have stopped.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FinishAll;

/// Have the first child of this kind panic, for tests; without such a child, the supervisor itself.
#[cfg(feature = "fault-injection")]
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct PanicChild {
    /// See [`ActorKind::as_str`].
    pub kind: String,
}
