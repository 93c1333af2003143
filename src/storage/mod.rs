//! The durable log, in SQLite or PostgreSQL.
//!
//! One [`Writer`] appends, blocking, in transactions of many requests; any number of [`Reader`] clones read.
//!
//! - *ST-1* What `append` returned is durable, with rising dense ids in commit order (on PostgreSQL: of all processes).
//! - *ST-2* Texts come back byte for byte.
//! - *ST-3* A read costs the same however long the log is; only filters that few events pass make it look further,
//!   in bounded steps.
//! - *ST-4* After a failure the next call tries anew; nothing needs a restart.

mod append;
mod backup;
mod beside;
mod commit;
mod compact;
mod connection;
mod consumers;
mod error;
mod filter;
mod fragments;
mod group;
mod idempotency;
mod identity;
mod leases;
mod lock;
mod migrate;
mod options;
mod outbox;
mod position;
mod postgres;
mod query;
mod read_watch;
mod reader;
mod retention;
mod revocations;
mod scan;
mod schedules;
mod schema;
mod session;
mod sqlite;
mod upkeep;
mod url;
mod write;
mod writer;

pub use backup::{Restoration, backup, restore};
pub use commit::Committed;
pub use compact::{Compacted, compact};
pub use connection::close;
pub use consumers::{Alteration, ConsumerChange, ConsumerRecord, DeadLetter, LeasedConsumer, NewConsumer};
pub use error::{StoreError, StoreErrorKind};
pub use group::Group;
pub use lock::StoreLock;
pub use migrate::{is_current, migrate};
pub use options::{Durability, Schema, StoreOptions};
pub use outbox::{
    AttemptRecord, Claim, Claimed, CommandId, Counting, DeliveryFilter, DeliveryOutcome, DeliveryPage, DeliveryRecord,
    LeasedService, ListedDelivery, NewReplayJob, NewService, Orphan, OrphanAction, OrphansSettled, Pending, Registered,
    Renewed, ReplayJob, ReplayJobKind, ReplayJobState, ServiceChange, Settled, service_name,
};
pub use query::{EventPage, EventQuery, Order};
pub use read_watch::ReadWatch;
pub use reader::Reader;
pub use retention::{RetentionPolicy, Trimmed};
pub use scan::{Scan, ScanPage};
pub use schedules::{SchedulePosition, Scheduled};
pub use url::StoreUrl;
pub use write::{Outcome, Write};
pub use writer::Writer;

#[cfg(test)]
mod tests;
