//! The durable log, in SQLite or PostgreSQL.
//!
//! One [`Writer`] commits groups of requests in transactions and blocks its thread; any number of [`Reader`] clones
//! read.
//!
//! - *ST-1* When a commit returns, its events are durable. Their ids are dense and rise in the order of commits, on
//!   PostgreSQL across all processes.
//! - *ST-2* Texts come back byte for byte.
//! - *ST-3* The cost of a read does not depend on the length of the log. Only a filter that few events pass makes it
//!   look further, and then in bounded steps.
//! - *ST-4* After a failure the next call connects anew; nothing has to be restarted.

mod append;
mod backup;
mod beside;
mod calls;
mod catalogue;
mod changes;
mod commit;
mod compact;
mod connection;
mod consumers;
mod entities;
mod error;
mod filter;
mod followers;
mod fragments;
mod group;
mod idempotency;
mod identity;
mod leases;
mod listener;
mod lock;
mod membership;
mod migrate;
mod nodes;
mod options;
mod outbox;
mod pool;
mod position;
mod postgres;
mod query;
mod read_watch;
mod reader;
mod replica;
mod retention;
mod revocations;
mod sagas;
mod scan;
mod schedules;
mod schema;
mod session;
mod shared_catalogue;
mod sqlite;
mod state;
mod statement;
mod syncs;
mod system;
mod upkeep;
mod url;
mod write;
mod writer;

pub use backup::{Restoration, backup, restore};
pub use calls::{CallOutcome, CallRequest, CallSettled, ClaimedCall, EndedCall, NewCall};
pub use catalogue::{NewType, TypeChange, TypeVersion};
pub use commit::Committed;
pub use compact::{Compacted, compact};
pub use connection::close;
pub use consumers::{
    Alteration, ConsumerChange, ConsumerRecord, DeadLetter, KnownConsumer, LeasedConsumer, NewConsumer,
};
pub use error::{StoreError, StoreErrorKind};
pub use followers::{FollowPage, LeasedFollower};
pub use group::{Group, TakeDue};
pub use leases::Seeker;
pub use listener::Listener;
pub use lock::StoreLock;
pub use migrate::{is_current, migrate};
pub use nodes::{BeatAnswer, NodeStatus};
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
pub use sagas::{
    DeclaredSaga, NewSaga, SagaFilter, SagaRecord, SagaStanding, SagaTransition, StoredDefinition, StoredSaga,
};
pub use scan::{Scan, ScanPage};
pub use schedules::{SchedulePosition, Scheduled};
pub use shared_catalogue::SharedCatalogue;
pub use state::{AsOf, DigestQuery, EntityPage, EntityQuery, EntityRecord};
pub use syncs::{SyncBacklog, SyncEntity, SyncRecord, SyncWith};
pub use url::StoreUrl;
pub use write::{Outcome, Write};
pub use writer::Writer;

#[cfg(test)]
mod tests;
