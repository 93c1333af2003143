//! What the router takes and hands on.

use std::sync::Arc;

use actix::prelude::Message;

use crate::actors::mailbox::Mailbox;
use crate::actors::observe::ActorReport;
use crate::protocol::log_batch::LogBatch;

/// Who takes committed batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Follower {
    Shard(usize),
    Durables,
}

/// To the router: this one takes committed batches from now on, in place of an earlier one of its kind and number.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Attach {
    pub follower: Follower,
    pub mailbox: Mailbox<RouteBatch>,
}

/// To a shard: a committed batch, in commit order.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct RouteBatch(pub Arc<LogBatch>);

/// To the router or a shard: say what you are.
#[derive(Debug, Message)]
#[rtype(result = "Option<ActorReport>")]
pub struct Observe;
