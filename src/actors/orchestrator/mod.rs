//! The orchestrator: runs the instances of sagas. One node does so in the whole cluster, and every node says which sagas
//! its files declare.
//!
//! What happens to instances is decided by [`crate::domain::saga`]. What that takes (calls of services, events, timers)
//! is stored in the transaction that says that it was decided: services are called by their clients.

mod aside;
mod commit;
mod definitions;
pub mod desk;
mod ends;
mod making;
mod recent;
mod running;
#[cfg(test)]
mod simulation;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{Actor, Context, Handler, MessageResult, ResponseActFuture};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::sleep;

pub use self::commit::{Commit, by_persistence};
pub use self::definitions::Definitions;
pub use self::making::Means;
use self::running::Running;
pub use self::running::RunningParts;
use super::follower::tenure::Candidate;
use super::follower::{Follower, Following};
use super::router::messages::RouteBatch;
use crate::domain::lease::LeaseName;
use crate::domain::saga::FOLLOWER;
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::runtime::report::{Details, Observe};
use crate::runtime::stop::Stop;
use crate::runtime::tasks::{Tasked, Tasks};
use crate::storage::{Outcome, StoredDefinition, Write};
use crate::telemetry::health::{StoreHealth, Unusable};

/// Most messages that may wait.
pub const MAILBOX: usize = 1024;
/// Before it is tried again to declare, or to find out whether there is anything to run.
const RETRY: Duration = Duration::from_millis(200);
/// How often a node says what it declares. What it has not said for some of these is forgotten.
const DECLARE_INTERVAL: Duration = Duration::from_secs(60);
/// How often a node without sagas looks whether there are any.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);

/// What the actor is made of; kept to make another.
#[derive(Clone)]
pub struct OrchestratorParts {
    pub running: RunningParts,
    /// The name of this node.
    pub node: String,
    /// What the files of this node declare.
    pub declared: Arc<[StoredDefinition]>,
    /// Notified when a call has ended.
    pub wake: Arc<Notify>,
    pub store: Arc<StoreHealth>,
}

/// See the module.
pub struct Orchestrator {
    parts: OrchestratorParts,
    following: Arc<Following>,
    tasks: Tasks,
}

impl Orchestrator {
    pub fn new(parts: OrchestratorParts, life: Life) -> Self {
        Self { parts, following: Arc::default(), tasks: Tasks::new(life) }
    }
}

impl OrchestratorParts {
    /// Says again and again what this node declares, until it is to stop.
    async fn declare(&self, stop: &Stop) {
        loop {
            let write = Write::DeclareSagas { node: self.node.clone(), sagas: self.declared.to_vec() };
            let Some(answer) = stop.or(self.running.persistence.commit(write)).await else { return };
            let wait = match answer {
                Ok(Outcome::Declared(conflicts)) => {
                    if let Some((name, version)) = conflicts.into_iter().next() {
                        return self.store.set_unusable(Unusable::Saga { name, version });
                    }
                    self.running.definitions.set_declared();
                    DECLARE_INTERVAL
                }
                _ => RETRY,
            };
            if stop.or(sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// Whether there is anything to run: sagas that begin instances, or instances that have not ended. None: nobody knows.
    async fn has_any(&self) -> Option<bool> {
        // What this node declares is stored first.
        if !self.store.is_up() || !self.running.definitions.are_declared() {
            return None;
        }
        let reader = &self.running.reader;
        let declared = reader.declared_sagas().await.ok()?;
        let counts = reader.saga_counts().await.ok()?;
        Some(!declared.is_empty() || counts.iter().any(|(_, state, count)| state.is_live() && *count > 0))
    }

    /// Runs instances whenever this node holds the lease, until it is to stop.
    async fn orchestrate(&self, following: Arc<Following>, stop: Stop) {
        loop {
            let Some(has_any) = stop.or(self.has_any()).await else { return };
            let wait = match has_any {
                Some(true) => break,
                Some(false) => IDLE_INTERVAL,
                None => RETRY,
            };
            if stop.or(sleep(wait)).await.is_none() {
                return;
            }
        }
        let running = &self.running;
        let candidate = Candidate {
            lease: LeaseName::sagas(),
            position: FOLLOWER.to_owned(),
            persistence: running.persistence.clone(),
            cluster: Arc::clone(&running.cluster),
            stop,
        };
        let follower = Follower {
            candidate,
            reader: running.reader.clone(),
            log: Arc::clone(&running.position),
            store: Arc::clone(&self.store),
            wake: Arc::clone(&self.wake),
            following,
            metrics: Arc::clone(&running.metrics),
        };
        let Ok(()) = follower.run(&mut Running::new(running.clone())).await;
    }
}

impl Tasked for Orchestrator {
    fn tasks(&mut self) -> &mut Tasks {
        &mut self.tasks
    }
}

impl Actor for Orchestrator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        let (parts, stop) = (self.parts.clone(), self.tasks.stop());
        self.run(async move { parts.declare(&stop).await }, ctx);
        let (parts, stop, following) = (self.parts.clone(), self.tasks.stop(), Arc::clone(&self.following));
        self.run(async move { parts.orchestrate(following, stop).await }, ctx);
    }
}

impl Handler<RouteBatch> for Orchestrator {
    type Result = ();

    /// A hint: the events are read from the store.
    fn handle(&mut self, _: RouteBatch, _: &mut Self::Context) {
        self.parts.wake.notify_one();
    }
}

impl Handler<Observe> for Orchestrator {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, Observe: Observe, _: &mut Self::Context) -> Self::Result {
        let declared = self.parts.declared.iter().map(|saga| (saga.saga.clone(), saga.version.into()));
        let declared: serde_json::Map<_, _> = declared.collect();
        MessageResult(Details::of(json!({ "declared": declared, "log": self.following.describe() })))
    }
}

impl Handler<Finish> for Orchestrator {
    type Result = ResponseActFuture<Self, ()>;

    /// What was decided is stored: who holds the lease next goes on.
    fn handle(&mut self, Finish: Finish, ctx: &mut Self::Context) -> Self::Result {
        Tasked::finish(self, ctx)
    }
}

crate::supervised!(Orchestrator, RouteBatch);
