//! What lives on each HTTP worker thread: its intake, its shard, and the queues of its connections.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use actix::prelude::{Addr, Context, Recipient};
use actix_rt::ArbiterHandle;

use crate::actors::mailbox::{Depth, Mailbox};
use crate::actors::persistence::intake::Intake;
use crate::actors::shard::messages::{
    AwaitEvent, CloseSubscription, ForgetPoll, ListSubscriptions, OpenSession, OpenStream, OpenSubscription,
    SessionClosed,
};
use crate::actors::shard::seat::{Beat, Link, Standing};
use crate::actors::shard::{Lobby, Shard, ShardParts, low_water};
use crate::actors::supervisor::guard::ExitGuard;
use crate::protocol::wire::Wire;
use crate::transport::ShardQueues;

thread_local! {
    /// The worker of this thread, where the supervisor finds it to start a shard anew.
    static WORKER: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
}

/// The addresses of a shard, for the sessions on its thread; one set for all of them.
pub struct ShardAddresses {
    pub open_session: Recipient<OpenSession>,
    pub session_closed: Recipient<SessionClosed>,
    pub open_subscription: Recipient<OpenSubscription>,
    pub open_stream: Recipient<OpenStream>,
    pub await_event: Recipient<AwaitEvent>,
    pub forget_poll: Recipient<ForgetPoll>,
    pub close_subscription: Recipient<CloseSubscription>,
    pub list_subscriptions: Recipient<ListSubscriptions>,
}

/// See the module.
pub struct Worker {
    pub number: usize,
    pub intake: Intake,
    pub queues: Rc<ShardQueues>,
    pub lobby: Rc<Lobby>,
    pub clock: Rc<Cell<Beat>>,
    parts: ShardParts,
    shard: RefCell<Option<Rc<ShardAddresses>>>,
}

impl Worker {
    /// Sets up the current thread, without a shard yet; the supervisor starts that one.
    pub fn install(
        number: usize,
        intake: Intake,
        parts: ShardParts,
        queues: Rc<ShardQueues>,
    ) -> (Rc<Self>, ArbiterHandle) {
        let worker = Rc::new(Self {
            number,
            intake,
            queues,
            lobby: Rc::default(),
            clock: Rc::default(),
            parts,
            shard: RefCell::new(None),
        });
        WORKER.set(Some(Rc::clone(&worker)));
        (worker, actix_rt::Arbiter::current())
    }

    /// The worker of the current thread.
    pub fn current() -> Option<Rc<Self>> {
        WORKER.with_borrow(Clone::clone)
    }

    /// Starts a shard in place of the one before.
    pub fn start_shard(&self, depth: Depth, guard: ExitGuard) -> Addr<Shard> {
        let (queues, lobby, clock) = (Rc::clone(&self.queues), Rc::clone(&self.lobby), Rc::clone(&self.clock));
        let shard = Shard::new(self.number, self.parts.clone(), queues, lobby, clock, depth, guard);
        let address = Context::new().run(shard);
        self.shard.replace(Some(Rc::new(ShardAddresses {
            open_session: address.clone().recipient(),
            session_closed: address.clone().recipient(),
            open_subscription: address.clone().recipient(),
            open_stream: address.clone().recipient(),
            await_event: address.clone().recipient(),
            forget_poll: address.clone().recipient(),
            close_subscription: address.clone().recipient(),
            list_subscriptions: address.clone().recipient(),
        })));
        address
    }

    /// The addresses of the shard; `None` before the first was started.
    pub fn shard(&self) -> Option<Rc<ShardAddresses>> {
        self.shard.borrow().clone()
    }

    /// Queued bytes above which a connection lags.
    pub fn queue_limit(&self) -> usize {
        self.parts.limits.queue_per_connection
    }

    /// Queued bytes at which a connection that lags is given more.
    pub fn low_water(&self) -> usize {
        low_water(self.parts.limits.queue_per_connection)
    }

    /// A connection's link, as the shard and the session share it.
    pub fn link(
        &self,
        outbox: Rc<crate::transport::Outbox>,
        wire: Wire,
        peer: Option<std::net::SocketAddr>,
        standing: Standing,
    ) -> Rc<Link> {
        let heard = Cell::new(self.clock.get());
        let (durable_frames, clock) = (Cell::new(0), Rc::clone(&self.clock));
        Rc::new(Link { outbox, wire, peer, standing, durable_frames, heard, clock })
    }
}

/// Appends from this worker go to `persistence` from now on.
pub fn connect_intake(persistence: Mailbox<crate::actors::persistence::messages::AppendEvents>) {
    if let Some(worker) = Worker::current() {
        worker.intake.connect(persistence);
    }
}
