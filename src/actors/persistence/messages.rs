//! What the persistence actor takes and tells.

use std::sync::Arc;

use actix::prelude::Message;
use tokio::sync::oneshot;

use crate::domain::access::Identity;
use crate::domain::durable::DurablePolicy;
use crate::domain::event::{Append, AppendOutcome, EventId, NewEvent, ScheduleId};
use crate::domain::routes::ServiceId;
use crate::protocol::log_batch::LogBatch;
use crate::storage::{
    DurableChange, Held, HeldDurable, NewDurable, NewJob, ServiceChange, Settlement, Settling, Shifted,
};

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
    /// What it was about is another's by now, or was moved.
    #[error("what it was about has been moved")]
    Void,
}

/// Do not append what is scheduled; answers whether it was still waiting.
#[derive(Debug, Message)]
#[rtype(result = "Result<bool, AppendFailure>")]
pub struct CancelSchedule(pub ScheduleId);

/// Have somebody revoked, or not any more; answers whether that changes anything.
#[derive(Debug, Message)]
#[rtype(result = "Result<bool, AppendFailure>")]
pub struct Revoke {
    pub who: Identity,
    pub is_revoked: bool,
}

/// Attempts ended, or the state of a service changed. The answer comes after the commit.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SettleDeliveries {
    pub settlements: Vec<Settlement>,
    /// What became of the service itself.
    pub changes: Vec<ServiceChange>,
    /// What became of the events of durable subscriptions.
    pub durables: Vec<DurableChange>,
    /// The Event Handler's own events of it.
    pub events: Vec<NewEvent>,
    pub reply: oneshot::Sender<Result<(), AppendFailure>>,
}

impl SettleDeliveries {
    /// Nothing yet.
    pub fn new(reply: oneshot::Sender<Result<(), AppendFailure>>) -> Self {
        Self { settlements: Vec::new(), changes: Vec::new(), durables: Vec::new(), events: Vec::new(), reply }
    }
}

/// Let this process be the only one that delivers to a service; answers whether it is, and with what state.
#[derive(Debug, Message)]
#[rtype(result = "Result<Held, AppendFailure>")]
pub struct HoldService(pub ServiceId);

/// Find a durable subscription or make it, and let this process be the only one that delivers its events; none if
/// there are `max` already.
#[derive(Debug, Message)]
#[rtype(result = "Result<Option<HeldDurable>, AppendFailure>")]
pub struct OpenDurable {
    pub new: NewDurable,
    pub max: usize,
}

/// The same for those that were opened, each with the epoch in which it is held here, if it is. Those that were deleted
/// are left out of the answer.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<HeldDurable>, AppendFailure>")]
pub struct HoldDurables(pub Vec<(ServiceId, Option<i64>)>);

/// Let another process deliver the events of a durable subscription.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReleaseDurable(pub ServiceId);

/// Change a durable subscription; answers whether there is one of this name.
#[derive(Debug, Message)]
#[rtype(result = "Result<bool, AppendFailure>")]
pub struct AlterDurable {
    pub name: String,
    pub alteration: Alteration,
}

/// What operators, and members, change of a durable subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alteration {
    Policy(DurablePolicy),
    /// It goes on after this event.
    Seek(EventId),
    Delete,
}

/// Settle some of the deliveries of a service that is not configured; answers what was done, nothing if none is left.
#[derive(Debug, Message)]
#[rtype(result = "Result<Shifted, AppendFailure>")]
pub struct SettleOrphans {
    pub from: ServiceId,
    pub settling: Settling,
}

/// Make deliveries anew, little by little; answers the number of the job.
#[derive(Debug, Message)]
#[rtype(result = "Result<i64, AppendFailure>")]
pub struct StartJob(pub NewJob);

/// Make no more anew; answers whether the job was running.
#[derive(Debug, Message)]
#[rtype(result = "Result<bool, AppendFailure>")]
pub struct CancelJob(pub i64);

/// Events were committed; sent in commit order. An empty batch tells of events that others committed.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct EventsCommitted(pub Arc<LogBatch>);
