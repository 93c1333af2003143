//! Pure decisions: no clock, no I/O, no randomness of their own.
//!
//! Everything here takes what it needs as an argument and returns what is to be done,
//! so that it can be tested without a runtime.

pub mod access;
pub mod breaker;
pub mod call;
pub mod catalogue;
pub mod consumer;
pub mod cursor;
pub mod delivery;
pub mod dispatch;
pub mod entity;
pub mod event;
pub mod filter;
pub mod follow;
pub mod inbox;
pub mod index;
pub mod ingest;
pub mod judgement;
pub mod key_order;
pub mod lease;
pub mod log;
pub mod membership;
pub mod mirror;
pub mod name;
pub mod network;
pub mod origin;
pub mod pattern;
pub mod pending_writes;
pub mod placement;
pub mod priority;
pub mod rate;
pub mod relay;
pub mod restart;
pub mod retry;
pub mod routes;
pub mod saga;
pub mod schema;
pub mod secret;
pub mod slow_start;
pub mod span;
pub mod sync;
pub mod system;
pub mod time_of_day;
pub mod work;
