//! The outbox: stored deliveries of events to services, written in the transaction of their events.
//!
//! - *OB-1* An event and its deliveries are committed together.
//! - *OB-2* A claim writes nothing: after a crash, whatever has no stored outcome is claimed again.
//! - *OB-3* The cost of a claim depends neither on the length of the log nor on what waits for other services.

mod claim;
mod enqueue;
mod list;
mod orphans;
mod page;
mod replay_jobs;
mod services;
mod settle;
mod waits;

pub use claim::{Claim, Claimed};
pub use list::{AttemptRecord, DeliveryRecord, Pending};
pub use orphans::{Orphan, OrphanAction, OrphansSettled};
pub use page::{DeliveryFilter, DeliveryPage, ListedDelivery};
pub use replay_jobs::{Counting, NewReplayJob, Renewed, ReplayJob, ReplayJobKind, ReplayJobState};
pub use services::{CommandId, LeasedService, NewService, Registered, ServiceChange, service_name};
pub use settle::{DeliveryOutcome, Settled};

pub(super) use claim::claim;
pub(super) use enqueue::{Enqueued, enqueue, enqueue_to};
pub(super) use list::{attempts, deliveries_of, next_due, oldest_open, pending, statuses};
pub(super) use orphans::{orphans, settle_orphans};
pub(super) use page::deliveries;
pub(super) use replay_jobs::{cancel_replay_job, replay_job, replay_jobs, replay_step, start_replay_job};
pub(super) use services::{change_service, free_service_id, leased, names, register};
pub(super) use settle::settle;
pub(super) use waits::bound_waits;
