//! The consumers: durable subscriptions with members on this node.
//!
//! The [`ConsumerState`](crate::domain::consumer::ConsumerState) makes all decisions, which are carried out here.
//! Events come with the committed batches or, for a consumer that is behind, from the store. Acknowledgements go to
//! persistence, and are answered when they are stored.
//!
//! - *DU-1* An acknowledgement is answered after its commit.
//! - *DU-2* Of several nodes, the holder of the lease delivers the events of a consumer. Members on other nodes stand
//!   by.
//! - *DU-3* A consumer that an operator has moved stays where it was moved: changes carry their fencing epoch.

mod consumer;
mod delivering;
mod joining;
mod leases;
pub mod messages;
mod saving;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, MessageResult, ResponseActFuture,
    StreamHandler, WrapFuture,
};
use tokio::sync::{Notify, oneshot};

use self::consumer::Consumer;
use self::messages::{Acknowledge, ConsumerStatus, FindFate, Leave, ListConsumers, LookAgain, MemberKey, RoomAgain};
use super::clock::Clock;
use super::cluster::Cluster;
use super::log_position::LogPosition;
use super::persistence::Persistence;
use super::push_log::PushLog;
use super::router::messages::RouteBatch;
use crate::config::ConsumersConfig;
use crate::domain::consumer::{ConsumerPolicy, MemberId};
use crate::domain::event::EventId;
use crate::domain::index::{PatternIndex, TopicId};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::log_batch::LogBatch;
use crate::runtime::address::{Address, Generation};
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::runtime::report::{Details, Observe};
use crate::storage::Reader;
use crate::telemetry::metrics::Metrics;

/// Most messages that may wait.
pub const MAILBOX: usize = 1024;
/// Batches taken in a row before other tasks of the thread get their turn.
const BATCHES_PER_TURN: usize = 16;
/// How often leases are renewed, reopened dead letters looked for, and held-up members notified.
const TICK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a failure of the store.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// What the actor is made of. It is kept, to make the next generation.
#[derive(Clone)]
pub struct ConsumersParts {
    pub persistence: Address<Persistence>,
    pub config: ConsumersConfig,
    pub reader: Reader,
    pub position: Arc<LogPosition>,
    pub cluster: Arc<Cluster>,
    pub metrics: Arc<Metrics>,
    pub pushes: Arc<PushLog>,
    /// Persistence notifies it when dead letters were reopened.
    pub renewed: Arc<Notify>,
}

impl ConsumersParts {
    /// The policy for what a member does not specify.
    fn default_policy(&self) -> ConsumerPolicy {
        let ConsumersConfig { ack_wait, max_in_flight, max_deliver, .. } = self.config;
        ConsumerPolicy { ack_wait: ack_wait.get(), max_in_flight, max_deliver }
    }
}

/// See the module.
pub struct Consumers {
    parts: ConsumersParts,
    consumers: BTreeMap<Arc<str>, Consumer>,
    /// Which of them want an event.
    index: PatternIndex,
    by_topic: HashMap<TopicId, Vec<Arc<str>>>,
    /// The last event that was routed here.
    head: EventId,
    /// The consumers that sessions are just joining. They are not removed, even without members.
    joining: Vec<String>,
    ticks: usize,
    next_member: MemberId,
    /// How many states of consumers there were, to number them.
    generations: u64,
    clock: Clock,
    batches_in_turn: usize,
    finished: Vec<oneshot::Sender<()>>,
    is_finishing: bool,
    life: Life,
}

impl Consumers {
    pub fn new(parts: ConsumersParts, life: Life) -> Self {
        Self {
            head: parts.position.last(),
            parts,
            consumers: BTreeMap::new(),
            index: PatternIndex::default(),
            by_topic: HashMap::new(),
            joining: Vec::new(),
            ticks: 0,
            next_member: 1,
            generations: 0,
            clock: Clock::start(),
            batches_in_turn: 0,
            finished: Vec::new(),
            is_finishing: false,
            life,
        }
    }

    /// Gives the events of a batch to the consumers that have read up to it. The others read the store.
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
            let Some(cursor) = consumer.cursor().filter(|cursor| *cursor < last) else { continue };
            if cursor < prev || consumer.is_reading() {
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

    /// Does all that can be done now for a consumer: requeues, sends, reads, stores, and sets the timer for the rest.
    fn pump(&mut self, name: &str, ctx: &mut Context<Self>) {
        self.send(name);
        self.read(name, ctx);
        self.save(name, ctx);
        self.set_timer(name, ctx);
        self.retire(name);
    }

    fn pump_all(&mut self, ctx: &mut Context<Self>) {
        let names: Vec<_> = self.consumers.keys().cloned().collect();
        names.iter().for_each(|name| self.pump(name, ctx));
    }

    fn find(&mut self, key: &MemberKey) -> Option<&mut Consumer> {
        let is_here = key.generation == self.life.generation();
        let consumer = self.consumers.get_mut(&key.consumer).filter(|_| is_here);
        consumer.filter(|consumer| consumer.members().contains(key.member))
    }

    fn report(&self) -> serde_json::Value {
        serde_json::json!({
            "durables": self.consumers.values().map(Consumer::status).collect::<Vec<_>>(),
            "routed_id": self.head,
        })
    }
}

impl Actor for Consumers {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.run_interval(TICK_INTERVAL, Self::tick);
        ctx.add_stream(self.parts.persistence.generations());
        ctx.add_stream(self.parts.cluster.terms());
        let renewed = Arc::clone(&self.parts.renewed);
        ctx.add_stream(futures_util::stream::unfold(renewed, |renewed| async {
            renewed.notified().await;
            Some((Renewed, renewed))
        }));
    }
}

/// See [`ConsumersParts::renewed`].
struct Renewed;

impl Drop for Consumers {
    /// The sessions notice it by the end of their links.
    fn drop(&mut self) {
        let members: usize = self.consumers.values().map(|consumer| consumer.members().len()).sum();
        self.parts.metrics.durable_members.sub(members as i64);
    }
}

impl Handler<RouteBatch> for Consumers {
    type Result = ();

    fn handle(&mut self, RouteBatch(batch): RouteBatch, ctx: &mut Self::Context) {
        self.route(&batch, ctx);
        self.batches_in_turn += 1;
        if self.batches_in_turn >= BATCHES_PER_TURN {
            self.batches_in_turn = 0;
            ctx.wait(tokio::task::yield_now().into_actor(self));
        }
    }
}

/// A replay job has reopened dead letters.
impl StreamHandler<Renewed> for Consumers {
    fn handle(&mut self, Renewed: Renewed, ctx: &mut Self::Context) {
        let names: Vec<_> = self.consumers.keys().cloned().collect();
        self.ask_for_leases(&names, ctx);
    }
}

impl Handler<Leave> for Consumers {
    type Result = ();

    fn handle(&mut self, Leave(key): Leave, ctx: &mut Self::Context) {
        if let Some(consumer) = self.find(&key) {
            consumer.leave(key.member);
            self.parts.metrics.durable_members.dec();
            self.pump(&key.consumer, ctx);
        }
    }
}

impl Handler<Acknowledge> for Consumers {
    type Result = Result<(), ApiError>;

    fn handle(&mut self, Acknowledge { key, request }: Acknowledge, ctx: &mut Self::Context) -> Self::Result {
        let now = self.clock.now();
        let consumer = self.find(&key).ok_or_else(|| {
            ApiError::new(ErrorCode::NotAMember, format!("not a member of {:?}; subscribe to it first", key.consumer))
        })?;
        consumer.settle(key.member, &request, now)?;
        // One pump serves all acknowledgements that have arrived together.
        if consumer.begin_due() {
            ctx.spawn(actix::fut::ready(()).map(move |(), this: &mut Self, ctx| {
                if let Some(consumer) = this.consumers.get_mut(&key.consumer) {
                    consumer.pumped();
                    this.pump(&key.consumer, ctx);
                }
            }));
        }
        Ok(())
    }
}

impl Handler<RoomAgain> for Consumers {
    type Result = ();

    fn handle(&mut self, RoomAgain(key): RoomAgain, ctx: &mut Self::Context) {
        self.pump(&key.consumer, ctx);
    }
}

impl Handler<LookAgain> for Consumers {
    type Result = ();

    fn handle(&mut self, LookAgain(name): LookAgain, ctx: &mut Self::Context) {
        let name: Arc<str> = name.into();
        self.ask_for_lease(&name, ctx);
    }
}

impl Handler<ListConsumers> for Consumers {
    type Result = MessageResult<ListConsumers>;

    fn handle(&mut self, ListConsumers: ListConsumers, _: &mut Self::Context) -> Self::Result {
        let statuses: Vec<ConsumerStatus> = self.consumers.values().map(Consumer::status).collect();
        MessageResult(statuses)
    }
}

impl Handler<FindFate> for Consumers {
    type Result = MessageResult<FindFate>;

    fn handle(&mut self, FindFate(id): FindFate, _: &mut Self::Context) -> Self::Result {
        let fates =
            self.consumers.values().filter_map(|consumer| Some((consumer.name().to_string(), consumer.fate(id)?)));
        MessageResult(fates.collect())
    }
}

/// There is another writer, or this node has become a member of the cluster, or is none any more.
impl StreamHandler<Generation> for Consumers {
    fn handle(&mut self, _: Generation, ctx: &mut Context<Self>) {
        let names: Vec<_> = self.consumers.keys().cloned().collect();
        self.ask_for_leases(&names, ctx);
    }
}

impl Handler<Observe> for Consumers {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, Observe: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(Details::of(self.report()))
    }
}

impl Handler<Finish> for Consumers {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, Finish: Finish, ctx: &mut Self::Context) -> Self::Result {
        self.is_finishing = true;
        let (done, finished) = oneshot::channel();
        self.finished.push(done);
        self.pump_all(ctx);
        self.tell_if_finished();
        Box::pin(finished.into_actor(self).map(|_, this, ctx| {
            this.life.finish();
            ctx.stop();
        }))
    }
}

crate::supervised!(Consumers, RouteBatch, Leave, RoomAgain, LookAgain);

#[cfg(test)]
mod tests;
