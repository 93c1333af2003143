//! A shard: one on each HTTP worker thread, for the clients whose connections live there.
//!
//! It owns their subscriptions and their places in the log. A client is either *live*, served by fan-out as
//! batches arrive, or *catching up*, reading from recent events or the store from its own cursor on. Going from
//! one to the other happens within one turn of this actor, between two batches, so nothing falls in between.
//!
//! - RT-1 commit order: every connection gets ids in increasing order, save where it asks for history.
//! - RT-2 no gap: a batch is taken only if it follows the head; otherwise the shard reads the store up to it first.
//! - RT-3 bounded: past its bound nothing is queued for a connection; it catches up when it has drained.

mod access;
mod catch_up;
mod comings;
mod fanout;
mod filtered;
mod heartbeat;
mod leaving;
pub mod messages;
mod polls;
mod presence;
mod recent;
mod report;
mod seat;
mod stream;
mod subscribing;

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{Actor, AsyncContext, Context, Handler, MessageResult, StreamHandler, WrapFuture};
use slab::Slab;

pub use self::catch_up::low_water;
use self::comings::Comings;
pub use self::fanout::QueueLimits;
use self::fanout::{FanOut, Member, Room};
use self::filtered::FilteredMembers;
use self::messages::{CheckAccess, OpenSession, Seated, SessionClosed};
use self::polls::LongPolls;
use self::recent::RecentEvents;
use self::seat::Seat;
use super::router::messages::RouteBatch;
use crate::access::AccessControl;
use crate::actors::connection::{Beat, Connection, Lobby};
use crate::actors::log_position::LogPosition;
use crate::actors::persistence::intake::Intake;
use crate::actors::push_log::PushLog;
use crate::config::{Config, Span};
use crate::domain::event::EventId;
use crate::domain::index::PatternIndex;
use crate::domain::log::LogId;
use crate::protocol::close::close_label;
use crate::protocol::log_batch::LogBatch;
use crate::protocol::wire::Wire;
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::storage::Reader;
use crate::telemetry::metrics::Metrics;
use crate::transport::{OutboxKey, ShardQueues};

/// Batches that may wait. More than that are read from the store.
pub const MAILBOX: usize = 1024;

/// Batches taken in a row before the clients' connections get their turn to write.
const BATCHES_PER_TURN: usize = 16;

/// What all shards are made of.
#[derive(Clone)]
pub struct ShardParts {
    pub limits: ShardLimits,
    pub access: Arc<AccessControl>,
    pub reader: Reader,
    pub position: Arc<LogPosition>,
    pub pushes: Arc<PushLog>,
    pub metrics: Arc<Metrics>,
    pub log_activity: bool,
    /// The generation under which clients that come and go are told of; none if they are not.
    pub presence: Option<i64>,
}

/// What a shard finds on its thread, and leaves to the next one there.
#[derive(Clone)]
pub struct ShardThread {
    pub number: usize,
    /// Where the shard publishes that subscribers come and go.
    pub intake: Intake,
    pub queues: Rc<ShardQueues>,
    pub lobby: Rc<Lobby>,
    pub clock: Rc<Cell<Beat>>,
}

impl ShardLimits {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        let subscribe = &config.subscribe;
        Self {
            queue_per_connection: subscribe.queue_per_connection.as_usize(),
            recent_events: subscribe.recent_events.as_usize(),
            max_subscriptions: subscribe.max_subscriptions,
            ping_interval: subscribe.ping_interval.get(),
            heartbeat_interval: subscribe.heartbeat_interval.get(),
            max_age: subscribe.max_age.map(Span::get),
            idle_timeout: subscribe.idle_timeout.get(),
            stall_timeout: subscribe.stall_timeout.get(),
            expiry_notice: config.access.expiry_notice.get(),
        }
    }
}

/// The bounds of one shard.
#[derive(Debug, Clone, Copy)]
pub struct ShardLimits {
    /// Most bytes queued for one connection.
    pub queue_per_connection: usize,
    /// Memory for recent events, in bytes.
    pub recent_events: usize,
    pub max_subscriptions: usize,
    pub ping_interval: Duration,
    /// Between two signs of life to an SSE client.
    pub heartbeat_interval: Duration,
    /// Roughly; see [`Seat::lifetime`].
    pub max_age: Option<Duration>,
    pub idle_timeout: Duration,
    pub stall_timeout: Duration,
    /// How long before its token ends a client is told so.
    pub expiry_notice: Duration,
}

impl ShardLimits {
    fn ping_interval(&self, wire: Wire) -> Duration {
        match wire {
            Wire::WebSocket | Wire::Lines => self.ping_interval,
            Wire::Sse => self.heartbeat_interval,
        }
    }
}

/// See the module.
pub struct Shard {
    thread: ShardThread,
    parts: ShardParts,

    index: PatternIndex,
    /// The subscribers of each topic, by its handle in the index.
    members: Vec<Vec<Member>>,
    /// Those of them who have filters; they are not among `members`.
    filtered: FilteredMembers,
    seats: Slab<Seat>,

    /// Everything up to here has been routed. `None` until the log is known.
    head: Option<EventId>,
    /// Which log it is, as its clients were told.
    log: Option<LogId>,
    /// Where the head was a second ago: a head that stands still before the end of the log has missed something.
    head_at_last_beat: Option<EventId>,
    recent: RecentEvents,
    fan_out: FanOut,
    polls: LongPolls,
    comings: Comings,
    /// Seats that fell behind in the current batch.
    behind: Vec<usize>,
    /// Seats whose subscription begins after the head.
    early: Vec<usize>,
    /// Seats that catch up and found the queues of all connections together full.
    without_room: VecDeque<usize>,
    /// Their next turn is due already.
    serves_on: bool,
    /// A gap in the log is being read from the store.
    filling: bool,
    /// Seats that wait for their turn to read from the store.
    readers_waiting: VecDeque<Seated>,
    readers: usize,
    batches_in_turn: usize,

    _life: Life,
}

impl Shard {
    pub fn new(thread: ShardThread, parts: ShardParts, life: Life) -> Self {
        let head = parts.position.get().map(|bounds| bounds.last);
        let recent = RecentEvents::new(head.unwrap_or_default(), parts.limits.recent_events);
        Self {
            thread,
            parts,
            index: PatternIndex::default(),
            members: Vec::new(),
            filtered: FilteredMembers::default(),
            seats: Slab::new(),
            head,
            log: None, // learned with the first beat
            head_at_last_beat: None,
            recent,
            fan_out: FanOut::default(),
            polls: LongPolls::default(),
            comings: Comings::default(),
            behind: Vec::new(),
            early: Vec::new(),
            without_room: VecDeque::new(),
            serves_on: false,
            filling: false,
            readers_waiting: VecDeque::new(),
            readers: 0,
            batches_in_turn: 0,
            _life: life,
        }
    }

    fn head(&self) -> EventId {
        self.head.unwrap_or_default()
    }

    /// Takes the next batch of the log (RT-2: it must follow the head).
    fn route(&mut self, batch: Arc<LogBatch>, ctx: &mut Context<Self>) {
        let head = self.learn_head(batch.prev);
        if batch.last() <= head && batch.prev <= head {
            return;
        }
        if self.seats.is_empty() {
            if batch.prev == head {
                self.polls.wake(&batch);
            } else {
                self.polls.wake_all();
            }
            self.head = Some(batch.last());
            self.recent.restart(batch.last());
            return;
        }
        if batch.prev != head {
            self.fill_gap(ctx);
            return;
        }
        self.deliver(batch, ctx);
    }

    /// The head; `end` if nothing was known of the log so far.
    fn learn_head(&mut self, end: EventId) -> EventId {
        if self.head.is_none() {
            self.recent.restart(end);
        }
        *self.head.get_or_insert(end)
    }

    fn deliver(&mut self, batch: Arc<LogBatch>, ctx: &mut Context<Self>) {
        let head = self.head();
        self.polls.wake(&batch);
        let room = Room { queues: &self.thread.queues, limits: self.queue_limits(), pushes: &self.parts.pushes };
        let tally = self.fan_out.deliver(
            &batch,
            head,
            &self.index,
            &self.members,
            &self.filtered,
            &mut self.seats,
            &room,
            &mut self.behind,
        );
        self.parts.metrics.pushed(tally.frames, tally.bytes);
        if self.parts.log_activity {
            for event in &batch.events {
                log::info!(target: "event_handler::activity", id = event.event.id, shard = self.thread.number; "pushed");
            }
        }
        self.head = Some(batch.last());
        self.recent.push(batch);
        for key in std::mem::take(&mut self.behind) {
            self.parts.metrics.catch_ups.with_label_values(&["slow"]).inc();
            self.await_drain(key);
        }
        self.serve_early_subscribers(ctx);
    }

    fn queue_limits(&self) -> QueueLimits {
        QueueLimits { per_connection: self.parts.limits.queue_per_connection }
    }

    fn seat(&mut self, seated: Seated) -> Option<&mut Seat> {
        self.seats.get_mut(seated.seat).filter(|seat| seat.session == seated.session)
    }

    fn open_session(&mut self, connection: Rc<Connection>) -> Seated {
        let session = SESSIONS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        log::debug!(session, peer = connection.peer_name().as_str(); "session opened");
        let seat = self.seats.insert(Seat::new(session, connection, self.head()));
        self.note_opened(seat);
        self.parts.metrics.sessions.inc();
        Seated { session, seat }
    }

    fn close_session(&mut self, seated: Seated) {
        if self.seat(seated).is_none() {
            return;
        }
        let seat = self.seats.remove(seated.seat);
        for subscription in &seat.subscriptions {
            self.leave_topic(seated.seat, subscription);
        }
        self.parts.metrics.sessions.dec();
        self.parts.metrics.subscriptions.sub(seat.subscriptions.len() as i64);
        let code = close_label(seat.connection.outbox.close_code());
        self.parts.metrics.closes.with_label_values(&[&code]).inc();
        log::debug!(session = seated.session, peer = seat.connection.peer_name().as_str(), code = code.as_str(), frames = seat.frames; "session closed");
        self.note_closed(&seat);
        self.end_read(seated, &seat);
    }
}

static SESSIONS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

impl Actor for Shard {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.add_stream(self.thread.queues.drain_notices());
        self.start_heart(ctx);
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

impl StreamHandler<OutboxKey> for Shard {
    fn handle(&mut self, key: OutboxKey, ctx: &mut Self::Context) {
        if self.seats.get(key).is_some_and(|seat| !seat.is_live()) {
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

    fn handle(&mut self, SessionClosed(seated): SessionClosed, _: &mut Self::Context) {
        self.close_session(seated);
    }
}

impl Handler<Finish> for Shard {
    type Result = ();

    /// Its sessions have left before.
    fn handle(&mut self, Finish: Finish, _: &mut Self::Context) {}
}

crate::supervised!(Shard, RouteBatch, CheckAccess);
