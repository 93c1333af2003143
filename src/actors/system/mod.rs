//! The system actor: tells everybody on this node the state of the whole system, and decides on it while it has the
//! lease.
//!
//! The store has the truth: publishes are judged by it within their transaction, whatever this node knows (SY-3). What
//! comes with the log is a hint to look.

mod deciding;
pub mod view;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{Actor, Context, Handler, MessageResult, ResponseActFuture};
use tokio::sync::Notify;
use tokio::time::timeout;

use self::deciding::Deciding;
use self::view::SystemView;
use super::clock;
use super::cluster::Cluster;
use super::follower::tenure::Candidate;
use super::persistence::Persistence;
use super::router::messages::RouteBatch;
use super::service_slot::ServiceSlot;
use super::shard::Shard;
use super::shard::leaving::{DRAIN_SPREAD, drain_sessions};
use crate::domain::breaker::{BreakerSnapshot, BreakerState};
use crate::domain::event::Timestamp;
use crate::domain::lease::LeaseName;
use crate::domain::membership::NodeRecord;
use crate::domain::system::{System, SystemState, Trouble};
use crate::protocol::system::{PREFIX, describe};
use crate::runtime::address::Address;
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::runtime::report::{Details, Observe};
use crate::runtime::stop::Stop;
use crate::runtime::tasks::{Tasked, Tasks};
use crate::storage::Reader;
use crate::telemetry::health::Health;

/// Messages that may wait. Each commit is one, and takes no time; more are dropped, as every beat looks anyway.
pub const MAILBOX: usize = 64;
/// The longest time between two looks.
const BEAT: Duration = Duration::from_millis(500);
/// The same at the start, when everybody waits for the first one.
const FIRST_BEAT: Duration = Duration::from_millis(5);

/// What the actor is made of; kept to make another.
#[derive(Clone)]
pub struct SystemParts {
    /// The services without which the system is degraded.
    pub critical: Arc<[Arc<ServiceSlot>]>,
    pub persistence: Address<Persistence>,
    pub reader: Reader,
    pub cluster: Arc<Cluster>,
    pub view: Arc<SystemView>,
    pub shards: Arc<[Address<Shard>]>,
    pub health: Arc<Health>,
}

/// See the module.
pub struct SystemActor {
    parts: SystemParts,
    tasks: Tasks,
}

impl SystemActor {
    pub fn new(parts: SystemParts, life: Life) -> Self {
        Self { parts, tasks: Tasks::new(life) }
    }
}

/// Learns the state of the system, and has the node behave so.
struct Looking {
    parts: SystemParts,
    stop: Stop,
    /// The store was read, and it is known which nodes there are.
    has_begun: bool,
    is_draining: bool,
    /// Whether the store was in trouble at the last look.
    was_ill: bool,
    /// Notified after each look.
    looked: Arc<Notify>,
}

impl Looking {
    async fn run(mut self) {
        loop {
            self.look().await;
            self.looked.notify_one();
            let beat = if self.has_begun { BEAT } else { FIRST_BEAT };
            if self.stop.or(timeout(beat, self.parts.view.woken())).await.is_none() {
                return;
            }
        }
    }

    async fn look(&mut self) {
        let SystemParts { view, reader, health, .. } = &self.parts;
        // Before the store is open, nobody reads.
        let stored = if health.store.is_up() { reader.system().await.ok() } else { None };
        if self.has_begun {
            // A hiccup is none: the store is in trouble when two looks find it so.
            let is_ill = !health.store.is_well();
            let is_of_store = std::mem::replace(&mut self.was_ill, is_ill) && is_ill;
            let reason = if is_of_store { Some("the store is in trouble".to_owned()) } else { self.open_breaker() };
            let before = view.trouble();
            let since = before.as_ref().map_or_else(clock::now, |trouble| trouble.since);
            let trouble = reason.map(|reason| Trouble { reason, since, is_of_store });
            if is_of_store && view.untold().is_none() {
                view.set_untold(trouble.clone().map(Arc::new));
            }
            view.set_trouble(trouble);
        }
        if let Some(stored) = stored {
            self.learn(stored);
        }
    }

    /// The reason why the system is degraded, if it is because of a service.
    fn open_breaker(&self) -> Option<String> {
        self.parts.critical.iter().find_map(|slot| {
            let json = slot.registered()?.breaker?;
            let snapshot: BreakerSnapshot = serde_json::from_str(&json).ok()?;
            let is_open = snapshot.state != BreakerState::Closed;
            is_open.then(|| format!("the circuit breaker of {} is {}", slot.name, snapshot.state.as_str()))
        })
    }

    fn learn(&mut self, stored: System) {
        let SystemParts { view, health, shards, cluster, .. } = &self.parts;
        let drains = stored.state == SystemState::Draining;
        let known = cluster.view();
        self.has_begun |= !known.nodes.is_empty();
        if self.has_begun {
            let is_over = drains && is_drain_over(&known.nodes, cluster.name(), stored.since, clock::now());
            view.set_ends_drain(is_over);
        }
        let drains = drains && self.has_begun && !view.ends_drain();
        if std::mem::replace(&mut self.is_draining, drains) != drains {
            health.set_system_draining(drains);
            if drains {
                drain_sessions(shards, DRAIN_SPREAD);
            }
        }
        if view.stored().is_none_or(|known| known.state != stored.state) {
            log::info!(state = stored.state.as_str(), reason = stored.reason.as_deref().unwrap_or("none"); "state of the system");
        }
        if self.has_begun {
            view.set_stored(stored);
        }
    }
}

/// Whether all nodes have ended that were there when the drain began, at `since`, and this one has come after them.
fn is_drain_over(nodes: &[NodeRecord], own: &Arc<str>, since: Timestamp, now: Timestamp) -> bool {
    let was_there = |node: &NodeRecord| node.is_member() && node.expires_at > now && node.started_at <= since;
    nodes.iter().any(|node| node.name == *own) && !nodes.iter().any(was_there)
}

impl Tasked for SystemActor {
    fn tasks(&mut self) -> &mut Tasks {
        &mut self.tasks
    }
}

impl Actor for SystemActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        let (parts, stop) = (self.parts.clone(), self.tasks.stop());
        let looked = Arc::<Notify>::default();
        let is_draining = parts.view.stored().is_some_and(|system| system.state == SystemState::Draining);
        let has_begun = parts.view.stored().is_some();
        let looking = Looking {
            parts: parts.clone(),
            stop: stop.clone(),
            has_begun,
            is_draining,
            was_ill: false,
            looked: Arc::clone(&looked),
        };
        let candidate = Candidate {
            lease: LeaseName::system(),
            position: "system".to_owned(),
            persistence: parts.persistence.clone(),
            cluster: Arc::clone(&parts.cluster),
            stop,
        };
        let deciding = Deciding { parts, candidate, looked };
        self.run(looking.run(), ctx);
        self.run(deciding.run(), ctx);
    }
}

impl Handler<RouteBatch> for SystemActor {
    type Result = ();

    /// A hint: the state is read from the store.
    fn handle(&mut self, RouteBatch(batch): RouteBatch, _: &mut Self::Context) {
        if batch.events.iter().any(|committed| committed.event.name.as_str().starts_with(PREFIX)) {
            self.parts.view.wake();
        }
    }
}

impl Handler<Observe> for SystemActor {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, Observe: Observe, _: &mut Self::Context) -> Self::Result {
        let SystemParts { view, .. } = &self.parts;
        let (stored, trouble) = (view.stored(), view.trouble());
        MessageResult(Details::of(stored.map(|stored| describe(&stored, trouble.as_deref())).into()))
    }
}

impl Handler<Finish> for SystemActor {
    type Result = ResponseActFuture<Self, ()>;

    /// What is under way is decided by another node, or by this one when it is there again.
    fn handle(&mut self, Finish: Finish, ctx: &mut Self::Context) -> Self::Result {
        Tasked::finish(self, ctx)
    }
}

crate::supervised!(SystemActor, RouteBatch);
