//! The supervisor: starts the other actors, restarts those that fail, and ends the process if too many fail.
//!
//! Its strategy is *one for one*: only the failed actor is restarted. The new generation reads its state from the
//! store, or gets it from the actors that use it. The other actors go on. They reach the new generation at the same
//! [address](crate::runtime::address). Messages that waited for the earlier one are lost, as any hint may be.
//!
//! - Persistence fails: the new one continues from the store. Publishes under way are answered with 503. Clients and
//!   consumers ask the new one for their leases.
//! - The router fails: the new one begins with the end of the log. By that its followers find the batches that the
//!   earlier one lost, and read them from the store.
//! - The consumers fail: the connections of their members are closed with a code that says "reconnect at once". The new
//!   generation continues from the store.
//! - A shard fails: its sessions are closed with a code that says "reconnect at once". A new shard starts on the same
//!   worker thread.
//! - A client fails: the new one claims again what is not settled in the store.
//!
//! SV-1: more failures than the restart intensity allows end the process with a non-zero code. Restarts do not heal
//! such a fault, so whoever watches the process has to know of it.

pub mod messages;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use actix::prelude::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, ResponseActFuture, ResponseFuture, WrapFuture,
};
use futures_util::future::join_all;
use serde_json::json;

use self::messages::{BeginFinish, FinishAll, ObserveTree, Ping, Supervise};
use crate::domain::restart::{RestartIntensity, RestartPolicy, Verdict};
use crate::runtime::address::Generation;
use crate::runtime::child::Child;
use crate::runtime::life::{Change, ChildChanged, ChildId, Exit, Life};
use crate::runtime::report::{ActorKind, ActorReport, ActorState, Details, MailboxReport, uptime_seconds};
use crate::telemetry::faults::{self, FaultPoint};
use crate::telemetry::health::ActorsHealth;
use crate::telemetry::metrics::Metrics;

/// Why an actor has failed, as the metric of restarts says it.
const REASONS: [&str; 2] = ["panic", "stopped"];

/// What the supervisor is made of.
pub struct SupervisorParts {
    pub restarts: RestartPolicy,
    pub health: Arc<ActorsHealth>,
    pub metrics: Arc<Metrics>,
    /// Called once when the supervisor gives up.
    pub escalate: Box<dyn FnOnce(String) + Send>,
}

/// See the module.
pub struct Supervisor {
    health: Arc<ActorsHealth>,
    metrics: Arc<Metrics>,
    escalate: Option<Box<dyn FnOnce(String) + Send>>,
    intensity: RestartIntensity,
    /// In the order of the tree.
    children: BTreeMap<ChildId, Supervision>,
    is_finishing: bool,
    started: Instant,
}

/// A child, and how often it was started.
struct Supervision {
    child: Child,
    generation: Generation,
    restarts: u64,
    began: Option<Instant>,
}

impl Supervisor {
    pub fn new(parts: SupervisorParts) -> Self {
        let SupervisorParts { restarts, health, metrics, escalate } = parts;
        Self {
            health,
            metrics,
            escalate: Some(escalate),
            intensity: RestartIntensity::new(restarts),
            children: BTreeMap::new(),
            is_finishing: false,
            started: Instant::now(),
        }
    }

    fn start(&mut self, id: ChildId, ctx: &Context<Self>) {
        let Some(supervision) = self.children.get_mut(&id) else { return };
        supervision.generation += 1;
        supervision.child.start(Life::new(id, supervision.generation, ctx.address().recipient()));
    }

    fn failed(&mut self, id: ChildId, exit: Exit, ctx: &mut Context<Self>) {
        let Some(supervision) = self.children.get_mut(&id) else { return };
        supervision.restarts += 1;
        let name = supervision.child.name.clone();
        let reason = match exit {
            Exit::Panicked => REASONS[0],
            Exit::Stopped | Exit::Finished => REASONS[1],
        };
        self.metrics.restarts.with_label_values(&[id.kind.as_str(), reason]).inc();
        self.health.set(name.clone(), false);
        match self.intensity.on_failure(Instant::now()) {
            Verdict::Escalate => self.give_up(&name),
            Verdict::RestartAfter(delay) => {
                log::error!(actor = name.as_str(), reason, delay_ms = delay.as_millis() as u64; "actor failed, restarting");
                ctx.run_later(delay, move |this, ctx| {
                    // The others are needed to the end; a new client or bus would begin what it is not to begin.
                    if this.is_finishing && id.kind > ActorKind::Session {
                        return;
                    }
                    this.start(id, ctx);
                    log::info!(actor = name.as_str(); "actor restarted");
                });
            }
        }
    }

    fn give_up(&mut self, name: &str) {
        log::error!(actor = name; "too many restarts, giving up");
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
            details: json!({ "children": children.len(), "draining": self.is_finishing }),
            children,
        }
    }
}

impl Supervision {
    /// The report of the child. `details` is null if it does not answer in time.
    fn report(&self, kind: ActorKind) -> impl Future<Output = ActorReport> + use<> {
        let mut report = ActorReport {
            name: self.child.name.clone(),
            kind,
            state: if self.began.is_some() { ActorState::Running } else { ActorState::Restarting },
            restarts: self.restarts,
            mailbox: self.child.mailbox(),
            uptime_seconds: self.began.map_or(0.0, uptime_seconds),
            details: serde_json::Value::Null,
            children: Vec::new(),
        };
        let observed = self.child.observe();
        async move {
            if let Some(Details { state, children }) = observed.await {
                (report.details, report.children) = (state, children);
            }
            report
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;
}

impl Handler<Supervise> for Supervisor {
    type Result = ();

    fn handle(&mut self, Supervise { id, child }: Supervise, ctx: &mut Self::Context) {
        // A child that takes the place of another continues its count, since generations are unique for each address.
        let (generation, restarts) = self.children.get(&id).map_or((0, 0), |of| (of.generation, of.restarts));
        // The series are there before their first count, or `increase` would miss that.
        for reason in REASONS {
            self.metrics.restarts.with_label_values(&[id.kind.as_str(), reason]);
        }
        self.children.insert(id, Supervision { child, generation, restarts, began: None });
        self.start(id, ctx);
    }
}

impl Handler<ChildChanged> for Supervisor {
    type Result = ();

    fn handle(&mut self, ChildChanged { child: id, generation, change }: ChildChanged, ctx: &mut Self::Context) {
        let Some(supervision) = self.children.get_mut(&id).filter(|of| of.generation == generation) else { return };
        match change {
            Change::Began => {
                supervision.began = Some(Instant::now());
                self.health.set(supervision.child.name.clone(), true);
            }
            Change::Ended(exit) => {
                supervision.began = None;
                supervision.child.clear(generation);
                if exit != Exit::Finished && !self.is_finishing {
                    self.failed(id, exit, ctx);
                }
            }
        }
    }
}

impl Handler<ObserveTree> for Supervisor {
    type Result = ResponseActFuture<Self, ActorReport>;

    fn handle(&mut self, ObserveTree { only }: ObserveTree, _: &mut Self::Context) -> Self::Result {
        let children = self.children.iter().filter(|(id, _)| only.is_none_or(|kind| id.kind == kind));
        let reports: Vec<_> = children.map(|(id, child)| child.report(id.kind)).collect();
        Box::pin(join_all(reports).into_actor(self).map(|children, this, _| this.report(children)))
    }
}

impl Handler<Ping> for Supervisor {
    type Result = ();

    fn handle(&mut self, Ping: Ping, ctx: &mut Self::Context) {
        if faults::strikes(FaultPoint::SupervisorHangs) {
            ctx.wait(std::future::pending::<()>().into_actor(self));
        }
    }
}

impl Handler<BeginFinish> for Supervisor {
    type Result = ();

    /// The clients begin no delivery any more, and settle those in flight while the sessions leave; the bus reads no more.
    fn handle(&mut self, BeginFinish: BeginFinish, _: &mut Self::Context) {
        self.is_finishing = true;
        for (_, supervision) in self.children.iter().filter(|(id, _)| id.kind > ActorKind::Session) {
            actix_rt::spawn((supervision.child.finisher())());
        }
    }
}

impl Handler<FinishAll> for Supervisor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, FinishAll: FinishAll, _: &mut Self::Context) -> Self::Result {
        self.is_finishing = true;
        let mut by_kind: BTreeMap<ActorKind, Vec<_>> = BTreeMap::new();
        for (id, supervision) in &self.children {
            by_kind.entry(id.kind).or_default().push(supervision.child.finisher());
        }
        Box::pin(async move {
            for (_, finishers) in by_kind.into_iter().rev() {
                join_all(finishers.into_iter().map(|finish| finish())).await;
            }
        })
    }
}

#[cfg(feature = "fault-injection")]
impl Handler<messages::PanicChild> for Supervisor {
    type Result = ();

    fn handle(&mut self, messages::PanicChild { kind }: messages::PanicChild, _: &mut Self::Context) {
        match self.children.iter().find(|(id, _)| id.kind.as_str() == kind) {
            Some((_, supervision)) => supervision.child.inject_panic(),
            None => panic!("injected fault in supervisor"),
        }
    }
}
