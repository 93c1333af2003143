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

mod claims;
mod ended;
mod hold;
pub mod messages;
mod operate;
pub mod policy;
pub mod post;
mod reading;
mod report;
mod resolve;
pub mod tls;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, Recipient, ResponseActFuture,
    SpawnHandle, WrapFuture,
};
use tokio::sync::oneshot;

use self::claims::Claims;
use self::ended::Cause;
use self::messages::{ConnectPersistence, DrainDeliveries, Observe, ServiceCommand};
use self::post::{Attempt, Poster, TargetOptions};
use self::report::{LastError, Rate};
use super::clock::{self, Clock};
use super::log_position::LogPosition;
use super::mailbox::Mailbox;
use super::observe::ActorReport;
use super::persistence::messages::{CommitWrites, HoldService};
use super::service_slot::ServiceSlot;
use super::supervisor::guard::ExitGuard;
use crate::config::ServiceConfig;
use crate::domain::breaker::{BreakerState, Transition};
use crate::domain::dispatch::{BlockedBy, Dispatcher, Next, PendingWork};
use crate::domain::event::{Append, NewEvent, Timestamp};
use crate::domain::retry::RetrySchedule;
use crate::domain::routes::ServiceId;
use crate::domain::work::WorkId;
use crate::protocol::webhook::{Recipient as To, SigningKey, TraceIds, delivery_request};
use crate::storage::{CommandId, Reader, Registered, ServiceChange, Settlement, Write};
use crate::telemetry::faults::{self, FaultPoint};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::service_metrics::ServiceMetrics;

/// Messages that may wait.
pub const MAILBOX: usize = 1024;
/// Deliveries that have ended while their end is still on its way to the store. With more, nothing is sent.
const MAX_UNSETTLED: usize = 256;
/// How often the hold on a service is made sure of, and the store looked at without being asked to.
const CARE_INTERVAL: Duration = Duration::from_secs(2);
/// After a failure of the store.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// What a client is made of; kept by the supervisor to make another.
#[derive(Clone)]
pub struct ClientParts {
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
    persistence: Mailbox<CommitWrites>,
    hold: Recipient<HoldService>,
    metrics: ServiceMetrics,
    clock: Clock,
    poster: Result<Rc<Poster>, String>,
    keys: Vec<SigningKey>,
    schedule: RetrySchedule,
    /// Once the store knows the service.
    id: Option<ServiceId>,
    dispatcher: Dispatcher,
    /// Whether this process delivers to the service, and no other.
    is_held: bool,
    /// Whether the store failed since that was known: another process may have held the service meanwhile.
    is_hold_in_doubt: bool,
    /// What the store has of the service, as last known.
    stored: Option<Registered>,
    /// Commands up to this one, of other nodes, were obeyed.
    obeyed_through: CommandId,
    /// Commands for the process that holds the service, not on their way to the store yet.
    asked: Vec<ServiceCommand>,
    pause: Option<String>,
    claims: Claims,
    /// Why nothing is sent, as last seen.
    waits_for: BlockedBy,
    /// Until when, if nothing else happens.
    waits_until: Option<Timestamp>,
    /// Refusals in a row that say more of the service than of the events.
    refusals: u32,
    /// Whether the last page of claims could be read.
    can_read: bool,
    /// Ended, and not on their way to the store yet.
    ended: Vec<Settlement>,
    /// Events of its own, and whether its state is to be stored.
    own_events: Vec<NewEvent>,
    is_changed: bool,
    /// On their way to the store.
    settling: Option<Vec<Settlement>>,
    /// Whether something is left that was there while the breaker was open.
    recovering: bool,
    /// What was last told of the breaker: open, half open or closed.
    told: BreakerState,
    timer: Option<SpawnHandle>,
    /// When the next round through what is due begins.
    next_round: Option<(Timestamp, SpawnHandle)>,
    /// When the next retry is due that is not in hand, as far as is known.
    next_due: Option<Timestamp>,
    drained: Vec<oneshot::Sender<()>>,
    /// Operators who wait until what they have told it is stored.
    obeyed: Vec<oneshot::Sender<()>>,
    last_errors: VecDeque<LastError>,
    rate: Rate,
    started: Instant,
    guard: ExitGuard,
}

/// Something may be there to deliver.
#[derive(Message)]
#[rtype(result = "()")]
struct WorkArrived;

/// An attempt ended; none if its task was lost.
#[derive(Message)]
#[rtype(result = "()")]
struct AttemptEnded {
    id: WorkId,
    attempt: Option<AttemptEnd>,
}

/// How an attempt ended.
enum AttemptEnd {
    Posted(Attempt),
    /// Not sent: the request would have so many bytes.
    TooLarge(usize),
    /// Not sent: the configuration of the service cannot be used.
    Unable(String),
}

/// Reports an attempt, however its task ends.
struct Attempting {
    id: WorkId,
    client: actix::Addr<Client>,
    attempt: Option<AttemptEnd>,
}

impl Attempting {
    fn end(mut self, end: AttemptEnd) {
        self.attempt = Some(end);
    }
}

impl Drop for Attempting {
    fn drop(&mut self) {
        // As many as may be in flight: unbounded sending is bounded by that.
        self.client.do_send(AttemptEnded { id: self.id, attempt: self.attempt.take() });
    }
}

impl Client {
    pub fn new(
        parts: ClientParts,
        persistence: Mailbox<CommitWrites>,
        hold: Recipient<HoldService>,
        guard: ExitGuard,
    ) -> Self {
        let clock = Clock::start();
        let options = &parts.service.options;
        let keys = parts.service.secrets.iter().filter_map(|secret| SigningKey::parse(secret.expose()).ok()).collect();
        Self {
            metrics: parts.metrics.service(&parts.service.name),
            poster: Poster::new(&TargetOptions::of(&parts.service)).map(Rc::new),
            keys,
            schedule: policy::retry_schedule(options),
            id: None,
            dispatcher: Dispatcher::new(policy::dispatch_policy(options), None, clock.now()),
            is_held: false,
            is_hold_in_doubt: false,
            stored: None,
            obeyed_through: 0,
            asked: Vec::new(),
            pause: None,
            claims: Claims::default(),
            waits_for: BlockedBy::Empty,
            waits_until: None,
            refusals: 0,
            can_read: true,
            ended: Vec::new(),
            own_events: Vec::new(),
            is_changed: false,
            settling: None,
            recovering: false,
            told: BreakerState::Closed,
            timer: None,
            next_round: None,
            next_due: None,
            drained: Vec::new(),
            obeyed: Vec::new(),
            last_errors: VecDeque::new(),
            rate: Rate::default(),
            started: Instant::now(),
            clock,
            persistence,
            hold,
            guard,
            parts,
        }
    }

    /// Sent, and not known to be settled.
    fn under_way(&self) -> impl Iterator<Item = WorkId> {
        let settling = self.settling.iter().flatten().chain(&self.ended);
        let settling = settling.map(|ended| WorkId::Delivery(ended.event_id));
        self.dispatcher.in_flight().chain(settling)
    }

    fn unsettled(&self) -> usize {
        self.ended.len() + self.settling.as_ref().map_or(0, Vec::len)
    }

    /// Does all that can be done now: sends, reads, settles, and sets the timer for the rest.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        if self.id.is_some() && self.is_held {
            let until = self.send_all(ctx);
            self.read(ctx);
            self.set_timer(until, ctx);
        }
        self.settle(ctx);
        self.observe_figures();
        if self.dispatcher.in_flight().next().is_none() && self.unsettled() == 0 {
            for drained in self.drained.drain(..) {
                let _ = drained.send(());
            }
        }
    }

    /// Sends what may go out; returns when there may be more.
    fn send_all(&mut self, ctx: &mut Context<Self>) -> Option<Timestamp> {
        while self.unsettled() < MAX_UNSETTLED {
            let now = self.clock.now();
            match self.dispatcher.next(now, rand::random()) {
                Next::Send(work) => self.send(&work, ctx),
                Next::Turned(transition) => self.turned(transition, Cause::Time),
                Next::Wait { until, why } => {
                    if why == BlockedBy::Breaker && self.waits_for != why {
                        self.metrics.not_permitted();
                    }
                    (self.waits_for, self.waits_until) = (why, until);
                    return until;
                }
            }
        }
        None
    }

    fn send(&mut self, work: &PendingWork, ctx: &mut Context<Self>) {
        let attempting = Attempting { id: work.id, client: ctx.address(), attempt: None };
        // Of a log that is not known nothing is claimed.
        let Some((claimed, log)) = self.claims.get(work.id).zip(self.parts.position.log_id()) else { return };
        let options = &self.parts.service.options;
        let ids = TraceIds { trace: rand::random(), span: rand::random() };
        let to = To { service: self.name(), format: options.format, sources: &self.parts.service.sources };
        let request = delivery_request(log, &claimed.event, to, &self.keys, clock::now(), ids);
        if request.body.len() > options.max_body.as_usize() {
            return attempting.end(AttemptEnd::TooLarge(request.body.len()));
        }
        let poster = match &self.poster {
            Ok(poster) => Rc::clone(poster),
            Err(reason) => return attempting.end(AttemptEnd::Unable(reason.clone())),
        };
        let service = Arc::clone(&self.parts.service);
        actix_rt::spawn(async move {
            let attempt = poster.post(&service.path, &request.headers, request.body).await;
            attempting.end(AttemptEnd::Posted(attempt));
        });
    }

    fn set_timer(&mut self, until: Option<Timestamp>, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        let wait = until.map(|until| until.since(self.clock.now()).max(Duration::from_millis(1)));
        self.timer = wait.map(|wait| ctx.run_later(wait, Self::pump));
    }

    /// Has what ended written down, all together.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        let is_to_keep = self.is_changed && self.is_held && !self.is_hold_in_doubt;
        let has_change = is_to_keep || !self.asked.is_empty();
        let has_something = !self.ended.is_empty() || !self.own_events.is_empty() || has_change;
        if self.settling.is_some() || !has_something {
            return;
        }
        let settlements = std::mem::take(&mut self.ended);
        let events = std::mem::take(&mut self.own_events);
        let asked = std::mem::take(&mut self.asked);
        let mut changes: Vec<ServiceChange> = asked.iter().filter_map(|command| self.ask(*command)).collect();
        let kept = is_to_keep.then(|| self.kept()).flatten();
        self.is_changed &= !is_to_keep;
        changes.extend(kept.clone().map(|state| ServiceChange::Kept { state, obeyed: self.obeyed_through }));
        let (reply, answer) = oneshot::channel();
        let copy = (settlements.clone(), events.clone(), asked);
        // Who waits for a state that is not sent yet waits on.
        let is_complete = !self.is_changed;
        let obeyed = if is_complete { std::mem::take(&mut self.obeyed) } else { Vec::new() };
        self.settling = Some(settlements.clone());
        let settle = (!settlements.is_empty()).then_some(Write::Settle(settlements));
        let events = events.into_iter().map(|event| Write::Append(Append::single(event)));
        let writes = settle.into_iter().chain(changes.into_iter().map(Write::ChangeService)).chain(events).collect();
        let message = CommitWrites { writes, reply };
        let is_sent = !faults::strikes(FaultPoint::MailboxFull) && self.persistence.try_send(message).is_ok();
        let answer = async move { is_sent && answer.await.is_ok_and(|answer| answer.is_ok()) };
        ctx.spawn(answer.into_actor(self).map(move |is_stored, this, ctx| {
            this.settling = None;
            let (settlements, events, asked) = copy;
            if is_stored {
                this.stored = kept.or(this.stored.take());
                for obeyed in obeyed {
                    let _ = obeyed.send(());
                }
                this.settled(settlements, ctx);
                this.pump(ctx);
            } else {
                // Sent again, in order; nothing more goes out meanwhile than may be unsettled.
                this.ended.splice(0..0, settlements);
                this.own_events.splice(0..0, events);
                this.obeyed.extend(obeyed);
                this.asked.splice(0..0, asked);
                this.is_changed |= kept.is_some();
                this.is_hold_in_doubt = true;
                this.settling = Some(Vec::new());
                ctx.run_later(STORE_RETRY, |this, ctx| {
                    this.settling = None;
                    this.hold(ctx);
                    this.pump(ctx);
                });
            }
        }));
    }

    /// A change of the breaker: to be told, and kept, by who holds the service.
    fn turned(&mut self, transition: Transition, cause: Cause) {
        if !self.is_held {
            return;
        }
        self.announce_transition(transition, cause);
        self.is_changed = true;
    }

    fn name(&self) -> &str {
        &self.parts.service.name
    }
}

impl Actor for Client {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        if let Err(reason) = &self.poster {
            log::error!(service = self.name(), reason = reason.as_str(); "service cannot be called");
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
        ctx.run_interval(CARE_INTERVAL, |this, ctx| {
            this.begin_if_registered();
            this.claims.look_again();
            this.hold(ctx);
            this.rate.sample(this.metrics.delivered(), this.clock.now());
            this.observe_oldest(ctx);
        });
    }
}

impl Handler<WorkArrived> for Client {
    type Result = ();

    fn handle(&mut self, WorkArrived: WorkArrived, ctx: &mut Self::Context) {
        if self.begin_if_registered() {
            self.hold(ctx);
        }
        self.claims.look_for_new();
        if self.parts.slot.take_renewed() {
            self.claims.begin_round();
        }
        self.pump(ctx);
    }
}

impl Handler<AttemptEnded> for Client {
    type Result = ();

    fn handle(&mut self, AttemptEnded { id, attempt }: AttemptEnded, ctx: &mut Self::Context) {
        match attempt {
            Some(attempt) => self.attempt_ended(id, attempt),
            None => {
                self.dispatcher.cancelled(id);
            }
        }
        self.pump(ctx);
    }
}

impl Handler<ConnectPersistence> for Client {
    type Result = ();

    fn handle(&mut self, ConnectPersistence { commit, hold }: ConnectPersistence, ctx: &mut Self::Context) {
        (self.persistence, self.hold) = (commit, hold);
        self.hold(ctx);
    }
}

impl Handler<Observe> for Client {
    type Result = Option<ActorReport>;

    fn handle(&mut self, Observe: Observe, _: &mut Self::Context) -> Self::Result {
        Some(self.report())
    }
}

impl Handler<DrainDeliveries> for Client {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, DrainDeliveries: DrainDeliveries, ctx: &mut Self::Context) -> Self::Result {
        self.dispatcher.drain();
        let (drained, is_drained) = oneshot::channel();
        self.drained.push(drained);
        self.pump(ctx);
        Box::pin(is_drained.into_actor(self).map(|_, this: &mut Self, ctx: &mut Context<Self>| {
            this.guard.release();
            ctx.stop();
        }))
    }
}

#[cfg(test)]
mod post_tests;
#[cfg(test)]
mod tls_tests;

#[cfg(feature = "fault-injection")]
impl Handler<super::supervisor::messages::InjectPanic> for Client {
    type Result = ();

    fn handle(&mut self, _: super::supervisor::messages::InjectPanic, _: &mut Self::Context) {
        panic!("injected fault in a client");
    }
}
