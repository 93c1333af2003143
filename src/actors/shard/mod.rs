//! A shard: one on each HTTP worker thread, for the subscribers whose connections live there.
//!
//! It owns their subscriptions and their positions in the log. A subscriber is *live*, and served by fan-out as batches
//! arrive, or it is *catching up*, and reads from its own cursor on, from the recent events or the store. It changes
//! between the two within one turn of this actor, between two batches, so that no event is missed.
//!
//! - RT-1 commit order: every connection gets events with rising ids, except where it asks for history.
//! - RT-2 no gap: a batch is taken only if it follows the head; otherwise the shard reads the store first.
//! - RT-3 bounded: beyond its bound nothing is queued for a connection, which catches up when its queue has drained.

mod access;
mod catch_up;
mod head;
mod laggards;
pub mod leaving;
pub mod messages;
mod polls;
mod presence;
mod presence_events;
mod push_spans;
mod recent;
mod report;
mod store_reads;
mod stream;
mod subscriber;
mod subscribers;
mod subscribing;
mod tick;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{Actor, AsyncContext, Context, Handler, MessageResult, StreamHandler, WrapFuture};

use self::head::Head;
use self::laggards::Laggards;
use self::messages::{CheckAccess, OpenSession, Place, SessionClosed};
use self::polls::LongPolls;
use self::presence_events::PresenceEvents;
use self::store_reads::StoreReads;
use self::subscriber::{Mode, Subscriber};
use self::subscribers::Subscribers;
use self::subscribers::fanout::{FanOut, Room};
use super::router::messages::RouteBatch;
use crate::access::AccessControl;
use crate::actors::connection::{Connection, Lobby, Tick};
use crate::actors::log_position::LogPosition;
use crate::actors::persistence::intake::Intake;
use crate::actors::push_log::PushLog;
use crate::config::SubscribeConfig;
use crate::protocol::close::close_label;
use crate::protocol::log_batch::LogBatch;
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::storage::Reader;
use crate::telemetry::metrics::Metrics;
use crate::transport::{SendQueueKey, ShardQueues};

/// Batches that may wait. Those beyond are read from the store.
pub const MAILBOX: usize = 1024;

/// Batches taken in a row before the connections get their turn to write.
const BATCHES_PER_TURN: usize = 16;

/// What all shards are made of.
#[derive(Clone)]
pub struct ShardParts {
    pub config: SubscribeConfig,
    /// How long before the end of its token a subscriber is warned.
    pub expiry_notice: Duration,
    pub access: Arc<AccessControl>,
    pub reader: Reader,
    pub position: Arc<LogPosition>,
    pub pushes: Arc<PushLog>,
    /// How many shards there are.
    pub shards: usize,
    pub metrics: Arc<Metrics>,
    pub log_activity: bool,
    /// The generation of the process, for the events on subscribers that come and go; `None` if none are published.
    pub presence: Option<i64>,
}

impl ShardParts {
    /// Queued bytes above which a connection counts as slow.
    pub fn queue_limit(&self) -> usize {
        self.config.queue_per_connection.as_usize()
    }

    /// Queued bytes at which a slow connection is given more.
    pub fn low_water(&self) -> usize {
        self.queue_limit() / 4
    }
}

/// What a shard finds on its thread. The next generation on that thread finds it too.
#[derive(Clone)]
pub struct ShardThread {
    pub number: usize,
    /// The intake by which the shard publishes that subscribers come and go.
    pub intake: Intake,
    pub queues: Rc<ShardQueues>,
    pub lobby: Rc<Lobby>,
    pub clock: Rc<Cell<Tick>>,
}

/// See the module.
pub struct Shard {
    thread: ShardThread,
    parts: ShardParts,

    head: Head,
    subscribers: Subscribers,
    fan_out: FanOut,
    laggards: Laggards,
    reads: StoreReads,
    polls: LongPolls,
    presence_events: PresenceEvents,
    batches_in_turn: usize,
    _life: Life,
}

impl Shard {
    pub fn new(thread: ShardThread, parts: ShardParts, life: Life) -> Self {
        Self {
            head: Head::new(parts.position.get().map(|bounds| bounds.last), parts.config.recent_events.as_usize()),
            thread,
            parts,
            subscribers: Subscribers::default(),
            fan_out: FanOut::default(),
            laggards: Laggards::default(),
            reads: StoreReads::default(),
            polls: LongPolls::default(),
            presence_events: PresenceEvents::default(),
            batches_in_turn: 0,
            _life: life,
        }
    }

    /// Takes the next batch of the log, which must follow the head (RT-2).
    fn route(&mut self, batch: Arc<LogBatch>, ctx: &mut Context<Self>) {
        let head = self.head.learn(batch.prev);
        if batch.last() <= head && batch.prev <= head {
            return;
        }
        if self.subscribers.is_empty() {
            if batch.prev == head {
                self.polls.wake(&batch);
            } else {
                self.polls.wake_all();
            }
            push_spans::passed_on(&batch, &self.parts.pushes, self.parts.shards);
            self.head.skip_to(batch.last());
            return;
        }
        if batch.prev != head {
            self.fill_gap(ctx);
            return;
        }
        self.deliver(batch, ctx);
    }

    fn deliver(&mut self, batch: Arc<LogBatch>, ctx: &mut Context<Self>) {
        self.polls.wake(&batch);
        let per_connection = self.parts.queue_limit();
        let room = Room { queues: &self.thread.queues, per_connection, pushes: &self.parts.pushes };
        let mut behind = Vec::new();
        let tally = self.fan_out.deliver(&batch, self.head.position(), &mut self.subscribers, &room, &mut behind);
        self.parts.metrics.pushed(tally.frames, tally.bytes);
        push_spans::passed_on(&batch, &self.parts.pushes, self.parts.shards);
        if self.parts.log_activity {
            for event in &batch.events {
                log::info!(target: "event_handler::activity", id = event.event.id, shard = self.thread.number; "pushed");
            }
        }
        self.head.advance(batch);
        for key in behind {
            self.parts.metrics.catch_ups.with_label_values(&["slow"]).inc();
            self.await_drain(key);
        }
        self.serve_early_subscribers(ctx);
    }

    fn open_session(&mut self, connection: Rc<Connection>) -> Place {
        // Who comes now is told of the log as it is, and so is not among those who are sent back.
        self.check_log();
        let session = SESSIONS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        log::debug!(session, peer = connection.peer_name().as_str(); "session opened");
        let slot = self.subscribers.insert(Subscriber::new(session, connection, self.head.position()));
        self.note_opened(slot);
        self.parts.metrics.sessions.inc();
        Place { session, slot }
    }

    fn close_session(&mut self, place: Place) {
        let Some(subscriber) = self.subscribers.remove(place) else { return };
        self.parts.metrics.sessions.dec();
        self.parts.metrics.subscriptions.sub(subscriber.subscriptions.len() as i64);
        let code = close_label(subscriber.connection.send_queue.close_code());
        self.parts.metrics.closes.with_label_values(&[&code]).inc();
        log::debug!(session = place.session, peer = subscriber.connection.peer_name().as_str(), code = code.as_str(), frames = subscriber.frames; "session closed");
        self.note_closed(&subscriber);
        if subscriber.mode == (Mode::CatchingUp { reading: true }) {
            self.reads.remove(place);
        }
    }
}

static SESSIONS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

impl Actor for Shard {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.add_stream(self.thread.queues.drain_notices());
        self.start_ticking(ctx);
    }
}

impl Handler<RouteBatch> for Shard {
    type Result = ();

    fn handle(&mut self, RouteBatch(batch): RouteBatch, ctx: &mut Self::Context) {
        self.route(batch, ctx);
        self.batches_in_turn += 1;
        if self.batches_in_turn >= BATCHES_PER_TURN {
            self.batches_in_turn = 0;
            ctx.wait(tokio::task::yield_now().into_actor(self));
        }
    }
}

impl StreamHandler<SendQueueKey> for Shard {
    fn handle(&mut self, key: SendQueueKey, ctx: &mut Self::Context) {
        if self.subscribers.get(key).is_some_and(|subscriber| !subscriber.is_live()) {
            self.catch_up(key, ctx);
        }
        self.serve_without_room(ctx);
    }
}

impl Handler<OpenSession> for Shard {
    type Result = MessageResult<OpenSession>;

    fn handle(&mut self, OpenSession(ticket): OpenSession, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.thread.lobby.take(ticket).map(|connection| self.open_session(connection)))
    }
}

impl Handler<SessionClosed> for Shard {
    type Result = ();

    fn handle(&mut self, SessionClosed(place): SessionClosed, _: &mut Self::Context) {
        self.close_session(place);
    }
}

impl Handler<Finish> for Shard {
    type Result = ();

    /// Its sessions have left before.
    fn handle(&mut self, Finish: Finish, _: &mut Self::Context) {}
}

crate::supervised!(Shard, RouteBatch, CheckAccess);
