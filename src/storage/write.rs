//! The list of writes that one transaction applies, and their outcomes.

use crate::domain::access::Identity;
use crate::domain::event::{Append, AppendOutcome, ScheduleId};
use crate::domain::routes::ServiceId;

use super::consumers::{Alteration, ConsumerChange, ConsumerRecord, NewConsumer};
use super::outbox::{DeliveryOutcome, NewReplayJob, OrphanAction, OrphansSettled, ServiceChange};

/// One change of the store. Those of a list are applied in their order; each sees what those before it have written.
///
/// An [`Append`](Self::Append) that the store cannot hold is left out, with [`AppendOutcome::Unstorable`]. Any other
/// write that the store cannot hold fails its whole list, of which nothing is written then.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are appends, and a box would cost each an allocation")]
pub enum Write {
    /// A publish request: [`Outcome::Appended`].
    Append(Append),
    /// Attempts ended: [`Outcome::Settled`].
    Settle(Vec<DeliveryOutcome>),
    /// The state of a service changed: [`Outcome::Saved`].
    ChangeService(ServiceChange),
    /// Events of a durable subscription were acknowledged: [`Outcome::Saved`], or [`Outcome::Void`] and nothing of it is
    /// written.
    ChangeConsumer(ConsumerChange),
    /// Finds a durable subscription, or makes it unless there are `max`: [`Outcome::Opened`].
    OpenConsumer { new: NewConsumer, max: usize },
    /// Changes the durable subscription of this name, if there is one: [`Outcome::Changed`].
    AlterConsumer { name: String, alteration: Alteration },
    /// Makes deliveries of events up to this place in the list anew, little by little: [`Outcome::Started`].
    StartReplayJob(NewReplayJob),
    /// Stops a job if it is running: [`Outcome::Changed`].
    CancelReplayJob(i64),
    /// Settles a bounded number of the deliveries of a service that is not configured: [`Outcome::OrphansSettled`].
    SettleOrphans { from: ServiceId, action: OrphanAction },
    /// Cancels a schedule if it is waiting: [`Outcome::Changed`].
    CancelSchedule(ScheduleId),
    /// Has somebody revoked, or not any more: [`Outcome::Changed`].
    Revoke { who: Identity, is_revoked: bool },
}

/// What became of a [`Write`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Appended(AppendOutcome),
    /// Else some were settled before: by a transaction that was not confirmed, or by another process.
    Settled {
        were_all_open: bool,
    },
    Saved,
    /// It was of an earlier fencing epoch.
    Void,
    /// None: there are as many as there may be.
    Opened(Option<Box<ConsumerRecord>>),
    /// Whether there was anything to change.
    Changed(bool),
    /// With the number of the job.
    Started(i64),
    OrphansSettled(OrphansSettled),
}

impl Write {
    /// Whether one statement writes both.
    pub(super) fn shares_statement(&self, next: &Self) -> bool {
        matches!((self, next), (Self::Append(_), Self::Append(_)) | (Self::Settle(_), Self::Settle(_)))
    }

    /// The request, if it is one.
    pub fn as_append(&self) -> Option<&Append> {
        if let Self::Append(append) = self { Some(append) } else { None }
    }

    /// The delivery outcomes, if it is that.
    pub(super) fn as_delivery_outcomes(&self) -> Option<&[DeliveryOutcome]> {
        if let Self::Settle(delivery_outcomes) = self { Some(delivery_outcomes) } else { None }
    }

    /// Roughly how many rows it writes.
    pub fn rows(&self) -> usize {
        match self {
            Self::Append(append) => append.events.len(),
            Self::Settle(delivery_outcomes) => delivery_outcomes.len(),
            Self::ChangeConsumer(change) => {
                1 + change.marks.len() + change.dead.len() + change.renewed.len() + change.events.len()
            }
            _ => 1,
        }
    }
}

impl Outcome {
    /// What became of a request, if it is that.
    pub fn appended(self) -> Option<AppendOutcome> {
        if let Self::Appended(outcome) = self { Some(outcome) } else { None }
    }
}
