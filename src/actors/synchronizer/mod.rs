//! The synchronizer: compares the state of the services whose leases this node holds with the entities, and repairs it.
//!
//! For each such service it has a task, which does one thing at a time. What a service is asked, and what it is sent,
//! goes through its client, as deliveries do. All that a check knows is in memory: after a crash the service is checked
//! again, and what remains is found.

mod asking;
mod keeping;
pub mod messages;
mod orders;
mod repairing;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{Actor, Context, Handler, MessageResult, ResponseActFuture};

use self::keeping::{Keeping, Progress};
use self::messages::Synchronize;
use self::orders::Orders;
use super::client::messages::Ask;
use super::cluster::Cluster;
use super::log_position::LogPosition;
use super::persistence::Persistence;
use super::service_slot::ServiceSlot;
use crate::config::ServiceConfig;
use crate::runtime::address::{Address, Mailbox};
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::runtime::report::{Details, Observe};
use crate::runtime::tasks::{Tasked, Tasks};
use crate::storage::Reader;
use crate::telemetry::metrics::Metrics;

/// Most messages that may wait.
pub const MAILBOX: usize = 1024;

/// What the actor is made of; kept to make another.
#[derive(Clone)]
pub struct SynchronizerParts {
    pub services: Arc<[SyncedService]>,
    /// How long it takes until a service has what it has changed itself.
    pub settle: Duration,
    pub persistence: Address<Persistence>,
    /// Apart from those of others: a digest of many entities holds up nobody.
    pub reader: Reader,
    pub position: Arc<LogPosition>,
    pub cluster: Arc<Cluster>,
    pub metrics: Arc<Metrics>,
}

/// A service that keeps a copy of entities.
#[derive(Clone)]
pub struct SyncedService {
    pub config: Arc<ServiceConfig>,
    pub slot: Arc<ServiceSlot>,
    pub client: Mailbox<Ask>,
}

/// See the module.
pub struct Synchronizer {
    parts: SynchronizerParts,
    /// What is asked for at each service, and how far it is.
    services: BTreeMap<String, (Rc<Orders>, Rc<Progress>)>,
    tasks: Tasks,
}

impl Synchronizer {
    pub fn new(parts: SynchronizerParts, life: Life) -> Self {
        Self { parts, services: BTreeMap::new(), tasks: Tasks::new(life) }
    }
}

impl Tasked for Synchronizer {
    fn tasks(&mut self) -> &mut Tasks {
        &mut self.tasks
    }
}

impl Actor for Synchronizer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        for service in Arc::clone(&self.parts.services).iter() {
            let (orders, progress) = <(Rc<Orders>, Rc<Progress>)>::default();
            let keeping = Keeping::new(&self.parts, service.clone(), self.tasks.stop(), Rc::clone(&orders));
            let shown = Rc::clone(&progress);
            let task = async move { keeping.run(&shown).await };
            self.services.insert(service.config.name.clone(), (orders, progress));
            self.run(task, ctx);
        }
    }
}

impl Handler<Synchronize> for Synchronizer {
    type Result = ();

    fn handle(&mut self, Synchronize { service, demand }: Synchronize, _: &mut Self::Context) {
        if let Some((orders, _)) = self.services.get(&service) {
            orders.push(demand);
        }
    }
}

impl Handler<Observe> for Synchronizer {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, Observe: Observe, _: &mut Self::Context) -> Self::Result {
        let services = self.services.iter().map(|(name, (_, progress))| (name.clone(), progress.describe()));
        MessageResult(Details::of(services.collect::<serde_json::Map<_, _>>().into()))
    }
}

impl Handler<Finish> for Synchronizer {
    type Result = ResponseActFuture<Self, ()>;

    /// Nothing more is asked: who holds the services next checks them again.
    fn handle(&mut self, Finish: Finish, ctx: &mut Self::Context) -> Self::Result {
        Tasked::finish(self, ctx)
    }
}

crate::supervised!(Synchronizer, Synchronize);
