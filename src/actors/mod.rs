//! The actors: thin shells around the decisions of [`crate::domain`]. They know each other by their messages.
//!
//! ```text
//! supervisor                 starts, watches, restarts; answers for the tree
//! ├─ persistence        1    the only writer: group commit, commit order, retention
//! ├─ membership         1    this node among the others: renews its membership, by which it holds its leases
//! ├─ router             1    passes committed batches to the shards and the consumers
//! ├─ consumers          1    durable subscriptions: who has which event, ack floors
//! ├─ shard/<n>          n    one per HTTP worker: subscriptions, fan-out, catch-up
//! │  └─ session/<id>    n    one per subscriber's connection, on its thread; never restarted
//! ├─ bus                0-1  what goes over Redis: events from a stream, batches between nodes
//! ├─ client/<service>   n    one per downstream service: breaker, retries, order; delivers from the outbox
//! ├─ synchronizer       0-1  compares the state of services with the entities, and repairs it
//! └─ orchestrator       1    runs the instances of sagas
//! ```
//!
//! The store has the truth. Every message after a commit is a hint, and its sender learns if the mailbox is full. An
//! actor that misses a hint reads the store. Only endpoints wait, for a commit.
//!
//! [`registry`] has the addresses. [`worker`] has what lives on each HTTP thread beside its actors, and [`connection`]
//! what a session and its shard share. Several actors use the rest: the [time](clock), the [end of the
//! log](log_position), what Redis [remembers](remembered) of it, the [other nodes](cluster), what is [known of a service](service_slot), and how often events were [pushed](push_log).

pub mod bus;
pub mod call_ends;
pub mod catalogue;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod connection;
pub mod consumers;
pub mod follower;
pub mod log_position;
pub mod membership;
pub mod orchestrator;
pub mod persistence;
pub mod push_log;
pub mod registry;
pub mod relay;
pub mod remembered;
pub mod router;
pub mod service_slot;
pub mod session;
pub mod shard;
pub mod span_exporter;
pub mod supervisor;
pub mod synchronizer;
pub mod system;
pub mod worker;
