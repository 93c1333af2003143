//! What lives on each HTTP worker thread: its intake, its shard, and the queues of its connections.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use actix::prelude::{Addr, AsyncContext as _, Context, Recipient};
use tokio::sync::mpsc;

use crate::actors::persistence::intake::Intake;
use crate::actors::shard::messages::{
    AwaitEvent, CloseSubscription, ForgetPoll, ListSubscriptions, OpenSession, OpenStream, OpenSubscription,
    SessionClosed,
};
use crate::actors::shard::seat::{Beat, Link, Standing};
use crate::actors::shard::{Lobby, Shard, ShardParts, low_water};
use crate::protocol::wire::Wire;
use crate::runtime::address::Address;
use crate::runtime::life::Life;
use crate::transport::ShardQueues;

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
    /// Sets up the current thread, without a shard yet: the supervisor starts one at `address`, and again when it fails,
    /// by sending the life of it.
    pub fn install(
        number: usize,
        intake: Intake,
        parts: ShardParts,
        queues: Rc<ShardQueues>,
        address: Address<Shard>,
    ) -> (Rc<Self>, mpsc::UnboundedSender<Life>) {
        let worker = Rc::new(Self {
            number,
            intake,
            queues,
            lobby: Rc::default(),
            clock: Rc::default(),
            parts,
            shard: RefCell::new(None),
        });
        let (starts, mut lives) = mpsc::unbounded_channel();
        let at_work = Rc::clone(&worker);
        actix_rt::spawn(async move {
            while let Some(life) = lives.recv().await {
                at_work.start_shard(life, &address);
            }
        });
        (worker, starts)
    }

    /// Starts a shard in place of the one before.
    fn start_shard(&self, life: Life, address: &Address<Shard>) {
        let (queues, lobby, clock) = (Rc::clone(&self.queues), Rc::clone(&self.lobby), Rc::clone(&self.clock));
        let ctx = Context::new();
        let addr: Addr<Shard> = ctx.address();
        life.begin(address, addr.clone());
        ctx.run(Shard::new(self.number, self.parts.clone(), queues, lobby, clock, self.intake.clone(), life));
        self.shard.replace(Some(Rc::new(ShardAddresses {
            open_session: addr.clone().recipient(),
            session_closed: addr.clone().recipient(),
            open_subscription: addr.clone().recipient(),
            open_stream: addr.clone().recipient(),
            await_event: addr.clone().recipient(),
            forget_poll: addr.clone().recipient(),
            close_subscription: addr.clone().recipient(),
            list_subscriptions: addr.recipient(),
        })));
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
