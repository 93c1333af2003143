//! The supervisor: spawns the other actors, watches them, restarts them from their parts, and gives up loudly.
//!
//! Children stand in an order: persistence, router, durables, shards, clients. When one fails, those after it that
//! hold its address are started anew or given the new address (rest for one); those before it go on untouched:
//!
//! - persistence fails: a new one continues from the store; workers get its address. Sessions notice nothing.
//! - the router fails: a new one gets every shard attached, persistence the new address. Batches lost on the
//!   way are found as a gap and read from the store.
//! - the durable subscriptions fail: their members are closed with a code that says "reconnect at once"; new ones go on
//!   from the store.
//! - a shard fails: its sessions are closed with a code that says "reconnect at once"; a new one starts on the
//!   same worker thread.
//! - a client fails: a new one claims anew what is not settled in the store.
//!
//! SV-1: more failures than the restart intensity allows end the process with a non-zero code, because a fault that
//! restarts do not heal is for whoever watches the process.

pub mod guard;
pub mod messages;
mod services;
mod starting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, ResponseActFuture, ResponseFuture, WrapFuture,
};
use actix_rt::{Arbiter, ArbiterHandle};
use serde_json::json;

use self::guard::ExitGuard;
use self::messages::{ChildExited, ChildId, Drain, Exit, ObserveTree, ReadTlsFiles, WorkerReady};
use super::client::messages::{DrainDeliveries, ReadTls};
use super::client::{Client, ClientParts};
use super::durables::messages::FinishDurables;
use super::durables::{self, Durables, DurablesParts};
use super::mailbox::{Depth, Mailbox};
use super::observe::{ActorKind, ActorReport, ActorState, MailboxReport, uptime_seconds};
use super::persistence::messages::{AppendEvents, EventsCommitted, FinishCommits, Observe as ObservePersistence};
use super::persistence::{self, Persistence, PersistenceParts};
use super::router::messages::{Attach, Follower, Observe as ObserveRouter, RouteBatch};
use super::router::{self, Router};
use super::shard::messages::{CheckAccess, CloseSession, DrainSessions};
use super::shard::{self, Shard};
use super::worker::connect_intake;
use crate::domain::restart::{RestartIntensity, RestartPolicy, Verdict};
use crate::protocol::close::CloseReason;
use crate::telemetry::health::ActorsHealth;
use crate::telemetry::metrics::Metrics;

/// How long an actor may take to say what it is before the tree is reported without its word.
const OBSERVE_TIMEOUT: Duration = Duration::from_millis(500);

/// What the supervisor is made of.
pub struct SupervisorParts {
    pub persistence: PersistenceParts,
    pub clients: Vec<ClientParts>,
    pub durables: DurablesParts,
    pub restarts: RestartPolicy,
    pub health: Arc<ActorsHealth>,
    pub metrics: Arc<Metrics>,
    /// Called once when the supervisor gives up.
    pub escalate: Box<dyn FnOnce(String) + Send>,
}

/// See the module.
pub struct Supervisor {
    persistence_parts: PersistenceParts,
    client_parts: Vec<ClientParts>,
    durables_parts: DurablesParts,
    health: Arc<ActorsHealth>,
    metrics: Arc<Metrics>,
    escalate: Option<Box<dyn FnOnce(String) + Send>>,
    intensity: RestartIntensity,
    /// Where persistence may block.
    store_arbiter: Arbiter,
    /// Where all clients run, and the durable subscriptions.
    delivery_arbiter: Arbiter,
    lives: BTreeMap<ChildId, Life>,
    persistence: Option<Child<Persistence, AppendEvents>>,
    router: Option<Child<Router, EventsCommitted>>,
    workers: BTreeMap<usize, ArbiterHandle>,
    shards: BTreeMap<usize, Child<Shard, RouteBatch>>,
    clients: BTreeMap<usize, Addr<Client>>,
    durables: Option<Child<Durables, RouteBatch>>,
    draining: bool,
    started: Instant,
}

/// A running child: who it is, and the way to it that counts what waits.
struct Child<A: Actor, M: actix::Message<Result = ()> + Send> {
    address: Addr<A>,
    mailbox: Mailbox<M>,
}

/// The lives of a child so far.
#[derive(Debug, Clone, Copy, Default)]
struct Life {
    generation: u64,
    restarts: u64,
}

impl Supervisor {
    pub fn new(parts: SupervisorParts) -> Self {
        let SupervisorParts { persistence, clients, durables, restarts, health, metrics, escalate } = parts;
        Self {
            persistence_parts: persistence,
            delivery_arbiter: Arbiter::new(),
            client_parts: clients,
            durables_parts: durables,
            health,
            metrics,
            escalate: Some(escalate),
            intensity: RestartIntensity::new(restarts),
            store_arbiter: Arbiter::new(),
            lives: BTreeMap::new(),
            persistence: None,
            router: None,
            workers: BTreeMap::new(),
            shards: BTreeMap::new(),
            clients: BTreeMap::new(),
            durables: None,
            draining: false,
            started: Instant::now(),
        }
    }

    fn start(&mut self, child: ChildId, ctx: &mut Context<Self>) {
        match child {
            ChildId::Router => self.start_router(ctx),
            ChildId::Persistence => self.start_persistence(ctx),
            ChildId::Client(number) => self.start_client(number, ctx),
            ChildId::Durables => self.start_durables(ctx),
            // At work once its thread has said so.
            ChildId::Shard(number) => return self.start_shard(number, ctx),
        }
        self.health.set(self.name_of(child), true);
    }

    fn guard(&mut self, child: ChildId, ctx: &Context<Self>) -> ExitGuard {
        let life = self.lives.entry(child).or_default();
        life.generation += 1;
        ExitGuard::new(child, life.generation, ctx.address().recipient())
    }

    fn name_of(&self, child: ChildId) -> String {
        match child {
            ChildId::Persistence => "persistence".into(),
            ChildId::Router => "router".into(),
            ChildId::Durables => "durables".into(),
            ChildId::Shard(number) => format!("shard/{number}"),
            ChildId::Client(number) => {
                format!("client/{}", self.client_parts.get(number).map_or("", |parts| &parts.service.name))
            }
        }
    }

    fn give_up(&mut self, child: ChildId) {
        let name = self.name_of(child);
        log::error!(actor = name.as_str(); "too many restarts, giving up");
        if let Some(escalate) = self.escalate.take() {
            escalate(format!("{name} failed more often than supervision.max_restarts allows"));
        }
    }

    fn report(&self, children: Vec<ActorReport>) -> ActorReport {
        ActorReport {
            name: "supervisor".into(),
            kind: ActorKind::Supervisor,
            state: ActorState::Running,
            restarts: 0,
            mailbox: MailboxReport { depth: 0, capacity: 16 },
            uptime_seconds: uptime_seconds(self.started),
            details: json!({ "children": children.len(), "draining": self.draining }),
            children,
        }
    }
}

/// From a worker thread: its shard runs.
#[derive(actix::Message)]
#[rtype(result = "()")]
struct ShardStarted {
    number: usize,
    address: Addr<Shard>,
    depth: Depth,
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.start(ChildId::Router, ctx);
        self.start(ChildId::Persistence, ctx);
        self.start(ChildId::Durables, ctx);
        for number in 0..self.client_parts.len() {
            self.start(ChildId::Client(number), ctx);
        }
    }
}

impl Handler<WorkerReady> for Supervisor {
    type Result = ();

    fn handle(&mut self, WorkerReady { number, arbiter }: WorkerReady, ctx: &mut Self::Context) {
        if let Some(persistence) = &self.persistence {
            let mailbox = persistence.mailbox.clone();
            arbiter.spawn_fn(move || connect_intake(mailbox));
        }
        self.workers.insert(number, arbiter);
        self.start(ChildId::Shard(number), ctx);
    }
}

impl Handler<ShardStarted> for Supervisor {
    type Result = ();

    fn handle(&mut self, ShardStarted { number, address, depth }: ShardStarted, _: &mut Self::Context) {
        let mailbox = Mailbox::new(address.clone().recipient(), depth);
        if let Some(router) = &self.router {
            router.address.do_send(Attach { follower: Follower::Shard(number), mailbox: mailbox.clone() });
        }
        self.shards.insert(number, Child { address, mailbox });
        self.health.set(self.name_of(ChildId::Shard(number)), true);
    }
}

impl Handler<ChildExited> for Supervisor {
    type Result = ();

    fn handle(&mut self, ChildExited { child, generation, exit }: ChildExited, ctx: &mut Self::Context) {
        let life = self.lives.entry(child).or_default();
        if exit == Exit::Finished || self.draining || generation != life.generation {
            return;
        }
        life.restarts += 1;
        let name = self.name_of(child);
        let reason = match exit {
            Exit::Panicked => "panic",
            Exit::Stopped | Exit::Finished => "stopped",
        };
        self.metrics.restarts.with_label_values(&[child_kind(child), reason]).inc();
        self.health.set(name.clone(), false);
        if let ChildId::Shard(number) = child {
            self.shards.remove(&number);
        }
        match self.intensity.on_failure(Instant::now()) {
            Verdict::Escalate => self.give_up(child),
            Verdict::RestartAfter(delay) => {
                log::error!(actor = name.as_str(), reason, delay_ms = delay.as_millis() as u64; "actor failed, restarting");
                ctx.run_later(delay, move |this, ctx| {
                    this.start(child, ctx);
                    log::info!(actor = this.name_of(child).as_str(); "actor restarted");
                });
            }
        }
    }
}

impl Handler<ObserveTree> for Supervisor {
    type Result = ResponseActFuture<Self, ActorReport>;

    fn handle(&mut self, ObserveTree: ObserveTree, _: &mut Self::Context) -> Self::Result {
        let lives = self.lives.clone();
        let health = Arc::clone(&self.health);
        let persistence = self.persistence.as_ref().map(|c| (c.address.clone(), c.mailbox.depth()));
        let router = self.router.as_ref().map(|c| (c.address.clone(), c.mailbox.depth()));
        let durables = self.durables.as_ref().map(|c| (c.address.clone(), c.mailbox.depth()));
        let shard = |n: &usize| (*n, self.name_of(ChildId::Shard(*n)), self.shards.get(n).map(|c| c.address.clone()));
        let shards: Vec<_> = self.workers.keys().map(shard).collect();
        let clients = self.observe_clients();
        let observe = async move {
            let mut children = Vec::new();
            let known = |child: ChildId, name: String| Known {
                child,
                life: lives.get(&child).copied().unwrap_or_default(),
                is_running: health.get(&name),
                name,
            };
            if let Some((address, depth)) = persistence {
                let report = address.send(ObservePersistence).timeout(OBSERVE_TIMEOUT).await.ok().flatten();
                let silent = MailboxReport { depth, capacity: persistence::MAILBOX };
                children.push(known(ChildId::Persistence, "persistence".into()).complete(report, silent));
            }
            if let Some((address, depth)) = router {
                let report = address.send(ObserveRouter).timeout(OBSERVE_TIMEOUT).await.ok().flatten();
                let silent = MailboxReport { depth, capacity: router::MAILBOX };
                children.push(known(ChildId::Router, "router".into()).complete(report, silent));
            }
            if let Some((address, depth)) = durables {
                let report = address.send(ObserveRouter).timeout(OBSERVE_TIMEOUT).await.ok().flatten();
                let silent = MailboxReport { depth, capacity: durables::MAILBOX };
                children.push(known(ChildId::Durables, "durables".into()).complete(report, silent));
            }
            for (number, name, address) in shards {
                let child = ChildId::Shard(number);
                let report = match address {
                    Some(address) => address.send(ObserveRouter).timeout(OBSERVE_TIMEOUT).await.ok().flatten(),
                    None => None,
                };
                let silent = MailboxReport { depth: 0, capacity: shard::MAILBOX };
                children.push(known(child, name).complete(report, silent));
            }
            children.extend(clients.await);
            children
        };
        Box::pin(observe.into_actor(self).map(|children, this, _| this.report(children)))
    }
}

impl Handler<CloseSession> for Supervisor {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, close: CloseSession, _: &mut Self::Context) -> Self::Result {
        let shards: Vec<_> = self.shards.values().map(|c| c.address.clone()).collect();
        Box::pin(async move {
            for shard in shards {
                if let Ok(true) = shard.send(close).timeout(OBSERVE_TIMEOUT).await {
                    return true;
                }
            }
            false
        })
    }
}

impl Handler<CheckAccess> for Supervisor {
    type Result = ();

    fn handle(&mut self, check: CheckAccess, _: &mut Self::Context) {
        for shard in self.shards.values() {
            // One for each revocation; and every shard looks by itself each second.
            shard.address.do_send(check);
        }
    }
}

impl Handler<ReadTlsFiles> for Supervisor {
    type Result = ();

    fn handle(&mut self, ReadTlsFiles: ReadTlsFiles, _: &mut Self::Context) {
        // One for each time that an operator asks for it.
        self.clients.values().for_each(|client| client.do_send(ReadTls));
    }
}

impl Handler<Drain> for Supervisor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, Drain { spread, finish }: Drain, _: &mut Self::Context) -> Self::Result {
        self.draining |= finish;
        for shard in self.shards.values() {
            shard.address.do_send(DrainSessions { reason: CloseReason::Draining, spread });
        }
        let sessions = self.metrics.sessions.clone();
        let persistence = self.persistence.as_ref().filter(|_| finish).map(|c| c.address.clone());
        let clients = self.clients.values().filter(|_| finish);
        let settled: Vec<_> = clients.map(|client| client.send(DrainDeliveries)).collect();
        let durables = self.durables.as_ref().filter(|_| finish).map(|c| c.address.clone());
        let drained = async move {
            // Sessions leave on their own once told; a peer that does not is left to the end of the grace period.
            let mut looks = tokio::time::interval(Duration::from_millis(20));
            while sessions.get() > 0 {
                looks.tick().await;
            }
            futures_util::future::join_all(settled).await;
            if let Some(durables) = durables {
                let _ = durables.send(FinishDurables).await;
            }
            if let Some(persistence) = persistence {
                let _ = persistence.send(FinishCommits).await;
            }
        };
        Box::pin(drained.into_actor(self))
    }
}

#[cfg(feature = "fault-injection")]
impl Handler<messages::InjectPanic> for Supervisor {
    type Result = ();

    fn handle(&mut self, fault: messages::InjectPanic, _: &mut Self::Context) {
        match fault.actor.as_str() {
            "persistence" => self.persistence.iter().for_each(|c| c.address.do_send(fault.clone())),
            "router" => self.router.iter().for_each(|c| c.address.do_send(fault.clone())),
            "durables" => self.durables.iter().for_each(|c| c.address.do_send(fault.clone())),
            "client" => self.clients.values().take(1).for_each(|address| address.do_send(fault.clone())),
            "shard" => self.shards.values().take(1).for_each(|c| c.address.do_send(fault.clone())),
            _ => panic!("injected fault in supervisor"),
        }
    }
}

/// What only the supervisor knows of a child.
struct Known {
    child: ChildId,
    name: String,
    life: Life,
    is_running: bool,
}

impl Known {
    /// The child's report with that, or another in its stead if it did not answer.
    fn complete(self, report: Option<ActorReport>, silent: MailboxReport) -> ActorReport {
        let state = if self.is_running { ActorState::Running } else { ActorState::Restarting };
        let mut report = report.unwrap_or_else(|| ActorReport {
            name: self.name,
            kind: match self.child {
                ChildId::Persistence => ActorKind::Persistence,
                ChildId::Router => ActorKind::Router,
                ChildId::Durables => ActorKind::Durables,
                ChildId::Shard(_) => ActorKind::Shard,
                ChildId::Client(_) => ActorKind::Client,
            },
            state,
            restarts: 0,
            mailbox: silent,
            uptime_seconds: 0.0,
            details: serde_json::Value::Null,
            children: Vec::new(),
        });
        report.state = state;
        report.restarts = self.life.restarts;
        report
    }
}

fn child_kind(child: ChildId) -> &'static str {
    match child {
        ChildId::Persistence => "persistence",
        ChildId::Router => "router",
        ChildId::Durables => "durables",
        ChildId::Shard(_) => "shard",
        ChildId::Client(_) => "client",
    }
}
