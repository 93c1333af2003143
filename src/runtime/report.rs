//! Every actor can say what it is: one value for operators and for tests.

use std::time::Instant;

use actix::prelude::Message;
use serde::Serialize;
use serde_json::Value;

/// What kind of actor a node of the tree is; in the order of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    Supervisor,
    Persistence,
    Membership,
    Router,
    #[serde(rename = "durables")]
    Consumers,
    Shard,
    Session,
    /// It ends before the others, as the clients do: what it has read is stored.
    Bus,
    Client,
    System,
    /// It ends before the clients, through which it asks services.
    Synchronizer,
    /// It only decides; what it has decided is stored.
    Orchestrator,
}

impl ActorKind {
    /// The name on the wire, and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::Persistence => "persistence",
            Self::Membership => "membership",
            Self::Router => "router",
            Self::Consumers => "durables",
            Self::Shard => "shard",
            Self::Session => "session",
            Self::Bus => "bus",
            Self::Client => "client",
            Self::System => "system",
            Self::Synchronizer => "synchronizer",
            Self::Orchestrator => "orchestrator",
        }
    }
}

/// Whether an actor is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorState {
    Running,
    Restarting,
    Stopped,
}

/// One node of the actor tree.
#[derive(Debug, Clone, Serialize)]
pub struct ActorReport {
    pub name: String,
    pub kind: ActorKind,
    pub state: ActorState,
    pub restarts: u64,
    pub mailbox: MailboxReport,
    pub uptime_seconds: f64,
    /// The actor's own state; `null` when it did not answer in time.
    pub details: Value,
    pub children: Vec<ActorReport>,
}

/// What waits for an actor, in messages.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MailboxReport {
    pub depth: usize,
    pub capacity: usize,
}

/// Say what you are.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Details")]
pub struct Observe;

/// What an actor alone knows of itself.
#[derive(Debug, Clone, Default)]
pub struct Details {
    pub state: Value,
    /// Actors that it looks after itself.
    pub children: Vec<ActorReport>,
}

impl Details {
    /// Those of an actor that looks after no other.
    pub fn of(state: Value) -> Self {
        Self { state, children: Vec::new() }
    }
}

/// Seconds since `start`, for reports.
pub fn uptime_seconds(start: Instant) -> f64 {
    (start.elapsed().as_secs_f64() * 1e3).round() / 1e3
}
