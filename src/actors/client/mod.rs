//! A client: delivers the events of one service, through its circuit breaker.
//!
//! It claims due deliveries from the store, posts them, and has persistence store how the attempts ended. In memory it
//! keeps only the deliveries in hand; the store has all of them. It also sends what others in this process
//! [ask](asks) of the service. The [`Dispatcher`] makes all decisions, which are carried out here.
//!
//! - CL-4: a delivery counts as in flight from its request until its outcome is stored. At most as many requests as the
//!   concurrency allows are under way, and at most 256 outcomes wait to be stored. A crash repeats no other deliveries.
//! - CL-5: of several processes, only the holder of the service's lease changes the stored state. It begins with that
//!   state when it gets the lease. The other processes store commands for it.

mod asks;
mod attempts;
mod calls;
mod claims;
mod ended;
mod kept;
mod lease;
pub mod messages;
mod operate;
pub mod policy;
pub mod post;
mod reading;
mod report;
mod resolve;
mod spans;
mod telling;
pub mod tls;
mod waits;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResult, ResponseActFuture,
    StreamHandler, WrapFuture,
};
use tokio::sync::oneshot;

use self::asks::Asks;
use self::attempts::Attempts;
use self::calls::Calls;
use self::claims::Claims;
use self::kept::Kept;
use self::lease::HandingOver;
use self::messages::{Ask, ReadTls};
use self::reading::Rounds;
use self::report::Rate;
use self::telling::{Cause, Told};
use self::waits::Waits;
use self::writes::Writes;
use super::call_ends::CallEnds;
use super::clock::Clock;
use super::cluster::Cluster;
use super::log_position::LogPosition;
use super::persistence::Persistence;
use super::service_slot::ServiceSlot;
use super::synchronizer::messages::Synchronize;
use crate::config::ServiceConfig;
use crate::domain::dispatch::{BlockedBy, Dispatcher, Next};
use crate::domain::event::Timestamp;
use crate::domain::lease::{Confidence, Lease, LeaseName};
use crate::domain::work::WorkId;
use crate::runtime::address::{Address, Generation, Mailbox};
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::runtime::report::{Details, Observe};
use crate::storage::Reader;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::service_metrics::ServiceMetrics;

/// Most messages that may wait.
pub const MAILBOX: usize = 1024;
/// Outcomes that may wait to be stored (CL-4). With more, nothing is sent.
const MAX_UNSETTLED: usize = 256;
/// How often the lease is asked for, and the store read without a hint.
const TICK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a failure of the store.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// What a client is made of. It is kept, to make the next generation.
#[derive(Clone)]
pub struct ClientParts {
    pub persistence: Address<Persistence>,
    pub synchronizer: Mailbox<Synchronize>,
    pub service: Arc<ServiceConfig>,
    pub slot: Arc<ServiceSlot>,
    pub position: Arc<LogPosition>,
    pub cluster: Arc<Cluster>,
    /// Apart from that of the edge: who asks for many events does not slow down deliveries.
    pub reader: Reader,
    pub call_ends: Arc<CallEnds>,
    pub metrics: Arc<Metrics>,
    pub log_activity: bool,
}

/// See the module.
pub struct Client {
    parts: ClientParts,
    metrics: ServiceMetrics,
    clock: Clock,
    attempts: Attempts,
    kept: Kept,
    lease_name: LeaseName,
    lease: Lease<Confidence>,
    handing_over: HandingOver,
    /// The generation of this node as a member when its lease was confirmed last.
    term: i64,
    dispatcher: Dispatcher,
    claims: Claims,
    asks: Asks,
    calls: Calls,
    rounds: Rounds,
    waits: Waits,
    writes: Writes,
    told: Told,
    drained: Vec<oneshot::Sender<()>>,
    rate: Rate,
    life: Life,
}

/// There may be something to deliver.
#[derive(Message)]
#[rtype(result = "()")]
struct WorkArrived;

impl Client {
    pub fn new(parts: ClientParts, life: Life) -> Self {
        let clock = Clock::start();
        let options = &parts.service.options;
        Self {
            metrics: parts.metrics.service(&parts.service.name),
            attempts: Attempts::new(&parts.service),
            kept: Kept::default(),
            lease_name: LeaseName::service(&parts.service.name),
            lease: Lease::default(),
            handing_over: HandingOver::default(),
            term: 0,
            dispatcher: Dispatcher::new(policy::dispatch_policy(options), None, clock.now()),
            claims: Claims::default(),
            asks: Asks::default(),
            calls: Calls::default(),
            rounds: Rounds::default(),
            waits: Waits::default(),
            writes: Writes::default(),
            told: Told::default(),
            drained: Vec::new(),
            rate: Rate::default(),
            clock,
            life,
            parts,
        }
    }

    /// What was sent, and is not known to be settled.
    fn under_way(&self) -> impl Iterator<Item = WorkId> {
        self.dispatcher.in_flight().chain(self.writes.ended())
    }

    /// Does all that can be done now: sends, reads, writes, and sets the timer for the rest.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        self.offer_asks();
        self.take_answers(ctx);
        self.offer_asks();
        let mut until = None;
        self.parts.slot.set_room(0);
        if self.lease.may_act() && !self.handing_over.is_silent(self.clock.now()) {
            until = self.send_all(ctx);
            self.mark_calls();
            self.read(ctx);
        }
        self.set_timer(until.into_iter().chain(self.asks.next_due()).min(), ctx);
        self.write(ctx);
        self.observe_figures();
        if self.dispatcher.in_flight().next().is_none() && self.writes.unsettled() == 0 {
            self.hand_over();
            for drained in self.drained.drain(..) {
                let _ = drained.send(());
            }
        }
    }

    /// Sends what may go out. Returns when there may be more.
    fn send_all(&mut self, ctx: &mut Context<Self>) -> Option<Timestamp> {
        // The lease is looked at before each request: a node that was frozen may have lost it.
        while self.writes.unsettled() < MAX_UNSETTLED && self.parts.cluster.may_act_in(self.term) {
            let now = self.clock.now();
            match self.dispatcher.next(now, rand::random()) {
                Next::Send(work) => match work.id {
                    WorkId::Delivery(_) => self.send(&work, ctx),
                    WorkId::Ask(number) => self.send_ask(number, ctx),
                },
                Next::Turned(transition) => self.turned(transition, Cause::Time),
                Next::Wait { until, why } => {
                    self.parts.slot.set_room(self.calls.room(self.dispatcher.free(now)));
                    if self.waits.see(why, until) && why == BlockedBy::Breaker {
                        self.metrics.not_permitted();
                    }
                    return until;
                }
            }
        }
        None
    }

    fn name(&self) -> &str {
        &self.parts.service.name
    }
}

impl Actor for Client {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        if let Some(reason) = self.attempts.unable() {
            log::error!(service = self.name(), reason; "service cannot be called");
        }
        let (slot, client) = (Arc::clone(&self.parts.slot), ctx.address().downgrade());
        actix_rt::spawn(async move {
            loop {
                slot.woken().await;
                // Waits until the client takes the message, so that further wake-ups need no message of their own.
                let is_taken = match client.upgrade() {
                    Some(client) => client.send(WorkArrived).await.is_ok(),
                    None => false,
                };
                if !is_taken {
                    // The wake-up is for the next generation of the client.
                    return slot.wake();
                }
            }
        });
        self.parts.slot.wake();
        ctx.add_stream(self.parts.persistence.generations());
        ctx.add_stream(self.parts.cluster.terms());
        ctx.run_interval(TICK_INTERVAL, |this, ctx| {
            this.begin_if_registered();
            this.claims.look_again();
            this.ask_for_lease(ctx);
            this.look_for_calls_of_others(ctx);
            this.rate.sample(this.metrics.delivered(), this.clock.now());
            this.observe_oldest(ctx);
        });
    }
}

impl Handler<WorkArrived> for Client {
    type Result = ();

    fn handle(&mut self, WorkArrived: WorkArrived, ctx: &mut Self::Context) {
        if self.begin_if_registered() {
            self.ask_for_lease(ctx);
        }
        self.claims.look_for_new();
        self.look_for_calls(ctx);
        if self.parts.slot.take_renewed() {
            self.claims.begin_round();
        }
        self.pump(ctx);
    }
}

/// There is another writer, or this node has become a member of the cluster, or is none any more.
impl StreamHandler<Generation> for Client {
    fn handle(&mut self, _: Generation, ctx: &mut Self::Context) {
        self.ask_for_lease(ctx);
    }
}

impl Handler<Observe> for Client {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, Observe: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(Details::of(self.report()))
    }
}

impl Handler<Finish> for Client {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, Finish: Finish, ctx: &mut Self::Context) -> Self::Result {
        self.dispatcher.drain();
        let (drained, is_drained) = oneshot::channel();
        self.drained.push(drained);
        self.pump(ctx);
        Box::pin(is_drained.into_actor(self).map(|_, this: &mut Self, ctx: &mut Context<Self>| {
            this.life.finish();
            ctx.stop();
        }))
    }
}

crate::supervised!(Client, ReadTls, Ask);

#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod post_tests;
#[cfg(test)]
mod tls_tests;
