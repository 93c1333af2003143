//! What the supervisor takes.

use actix::prelude::Message;
use actix_rt::ArbiterHandle;

use crate::actors::client::messages::{Obeyed, ServiceCommand};
use crate::actors::durables::messages::DurableStatus;
use crate::actors::observe::ActorReport;
use crate::actors::shard::messages::{FindSubscribers, Subscribers};
use crate::storage::Claimed;

/// A child of the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChildId {
    Persistence,
    Router,
    Durables,
    Shard(usize),
    /// By its place in the configuration.
    Client(usize),
}

/// Why a child is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It panicked; the thread lives on.
    Panicked,
    /// It stopped without being asked to.
    Stopped,
    /// It was asked to stop.
    Finished,
}

/// A child is gone.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct ChildExited {
    pub child: ChildId,
    pub generation: u64,
    pub exit: Exit,
}

/// An HTTP worker thread is ready for its shard.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct WorkerReady {
    pub number: usize,
    pub arbiter: ArbiterHandle,
}

/// Have the clients read their files for TLS again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReadTlsFiles;

/// Report the whole tree.
#[derive(Debug, Message)]
#[rtype(result = "ActorReport")]
pub struct ObserveTree;

/// Close the sessions; answers when they are gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Drain {
    /// Over how long the closing of sessions is spread.
    pub spread: std::time::Duration,
    /// Commit what waits then, and take no more.
    pub finish: bool,
}

/// Hand this to every shard; answers what those answer that do so in time.
#[derive(Debug, Message)]
#[rtype(result = "Vec<M::Result>")]
pub struct ToShards<M: Message + 'static>(pub M)
where
    M::Result: 'static;

/// Have the client of a service obey an operator; answers who does, none if there is no such service.
#[derive(Debug, Message)]
#[rtype(result = "Option<Obeyed>")]
pub struct OperateService {
    pub service: String,
    pub command: ServiceCommand,
}

/// Report the clients of all services, in the order of the configuration.
#[derive(Debug, Message)]
#[rtype(result = "Vec<ActorReport>")]
pub struct ObserveServices;

/// How do the durable subscriptions with members on this node fare?
#[derive(Debug, Message)]
#[rtype(result = "Vec<DurableStatus>")]
pub struct ListAllDurables;

/// Which deliveries are under way? Answers with the names of the services; all of them, unless one is named.
#[derive(Debug, Message)]
#[rtype(result = "Vec<(String, Vec<Claimed>)>")]
pub struct ListAllInFlight(pub Option<String>);

/// Whom would an event reach, on all shards together?
#[derive(Debug, Clone, Message)]
#[rtype(result = "Subscribers")]
pub struct FindAllSubscribers(pub FindSubscribers);

/// Panic, for tests.
#[cfg(feature = "fault-injection")]
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct InjectPanic {
    /// `persistence`, `router`, `durables`, `shard` or `client`.
    pub actor: String,
}
