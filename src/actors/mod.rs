//! The actors: thin shells around the decisions of [`crate::domain`], known to each other by their messages.
//!
//! ```text
//! supervisor                 spawns, watches, restarts; answers the admin tree; drains
//! ├─ persistence        1    the only writer: group commit, commit order, retention
//! ├─ router             1    hands committed batches to every shard
//! ├─ shard/<n>          n    one per HTTP worker: subscriptions, fan-out, catch-up
//! │  └─ session/<id>    n    one per WebSocket client, adopted from its worker
//! └─ client/<service>   n    one per downstream service: breaker, retries, order; delivers from the outbox
//! ```
//!
//! The store is the truth, and every message after a commit is a hint: `try_send` with a verdict for "full".
//! Whoever misses one reads it again from the store. Only the edge waits, on a commit.

pub mod client;
pub mod clock;
pub mod connection;
pub mod consumers;
pub mod log_position;
pub mod persistence;
pub mod push_log;
pub mod registry;
pub mod router;
pub mod service_slot;
pub mod session;
pub mod shard;
pub mod supervisor;
pub mod worker;
