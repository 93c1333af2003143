//! The durable subscriptions with members on this node: their places in the log, and who has which event.
//!
//! All decisions are those of the [`Durable`] machine; here they are carried out. Events come with the committed
//! batches or, to whoever is behind, from the store; what becomes of them goes to persistence, and is answered when
//! it is stored.
//!
//! - *DU-1* An acknowledgement is answered after its commit.
//! - *DU-2* Of several nodes one delivers the events of a durable subscription; the members at the others stand by.
//! - *DU-3* What an operator has moved is not moved back: changes carry the epoch for which they were made.

mod consumer;
mod delivering;
mod holding;
pub mod messages;
mod saving;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix::prelude::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, MessageResult, ResponseActFuture,
    StreamHandler, WrapFuture,
};
use tokio::sync::{Notify, oneshot};

use self::consumer::Consumer;
use self::messages::{
    ConnectStore, DurableStatus, FindFate, FinishDurables, Join, Joined, Leave, ListDurables, LookAgain, MemberKey,
    RoomAgain, Settle, StoreLink,
};
use super::clock::Clock;
use super::log_position::LogPosition;
use super::mailbox::Depth;
use super::observe::{ActorKind, ActorReport, ActorState, MailboxReport, uptime_seconds};
use super::persistence::messages::{AppendFailure, CommitWrites, HoldDurables};
use super::push_log::PushLog;
use super::router::messages::{Observe, RouteBatch};
use super::session::append_error;
use super::supervisor::guard::ExitGuard;
use crate::domain::durable::{Durable, DurablePolicy, MemberId};
use crate::domain::event::EventId;
use crate::domain::index::{PatternIndex, TopicId};
use crate::protocol::durable::JoinRequest;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::log_batch::LogBatch;
use crate::protocol::request::Start;
use crate::storage::{Alteration, NewDurable, Outcome, Reader, Write};
use crate::telemetry::metrics::Metrics;

/// Messages that may wait.
pub const MAILBOX: usize = 1024;
/// Batches taken in a row before others on the thread get their turn.
const BATCHES_PER_TURN: usize = 16;
/// Members of one durable subscription.
const MAX_MEMBERS: usize = 1000;
/// How often holds are made sure of, what another node has made anew is looked for, and members are told what holds
/// them up.
const CARE_INTERVAL: Duration = Duration::from_secs(1);

/// What the actor is made of; kept by the supervisor to make another.
#[derive(Clone)]
pub struct DurablesParts {
    pub limits: DurableLimits,
    pub reader: Reader,
    pub position: Arc<LogPosition>,
    pub metrics: Arc<Metrics>,
    pub directory: Arc<Directory>,
    pub pushes: Arc<PushLog>,
    /// Told by persistence when dead letters were made anew.
    pub renewed: Arc<Notify>,
    pub log_activity: bool,
}

/// Bounds and defaults.
#[derive(Debug, Clone, Copy)]
pub struct DurableLimits {
    /// Durable subscriptions in the store.
    pub max_count: usize,
    /// Bytes of what one has taken from the log and not settled; one event may be larger.
    pub max_unacked_bytes: usize,
    /// For what a member does not say.
    pub policy: DurablePolicy,
}

/// Where sessions find the actor of the moment.
#[derive(Debug, Default)]
pub struct Directory(Mutex<Option<Addr<Durables>>>);

impl Directory {
    pub fn get(&self) -> Option<Addr<Durables>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, address: Addr<Durables>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }
}

/// See the module.
pub struct Durables {
    parts: DurablesParts,
    store: StoreLink,
    consumers: BTreeMap<Arc<str>, Consumer>,
    /// Which of them want an event.
    index: PatternIndex,
    by_topic: HashMap<TopicId, Vec<Arc<str>>>,
    /// The last event that was routed here.
    head: EventId,
    /// Names of those that somebody is about to join: they are not let go of.
    opening: Vec<String>,
    /// Rounds of care so far.
    cares: usize,
    next_member: MemberId,
    next_life: u64,
    clock: Clock,
    depth: Depth,
    batches_in_turn: usize,
    finished: Vec<oneshot::Sender<()>>,
    is_finishing: bool,
    started: Instant,
    guard: ExitGuard,
}

impl Durables {
    pub fn new(parts: DurablesParts, store: StoreLink, depth: Depth, guard: ExitGuard) -> Self {
        Self {
            head: parts.position.last(),
            parts,
            store,
            consumers: BTreeMap::new(),
            index: PatternIndex::default(),
            by_topic: HashMap::new(),
            opening: Vec::new(),
            cares: 0,
            next_member: 1,
            next_life: 1,
            clock: Clock::start(),
            depth,
            batches_in_turn: 0,
            finished: Vec::new(),
            is_finishing: false,
            started: Instant::now(),
            guard,
        }
    }

    /// Hands the events of a batch to those that are up to it; the others read the store.
    fn route(&mut self, batch: &LogBatch, ctx: &mut Context<Self>) {
        let (prev, last) = (batch.prev, batch.last());
        self.head = self.head.max(last);
        if self.consumers.is_empty() {
            return;
        }
        let mut wanted: HashMap<&Arc<str>, Vec<&crate::domain::event::Event>> = HashMap::new();
        for event in &batch.events {
            self.index.for_each_match(&event.event.name, |topic| {
                for name in self.by_topic.get(&topic).into_iter().flatten() {
                    wanted.entry(name).or_default().push(&event.event);
                }
            });
        }
        let mut concerned = Vec::new();
        for (name, consumer) in &mut self.consumers {
            let Some(durable) = consumer.durable.as_mut().filter(|durable| durable.cursor() < last) else { continue };
            if durable.cursor() < prev || consumer.is_reading {
                concerned.push(Arc::clone(name));
                continue;
            }
            let events = wanted.remove(name).unwrap_or_default();
            if !events.is_empty() {
                concerned.push(Arc::clone(name));
            }
            consumer.take(events.into_iter().cloned(), last);
        }
        for name in concerned {
            self.pump(&name, ctx);
        }
    }

    /// Does all for one that can be done now: takes back, sends, reads, stores, and sets the timer for the rest.
    fn pump(&mut self, name: &str, ctx: &mut Context<Self>) {
        self.send(name, ctx);
        self.read(name, ctx);
        self.save(name, ctx);
        self.set_timer(name, ctx);
        self.retire(name);
    }

    fn pump_all(&mut self, ctx: &mut Context<Self>) {
        let names: Vec<_> = self.consumers.keys().cloned().collect();
        names.iter().for_each(|name| self.pump(name, ctx));
    }

    /// Makes the session a member of one that is open here.
    fn take_in(&mut self, join: Join, ctx: &mut Context<Self>) -> Result<Joined, ApiError> {
        let Join { request, log_end, link } = join;
        let consumer = self.consumers.get_mut(&*request.name).ok_or_else(deleted_just_now)?;
        consumer.admits(&request)?;
        let name = Arc::clone(&consumer.name);
        let member = self.next_member;
        self.next_member += 1;
        consumer.join(member, link);
        self.parts.metrics.durable_members.inc();
        let floor = consumer.durable.as_ref().map_or(consumer.record.floor, Durable::floor);
        let bounds = self.parts.position.get().unwrap_or_default();
        let last = bounds.last.max(log_end);
        // The client has seen another log than this one.
        let is_foreign = match request.start {
            Start::After(id) => id > last,
            Start::Elsewhere => true,
            Start::Now | Start::Earliest => false,
        };
        let joined = Joined {
            key: MemberKey { durable: Arc::clone(&name), member },
            floor,
            last,
            earliest: bounds.earliest,
            is_recovered: floor + 1 >= bounds.earliest && !consumer.has_lost && !is_foreign,
        };
        log::debug!(durable = &*name, member, floor; "member joined");
        // After the reply is on its way: the session asks for nothing else meanwhile.
        ctx.notify(RoomAgain(joined.key.clone()));
        Ok(joined)
    }

    /// Stores how the session wants events to be delivered, if that is new, and makes it a member.
    fn agree(&mut self, join: Join) -> ResponseActFuture<Self, Result<Joined, ApiError>> {
        let consumer = self.consumers.get(&*join.request.name).ok_or_else(deleted_just_now);
        let checked = consumer.and_then(|consumer| {
            let policy = join.request.policy.over(consumer.record.policy);
            consumer.admits(&join.request).map(|()| (policy, policy != consumer.record.policy))
        });
        let (policy, is_new) = match checked {
            Ok(checked) => checked,
            Err(error) => return Box::pin(actix::fut::ready(Err(error))),
        };
        if !is_new {
            return Box::pin(actix::fut::ready(()).map(|(), this: &mut Self, ctx| this.take_in(join, ctx)));
        }
        let (name, alteration) = (join.request.name.clone(), Alteration::Policy(policy));
        let (message, outcome) = CommitWrites::one(Write::AlterDurable { name, alteration });
        // If that is refused, the outcome says so.
        let _ = self.store.commit.try_send(message);
        Box::pin(outcome.into_actor(self).map(move |outcome, this, ctx| {
            if outcome.map_err(|failure| append_error(&failure))? != Outcome::Changed(true) {
                return Err(deleted_just_now());
            }
            this.set_policy(&join.request.name, policy);
            this.take_in(join, ctx)
        }))
    }

    /// Finds it in the store, or makes it there.
    fn find_or_make(&mut self, join: &Join) -> ResponseActFuture<Self, Result<(), ApiError>> {
        if self.consumers.contains_key(&*join.request.name) {
            return Box::pin(actix::fut::ready(Ok(())));
        }
        let JoinRequest { name, pattern, filter, policy, .. } = &join.request;
        let new = NewDurable {
            name: name.clone(),
            pattern: pattern.as_str().to_owned(),
            filter: filter.as_ref().map(|filter| filter.as_json().to_owned()),
            floor: self.first_floor(&join.request, join.log_end),
            policy: policy.over(self.parts.limits.policy),
        };
        let max = self.parts.limits.max_count;
        let (message, outcome) = CommitWrites::one(Write::OpenDurable { new, max });
        // If that is refused, the outcome says so.
        let _ = self.store.commit.try_send(message);
        let hold = self.store.hold.clone();
        let opened = async move {
            let Outcome::Opened(Some(record)) = outcome.await.map_err(|failure| append_error(&failure))? else {
                let advice =
                    format!("there are {max} durable subscriptions, as many as there may be; delete some first");
                return Err(ApiError::new(ErrorCode::TooManyDurables, advice));
            };
            let held = hold.send(HoldDurables(vec![(record.service, None)])).await;
            let held = held.unwrap_or_else(|_| Err(writer_restarted())).map_err(|failure| append_error(&failure))?;
            held.into_iter().next().ok_or_else(deleted_just_now)
        };
        Box::pin(opened.into_actor(self).map(|held, this, ctx| held.map(|held| this.open(held, ctx))))
    }

    /// Where a new one begins.
    fn first_floor(&self, request: &JoinRequest, log_end: EventId) -> EventId {
        let bounds = self.parts.position.get().unwrap_or_default();
        match request.start {
            Start::Now | Start::Elsewhere => log_end,
            Start::Earliest => (bounds.earliest - 1).max(0),
            Start::After(id) => id.min(bounds.last.max(log_end)),
        }
    }

    fn find(&mut self, key: &MemberKey) -> Option<&mut Consumer> {
        self.consumers.get_mut(&key.durable).filter(|consumer| consumer.members.contains_key(&key.member))
    }

    fn report(&self) -> ActorReport {
        ActorReport {
            name: "durables".into(),
            kind: ActorKind::Durables,
            state: ActorState::Running,
            restarts: 0,
            mailbox: MailboxReport { depth: self.depth.get(), capacity: MAILBOX },
            uptime_seconds: uptime_seconds(self.started),
            details: serde_json::json!({
                "durables": self.consumers.values().map(Consumer::status).collect::<Vec<_>>(),
                "routed_id": self.head,
            }),
            children: Vec::new(),
        }
    }
}

impl Actor for Durables {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.parts.directory.set(ctx.address());
        ctx.run_interval(CARE_INTERVAL, Self::care);
        let renewed = Arc::clone(&self.parts.renewed);
        ctx.add_stream(futures_util::stream::unfold(renewed, |renewed| async {
            renewed.notified().await;
            Some((Renewed, renewed))
        }));
    }
}

/// See [`DurablesParts::renewed`].
struct Renewed;

fn deleted_just_now() -> ApiError {
    ApiError::new(ErrorCode::DurableNotFound, "it was deleted just now; try again")
}

fn writer_restarted() -> AppendFailure {
    AppendFailure::StoreUnavailable("the writer was restarted")
}

impl Drop for Durables {
    /// Sessions find out by the end of their links.
    fn drop(&mut self) {
        let members: usize = self.consumers.values().map(|consumer| consumer.members.len()).sum();
        self.parts.metrics.durable_members.sub(members as i64);
    }
}

impl Handler<RouteBatch> for Durables {
    type Result = ();

    fn handle(&mut self, RouteBatch(batch): RouteBatch, ctx: &mut Self::Context) {
        self.depth.took_one();
        self.route(&batch, ctx);
        self.batches_in_turn += 1;
        if self.batches_in_turn >= BATCHES_PER_TURN {
            self.batches_in_turn = 0;
            ctx.wait(tokio::task::yield_now().into_actor(self));
        }
    }
}

impl Handler<Join> for Durables {
    type Result = ResponseActFuture<Self, Result<Joined, ApiError>>;

    fn handle(&mut self, join: Join, _: &mut Self::Context) -> Self::Result {
        let name = join.request.name.clone();
        self.opening.push(name.clone());
        let found = self.find_or_make(&join);
        let joined = found.then(move |found, this: &mut Self, _| match found {
            Ok(()) => this.agree(join),
            Err(error) => Box::pin(actix::fut::ready(Err(error))),
        });
        Box::pin(joined.map(move |joined, this, _| {
            let place = this.opening.iter().position(|opening| *opening == name);
            place.into_iter().for_each(|place| drop(this.opening.swap_remove(place)));
            this.retire(&name);
            joined
        }))
    }
}

/// Some job has made dead ones anew.
impl StreamHandler<Renewed> for Durables {
    fn handle(&mut self, Renewed: Renewed, ctx: &mut Self::Context) {
        let names: Vec<_> = self.consumers.keys().cloned().collect();
        self.hold_all(&names, ctx);
    }
}

impl Handler<Leave> for Durables {
    type Result = ();

    fn handle(&mut self, Leave(key): Leave, ctx: &mut Self::Context) {
        if let Some(consumer) = self.find(&key) {
            consumer.leave(key.member);
            self.parts.metrics.durable_members.dec();
            self.pump(&key.durable, ctx);
        }
    }
}

impl Handler<Settle> for Durables {
    type Result = Result<(), ApiError>;

    fn handle(&mut self, Settle { key, settlement }: Settle, ctx: &mut Self::Context) -> Self::Result {
        let now = self.clock.now();
        let consumer = self.find(&key).ok_or_else(|| {
            ApiError::new(ErrorCode::NotAMember, format!("not a member of {:?}; subscribe to it first", key.durable))
        })?;
        consumer.settle(key.member, &settlement, now)?;
        // Once for all that has arrived with it.
        if !std::mem::replace(&mut consumer.is_due, true) {
            ctx.spawn(actix::fut::ready(()).map(move |(), this: &mut Self, ctx| {
                if let Some(consumer) = this.consumers.get_mut(&key.durable) {
                    consumer.is_due = false;
                    this.pump(&key.durable, ctx);
                }
            }));
        }
        Ok(())
    }
}

impl Handler<RoomAgain> for Durables {
    type Result = ();

    fn handle(&mut self, RoomAgain(key): RoomAgain, ctx: &mut Self::Context) {
        self.pump(&key.durable, ctx);
    }
}

impl Handler<LookAgain> for Durables {
    type Result = ();

    fn handle(&mut self, LookAgain(name): LookAgain, ctx: &mut Self::Context) {
        let name: Arc<str> = name.into();
        self.hold(&name, ctx);
    }
}

impl Handler<ListDurables> for Durables {
    type Result = MessageResult<ListDurables>;

    fn handle(&mut self, ListDurables: ListDurables, _: &mut Self::Context) -> Self::Result {
        let statuses: Vec<DurableStatus> = self.consumers.values().map(Consumer::status).collect();
        MessageResult(statuses)
    }
}

impl Handler<FindFate> for Durables {
    type Result = MessageResult<FindFate>;

    fn handle(&mut self, FindFate(id): FindFate, _: &mut Self::Context) -> Self::Result {
        let held = self.consumers.values().filter_map(|consumer| Some((consumer, consumer.durable.as_ref()?)));
        MessageResult(held.map(|(consumer, durable)| (consumer.record.name.clone(), durable.fate(id))).collect())
    }
}

impl Handler<ConnectStore> for Durables {
    type Result = ();

    fn handle(&mut self, ConnectStore(link): ConnectStore, _: &mut Self::Context) {
        self.store = link;
    }
}

impl Handler<Observe> for Durables {
    type Result = Option<ActorReport>;

    fn handle(&mut self, Observe: Observe, _: &mut Self::Context) -> Self::Result {
        Some(self.report())
    }
}

impl Handler<FinishDurables> for Durables {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, FinishDurables: FinishDurables, ctx: &mut Self::Context) -> Self::Result {
        self.is_finishing = true;
        let (done, finished) = oneshot::channel();
        self.finished.push(done);
        self.pump_all(ctx);
        self.tell_if_finished();
        Box::pin(finished.into_actor(self).map(|_, this, ctx| {
            this.guard.release();
            ctx.stop();
        }))
    }
}

#[cfg(feature = "fault-injection")]
impl Handler<super::supervisor::messages::InjectPanic> for Durables {
    type Result = ();

    fn handle(&mut self, _: super::supervisor::messages::InjectPanic, _: &mut Self::Context) {
        panic!("injected fault in durables");
    }
}
