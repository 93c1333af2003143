//! The messages that persistence takes and sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::prelude::Message;
use tokio::sync::oneshot;

use crate::domain::event::{Append, AppendOutcome};
use crate::domain::lease::{Fence, LeaseName};
use crate::domain::log::Seen;
use crate::domain::membership::Beat;
use crate::domain::routes::ServiceId;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::log_batch::LogBatch;
use crate::protocol::relay::RelayKey;
use crate::storage::{
    BeatAnswer, KnownConsumer, LeasedConsumer, LeasedFollower, LeasedService, NodeStatus, Outcome, Write,
};

/// Store these events. The answer comes after the commit, with one outcome for each append, in order.
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
    /// The store has refused or is away. The text says why, without anything from the database.
    #[error("the store is unavailable: {0}")]
    StoreUnavailable(&'static str),
    /// The store works, but cannot hold this.
    #[error("the store cannot hold a text of this request")]
    Unstorable,
    /// As much waits as may wait.
    #[error("the backlog is full")]
    Overloaded,
    /// The commit was not confirmed in time. Whether it was stored is unknown.
    #[error("the commit was not confirmed in time")]
    TimedOut,
}

impl AppendFailure {
    /// Nobody has taken the request.
    pub const RESTARTING: Self = Self::StoreUnavailable("the writer is restarting");
    /// The writer has failed before it answered. Whether the request was done is unknown.
    pub const RESTARTED: Self = Self::StoreUnavailable("the writer was restarted");
}

/// What the sender of the request is told.
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

/// Apply these writes in their order, in one transaction. The answer comes after the commit, with one outcome for each.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CommitWrites {
    /// The leases of which the holders ask: all are void, as one, if another node has one of them.
    pub fences: Vec<Fence>,
    pub writes: Vec<Write>,
    pub reply: oneshot::Sender<CommitReply>,
}

pub type CommitReply = Result<Vec<Outcome>, AppendFailure>;

/// Join the other nodes, or renew the membership.
#[derive(Debug, Message)]
#[rtype(result = "Result<BeatAnswer, AppendFailure>")]
pub struct BeatMembership {
    pub status: NodeStatus,
    pub beat: Beat,
}

/// Be a member no more: what the node holds is free.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LeaveNodes {
    pub name: Arc<str>,
    pub generation: i64,
}

/// Ask for the lease of a service; answers whether this node has it, and with what state of the service.
#[derive(Debug, Message)]
#[rtype(result = "Result<LeasedService, AppendFailure>")]
pub struct LeaseService {
    pub service: ServiceId,
    pub lease: LeaseName,
}

/// Ask for the leases of consumers. Those that were deleted are left out of the answer.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<LeasedConsumer>, AppendFailure>")]
pub struct LeaseConsumers(pub Vec<KnownConsumer>);

/// Ask for the lease of the follower of a log; answers whether this node has it, and with the position of this name.
#[derive(Debug, Message)]
#[rtype(result = "Result<LeasedFollower, AppendFailure>")]
pub struct LeaseFollower {
    pub lease: LeaseName,
    pub position: String,
}

/// Other nodes may have committed something: look how far the log reaches.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LookAtLog(pub LookDue);

/// A look that is due, of which there is one at a time. It is over when this is dropped: before the look, so that none is
/// missing, or with a message that nobody takes.
#[derive(Debug)]
pub struct LookDue(Arc<AtomicBool>);

impl LookDue {
    /// `None`: one is due already.
    pub fn begin(is_due: &Arc<AtomicBool>) -> Option<Self> {
        (!is_due.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(is_due)))
    }
}

impl Drop for LookDue {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Batches of other nodes were taken, perhaps with deliveries.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct NoteRelayed(pub LookDue);

/// Redis remembers this event of the log: look whether the log still has it.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct RecallNewest(pub Seen);

/// A batch was committed by this node, and there are others: they are told.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct RelayBatch {
    pub batch: Arc<LogBatch>,
    /// That of the session in which it was committed.
    pub key: Arc<RelayKey>,
}

/// Let another node take a lease.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReleaseLease(pub Fence);

/// Events were committed. These messages are sent in commit order. An empty batch says that other processes have
/// committed events.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct EventsCommitted(pub Arc<LogBatch>);
