//! The actors: thin shells around the decisions of [`crate::domain`], known to each other by their messages.
//!
//! ```text
//! supervisor                 starts, watches, restarts; answers for the tree
//! ├─ persistence        1    the only writer: group commit, commit order, retention
//! ├─ router             1    hands committed batches to the shards and the consumers
//! ├─ consumers          1    durable subscriptions: who has which event, ack floors
//! ├─ shard/<n>          n    one per HTTP worker: subscriptions, fan-out, catch-up
//! │  └─ session/<id>    n    one per subscriber's connection, on its thread; never restarted
//! └─ client/<service>   n    one per downstream service: breaker, retries, order; delivers from the outbox
//! ```
//!
//! The store is the truth, and every message after a commit is a hint, told with a verdict for "full". Whoever misses
//! one reads it again from the store. Only the edge waits, on a commit.
//!
//! [`registry`] has their addresses. [`worker`] is what lives on each HTTP thread beside the actors there, and
//! [`connection`] what a session and its shard share. The rest is read by several: the [time](clock), the
//! [end of the log](log_position), what is [known of a service](service_slot), and what was [pushed](push_log).

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
