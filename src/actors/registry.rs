//! The addresses of all supervised actors.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::prelude::{Actor, Addr, Handler, Message};
use futures_util::future::join_all;

use super::bus::Bus;
use super::client::Client;
use super::consumers::Consumers;
use super::membership::Membership;
use super::orchestrator::Orchestrator;
use super::persistence::Persistence;
use super::router::Router;
use super::shard::Shard;
use super::shard::leaving::drain_sessions;
use super::shard::messages::CheckAccess;
use super::supervisor::Supervisor;
use super::synchronizer::Synchronizer;
use super::system::SystemActor;
use crate::runtime::address::Address;

/// How long an actor may take to answer an operator's question.
const PATIENCE: Duration = Duration::from_millis(500);

/// The addresses of all actors but the sessions. They are made once, and clones share them.
#[derive(Clone)]
pub struct Registry {
    pub supervisor: Addr<Supervisor>,
    pub persistence: Address<Persistence>,
    pub membership: Address<Membership>,
    pub router: Address<Router>,
    pub consumers: Address<Consumers>,
    /// Vacant without a Redis.
    pub bus: Address<Bus>,
    /// One for each HTTP worker.
    pub shards: Arc<[Address<Shard>]>,
    /// By the names of their services.
    pub clients: Arc<BTreeMap<String, Address<Client>>>,
    /// Vacant if no service keeps a copy of entities.
    pub synchronizer: Address<Synchronizer>,
    pub orchestrator: Address<Orchestrator>,
    pub system: Address<SystemActor>,
}

impl Registry {
    /// Addresses without actors.
    pub fn vacant(supervisor: Addr<Supervisor>, workers: usize, services: impl Iterator<Item = String>) -> Self {
        Self {
            supervisor,
            persistence: Address::vacant(),
            membership: Address::vacant(),
            router: Address::vacant(),
            consumers: Address::vacant(),
            bus: Address::vacant(),
            shards: (0..workers).map(|_| Address::vacant()).collect(),
            clients: Arc::new(services.map(|name| (name, Address::vacant())).collect()),
            synchronizer: Address::vacant(),
            orchestrator: Address::vacant(),
            system: Address::vacant(),
        }
    }

    /// Has the shards close the sessions whose token is revoked now. Each shard also checks by itself every second.
    pub fn check_access(&self) {
        for shard in &*self.shards {
            let _ = shard.tell(CheckAccess);
        }
    }

    /// Has the shards close all sessions, spread over `spread`. The message waits for room in a full mailbox, so it is
    /// not lost.
    pub fn drain_sessions(&self, spread: Duration) {
        drain_sessions(&self.shards, spread);
    }

    /// Asks every shard. Returns the answers that come in time.
    pub fn ask_shards<M>(&self, message: M) -> impl Future<Output = Vec<M::Result>> + use<M>
    where
        M: Message + Clone + Send + 'static,
        M::Result: Send,
        Shard: Handler<M>,
    {
        let asked = self.shards.iter().map(|shard| in_time(shard, message.clone()));
        let answers = join_all(asked.collect::<Vec<_>>());
        async move { answers.await.into_iter().flatten().collect() }
    }
}

/// Asks an actor; `None` if it does not answer in time.
pub fn in_time<A, M>(address: &Address<A>, message: M) -> impl Future<Output = Option<M::Result>> + use<A, M>
where
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    let asked = tokio::time::timeout(PATIENCE, address.ask(message));
    async move { asked.await.ok()?.ok() }
}
