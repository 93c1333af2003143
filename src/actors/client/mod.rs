//! A client: delivers the events of one service, through its circuit breaker.
//!
//! It claims what is due from the store, posts it, and has persistence write down how that ended. What it keeps in
//! memory is only what it has in hand; the store has the rest. All decisions are those of the
//! [`Dispatcher`](crate::domain::dispatch::Dispatcher); here they are carried out.
//!
//! - CL-4: a delivery counts as in flight from its request until its end is in the store. Of these there are at most
//!   as many as the concurrency allows, and 256 more whose end is on its way: a crash repeats no others.
//! - CL-5: of several processes, only the one that holds the service changes its stored state; it begins with that
//!   state when it takes the hold. The others leave it commands.

mod attempts;
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

use self::attempts::Attempts;
use self::claims::Claims;
use self::kept::Kept;
use self::messages::ReadTls;
use self::reading::Rounds;
use self::report::Rate;
use self::telling::{Cause, Told};
use self::waits::Waits;
use self::writes::Writes;
use super::clock::Clock;
use super::log_position::LogPosition;
use super::persistence::Persistence;
use super::service_slot::ServiceSlot;
use crate::config::ServiceConfig;
use crate::domain::dispatch::{BlockedBy, Dispatcher, Next};
use crate::domain::event::Timestamp;
use crate::domain::lease::{Confidence, Lease};
use crate::domain::work::WorkId;
use crate::runtime::address::{Address, Generation};
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::runtime::report::{Details, Observe};
use crate::storage::Reader;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::service_metrics::ServiceMetrics;

/// Messages that may wait.
pub const MAILBOX: usize = 1024;
/// Deliveries that have ended while their end is still on its way to the store. With more, nothing is sent.
const MAX_UNSETTLED: usize = 256;
/// How often the hold on a service is made sure of, and the store looked at without being asked to.
const TICK_INTERVAL: Duration = Duration::from_secs(2);
/// After a failure of the store.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// What a client is made of; kept by the supervisor to make another.
#[derive(Clone)]
pub struct ClientParts {
    pub persistence: Address<Persistence>,
    pub service: Arc<ServiceConfig>,
    pub slot: Arc<ServiceSlot>,
    pub position: Arc<LogPosition>,
    /// Apart from that of the edge: who asks for many events does not slow down deliveries.
    pub reader: Reader,
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
    lease: Lease<Confidence>,
    dispatcher: Dispatcher,
    claims: Claims,
    rounds: Rounds,
    waits: Waits,
    writes: Writes,
    told: Told,
    drained: Vec<oneshot::Sender<()>>,
    rate: Rate,
    life: Life,
}

/// Something may be there to deliver.
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
            lease: Lease::default(),
            dispatcher: Dispatcher::new(policy::dispatch_policy(options), None, clock.now()),
            claims: Claims::default(),
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

    /// Sent, and not known to be settled.
    fn under_way(&self) -> impl Iterator<Item = WorkId> {
        self.dispatcher.in_flight().chain(self.writes.ended())
    }

    /// Does all that can be done now: sends, reads, settles, and sets the timer for the rest.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        if self.lease.is_held() {
            let until = self.send_all(ctx);
            self.read(ctx);
            self.set_timer(until, ctx);
        }
        self.write(ctx);
        self.observe_figures();
        if self.dispatcher.in_flight().next().is_none() && self.writes.unsettled() == 0 {
            for drained in self.drained.drain(..) {
                let _ = drained.send(());
            }
        }
    }

    /// Sends what may go out; returns when there may be more.
    fn send_all(&mut self, ctx: &mut Context<Self>) -> Option<Timestamp> {
        while self.writes.unsettled() < MAX_UNSETTLED {
            let now = self.clock.now();
            match self.dispatcher.next(now, rand::random()) {
                Next::Send(work) => self.send(&work, ctx),
                Next::Turned(transition) => self.turned(transition, Cause::Time),
                Next::Wait { until, why } => {
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
                // Waits until it is taken: what comes meanwhile needs no message of its own.
                let is_taken = match client.upgrade() {
                    Some(client) => client.send(WorkArrived).await.is_ok(),
                    None => false,
                };
                if !is_taken {
                    // It was for the client after this one.
                    return slot.wake();
                }
            }
        });
        self.parts.slot.wake();
        ctx.add_stream(self.parts.persistence.generations());
        ctx.run_interval(TICK_INTERVAL, |this, ctx| {
            this.begin_if_registered();
            this.claims.look_again();
            this.ask_for_lease(ctx);
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
        if self.parts.slot.take_renewed() {
            self.claims.begin_round();
        }
        self.pump(ctx);
    }
}

/// A writer is there that was not there before: what the earlier one held is to be asked for anew.
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

crate::supervised!(Client, ReadTls);

#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod post_tests;
#[cfg(test)]
mod tls_tests;
