//! Writes that one transaction applies in order, and their outcomes.

use crate::domain::access::Identity;
use crate::domain::call::CallId;
use crate::domain::event::{Admission, Append, AppendOutcome, EventId, ScheduleId, Timestamp};
use crate::domain::log::EventUuid;
use crate::domain::routes::ServiceId;
use crate::domain::system::{Input, Refusal, System};

use super::calls::{CallOutcome, NewCall};
use super::catalogue::TypeChange;
use super::consumers::{Alteration, ConsumerChange, ConsumerRecord, NewConsumer};
use super::outbox::{DeliveryOutcome, NewReplayJob, OrphanAction, OrphansSettled, ServiceChange};
use super::sagas::{SagaTransition, StoredDefinition};
use super::syncs::SyncRecord;

/// A change of the store. The writes of a list are applied in order, and each sees the effects of those before it.
///
/// If the store cannot hold the text of an [`Append`](Self::Append), it is left out with [`AppendOutcome::Unstorable`].
/// Any other write that the store cannot hold fails the whole list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A publish request: [`Outcome::Appended`].
    Append(Append),
    /// Attempts to deliver have ended: [`Outcome::Settled`].
    Settle(Vec<DeliveryOutcome>),
    /// Changes the stored state of a service: [`Outcome::Saved`].
    ChangeService(ServiceChange),
    /// Stores the progress of a consumer: [`Outcome::Saved`]; or [`Outcome::Void`] if the fencing epoch has passed, and
    /// then nothing is written.
    ChangeConsumer(ConsumerChange),
    /// Finds a consumer, or creates it unless there are `max` already: [`Outcome::Opened`].
    OpenConsumer { new: NewConsumer, max: usize },
    /// Alters the consumer of this name: [`Outcome::Changed`].
    AlterConsumer { name: String, alteration: Alteration },
    /// Stores how far the follower of a log has come: [`Outcome::Saved`].
    MovePosition { name: String, position: String },
    /// These events go out by publish/subscribe: [`Outcome::Saved`].
    MarkSent(Vec<(EventUuid, EventId)>),
    /// Stores how far a service agrees with the entities of a type: [`Outcome::Saved`].
    SaveSync(SyncRecord),
    /// Makes calls, in this order: [`Outcome::Made`].
    MakeCalls(Vec<NewCall>),
    /// Attempts at these calls begin: [`Outcome::Begun`]. Only those of them that are open are sent.
    BeginCalls(Vec<CallId>),
    /// Attempts at calls have ended: [`Outcome::Saved`]. A call that has ended, or was cancelled, stays as it is.
    SettleCalls(Vec<CallOutcome>),
    /// The calls of this owner that have not ended go, without a word: [`Outcome::Saved`]. With a `tag`, only those that it
    /// calls so.
    CancelCalls { owner: String, tag: Option<String> },
    /// Those of them that wait for another attempt are due at once: [`Outcome::Saved`].
    HurryCalls { owner: String },
    /// Ended calls up to this place are known to who follows them, and go: [`Outcome::Saved`].
    ForgetCalls { through: i64 },
    /// Steps of instances of sagas: [`Outcome::Saved`]. Or [`Outcome::Void`] for this and all else of the list, of which it
    /// is the first: somebody has decided before on one of them, or what a new one holds is held by another. `ended`: calls
    /// whose ends were decided on, and are stored nowhere else. They go; if one of them is not open, all is void too.
    SaveSagas { steps: Vec<SagaTransition>, ended: Vec<CallId> },
    /// What the files of this node declare: [`Outcome::Declared`].
    DeclareSagas { node: String, sagas: Vec<StoredDefinition> },
    /// Removes at most `limit` instances that ended before: [`Outcome::Changed`], false if there was none.
    ForgetSagas { ended_before: Timestamp, limit: usize },
    /// Something has happened to the system as a whole: [`Outcome::System`].
    ChangeSystem(Input),
    /// Changes the type of events: [`Outcome::Changed`], false if somebody else has changed it since that was decided.
    ChangeEventType(TypeChange),
    /// Starts a replay job on events up to this place in the list: [`Outcome::Started`].
    StartReplayJob(NewReplayJob),
    /// Stops a replay job if it is running: [`Outcome::Changed`].
    CancelReplayJob(i64),
    /// Settles a bounded number of the deliveries of a service that is not configured: [`Outcome::OrphansSettled`].
    SettleOrphans { from: ServiceId, action: OrphanAction },
    /// Cancels a waiting schedule: [`Outcome::Changed`].
    CancelSchedule(ScheduleId),
    /// Revokes an identity or restores it: [`Outcome::Changed`].
    Revoke { who: Identity, is_revoked: bool },
}

/// The outcome of a [`Write`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Appended(AppendOutcome),
    /// False if some deliveries had an outcome already, stored by an unconfirmed transaction or by another process.
    Settled {
        were_all_open: bool,
    },
    Saved,
    /// Nothing was written: another node has the lease, or an operator has moved the consumer.
    Void,
    /// `None` if there are as many consumers as allowed.
    Opened(Option<Box<ConsumerRecord>>),
    /// Whether there was anything to change.
    Changed(bool),
    /// The state of the system afterwards, or why nothing was done.
    System(Result<Box<System>, Refusal>),
    /// The number of the replay job.
    Started(i64),
    /// The first of the calls that were made; the others follow it without gaps.
    Made(CallId),
    /// Those of the calls that are open.
    Begun(Vec<CallId>),
    OrphansSettled(OrphansSettled),
    /// The versions of sagas that are stored with another content; if there are any, nothing was written.
    Declared(Vec<(String, u32)>),
}

impl Write {
    /// Whether one statement can write both.
    pub(super) fn shares_statement(&self, next: &Self) -> bool {
        matches!((self, next), (Self::Append(_), Self::Append(_)) | (Self::Settle(_), Self::Settle(_)))
    }

    /// The publish request, if this is one.
    pub fn as_append(&self) -> Option<&Append> {
        if let Self::Append(append) = self { Some(append) } else { None }
    }

    /// Whether the catalogue has a say in it.
    pub(super) fn is_of_catalogue(&self) -> bool {
        match self {
            Self::Append(append) => append.judgement.is_some(),
            Self::ChangeEventType(_) => true,
            _ => false,
        }
    }

    /// Whether it is void if what follows it in its list cannot be written.
    pub(super) fn is_of_sagas(&self) -> bool {
        matches!(self, Self::SaveSagas { .. })
    }

    /// Whether it changes the catalogue.
    pub fn changes_catalogue(&self) -> bool {
        matches!(self, Self::ChangeEventType(_))
    }

    /// Whether nothing of its list may be written after it if it is refused.
    pub fn is_in_order(&self) -> bool {
        self.as_append().is_some_and(|append| append.admission == Admission::InOrder)
    }

    /// The delivery outcomes, if this has any.
    pub(super) fn as_delivery_outcomes(&self) -> Option<&[DeliveryOutcome]> {
        if let Self::Settle(delivery_outcomes) = self { Some(delivery_outcomes) } else { None }
    }

    /// Roughly how many rows it writes.
    pub fn rows(&self) -> usize {
        match self {
            Self::Append(append) => append.events.len(),
            Self::Settle(delivery_outcomes) => delivery_outcomes.len(),
            Self::MarkSent(sent) => sent.len(),
            Self::MakeCalls(calls) => calls.len(),
            Self::BeginCalls(ids) => ids.len(),
            Self::SettleCalls(ended) => ended.len(),
            Self::SaveSagas { steps, ended } => {
                ended.len() + steps.iter().map(|step| 1 + step.entries.len()).sum::<usize>()
            }
            Self::ChangeConsumer(change) => {
                1 + change.marks.len() + change.dead.len() + change.renewed.len() + change.events.len()
            }
            _ => 1,
        }
    }
}

impl Outcome {
    /// The outcome of a publish request, if this is one.
    pub fn appended(self) -> Option<AppendOutcome> {
        if let Self::Appended(outcome) = self { Some(outcome) } else { None }
    }
}
