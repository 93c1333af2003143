//! What the persistence actor takes and tells.

use std::sync::Arc;

use actix::prelude::Message;
use tokio::sync::oneshot;

use crate::domain::event::{Append, AppendOutcome};
use crate::domain::routes::ServiceId;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::log_batch::LogBatch;
use crate::storage::{LeasedConsumer, LeasedService, Outcome, Write};

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
    /// The store refused or is away; the text says why, and nothing of the database.
    #[error("the store is unavailable: {0}")]
    StoreUnavailable(&'static str),
    /// The store is well, and cannot hold this.
    #[error("the store cannot hold a text of this request")]
    Unstorable,
    /// More is waiting than may wait.
    #[error("the backlog is full")]
    Overloaded,
    /// The commit was not confirmed in time: stored or not, nobody knows yet.
    #[error("the commit was not confirmed in time")]
    TimedOut,
}

impl AppendFailure {
    /// Nobody took it.
    pub const RESTARTING: Self = Self::StoreUnavailable("the writer is restarting");
    /// The writer failed before it answered: done or not is unknown.
    pub const RESTARTED: Self = Self::StoreUnavailable("the writer was restarted");
}

/// What whoever asked for the write is told.
impl From<AppendFailure> for ApiError {
    fn from(failure: AppendFailure) -> Self {
        let code = match failure {
            AppendFailure::StoreUnavailable(_) => ErrorCode::StoreUnavailable,
            AppendFailure::Unstorable => return Self::unstorable(),
            AppendFailure::Overloaded => ErrorCode::Overloaded,
            AppendFailure::TimedOut => ErrorCode::CommitTimeout,
        };
        Self::transient(code, failure.to_string())
    }
}

/// Apply these in their order, in one transaction. The answer comes after the commit: one outcome for each.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CommitWrites {
    pub writes: Vec<Write>,
    pub reply: oneshot::Sender<CommitReply>,
}

pub type CommitReply = Result<Vec<Outcome>, AppendFailure>;

/// Let this process be the only one that delivers to a service; answers whether it is, and with what state.
#[derive(Debug, Message)]
#[rtype(result = "Result<LeasedService, AppendFailure>")]
pub struct LeaseService(pub ServiceId);

/// The same for durable subscriptions, each with the epoch in which it is held here, if it is. Those that were deleted
/// are left out of the answer.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<LeasedConsumer>, AppendFailure>")]
pub struct LeaseConsumers(pub Vec<(ServiceId, Option<i64>)>);

/// Let another process deliver the events of a durable subscription.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReleaseConsumer(pub ServiceId);

/// Events were committed; sent in commit order. An empty batch tells of events that others committed.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct EventsCommitted(pub Arc<LogBatch>);
