//! What the supervisor takes.

use actix::prelude::Message;

use crate::runtime::child::Child;
use crate::runtime::life::ChildId;
use crate::runtime::report::{ActorKind, ActorReport};

/// Start this child, and look after it from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Supervise {
    pub id: ChildId,
    pub child: Child,
}

/// Report the tree: all of it, or only the children of one kind.
#[derive(Debug, Message)]
#[rtype(result = "ActorReport")]
pub struct ObserveTree {
    pub only: Option<ActorKind>,
}

/// The process is about to end: restart nobody any more, and have those stop at once for whom no session waits.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct BeginFinish;

/// Have every child stop in good order, the last of the tree first; answers when they have.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FinishAll;

/// Have the first child of this kind panic, for tests; the supervisor itself if it has none.
#[cfg(feature = "fault-injection")]
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct PanicChild {
    /// See [`ActorKind::as_str`].
    pub kind: String,
}
