//! What the persistence actor takes and tells.

use std::sync::Arc;

use actix::prelude::Message;
use tokio::sync::oneshot;

use crate::actors::mailbox::Mailbox;
use crate::actors::observe::ActorReport;
use crate::domain::event::{Append, AppendOutcome};
use crate::protocol::log_batch::LogBatch;

/// Store these; the answer comes after the commit. One outcome for each append, in order.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AppendEvents {
    pub appends: Vec<Append>,
    pub reply: oneshot::Sender<AppendReply>,
}

pub type AppendReply = Result<Vec<AppendOutcome>, AppendFailure>;

/// Why nothing was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendFailure {
    /// The store refused or is away; the text says why.
    #[error("the store is unavailable: {0}")]
    StoreUnavailable(String),
    /// More is waiting than may wait.
    #[error("the backlog is full")]
    Overloaded,
    /// The commit was not confirmed in time: stored or not, nobody knows yet.
    #[error("the commit was not confirmed in time")]
    TimedOut,
}

/// Events were committed; sent in commit order. An empty batch tells of events that others committed.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct EventsCommitted(pub Arc<LogBatch>);

/// From now on committed batches go to this router.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ConnectRouter(pub Mailbox<EventsCommitted>);

/// Say what you are.
#[derive(Debug, Message)]
#[rtype(result = "Option<ActorReport>")]
pub struct Observe;

/// Commit what waits, take no more, and stop.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FinishCommits;
