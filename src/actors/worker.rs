//! What lives on each HTTP thread: the intake of its publishes, the send queues of its connections, and its shard.

use std::cell::RefCell;
use std::rc::Rc;

use actix::prelude::{Addr, AsyncContext as _, Context};
use tokio::sync::mpsc;

use super::persistence::intake::Intake;
use super::shard::{Shard, ShardParts, ShardThread};
use crate::runtime::address::Address;
use crate::runtime::life::Life;
use crate::transport::ShardQueues;

/// See the module.
pub struct Worker {
    pub thread: ShardThread,
    pub parts: ShardParts,
    shard: RefCell<Option<Addr<Shard>>>,
}

impl Worker {
    /// Sets up the current thread, without a shard yet. The supervisor has one started at `address`, and again when it
    /// fails, by sending a `Life`.
    pub fn install(
        number: usize,
        intake: Intake,
        parts: ShardParts,
        queues: Rc<ShardQueues>,
        address: Address<Shard>,
    ) -> (Rc<Self>, mpsc::UnboundedSender<Life>) {
        let thread = ShardThread { number, intake, queues, lobby: Rc::default(), clock: Rc::default() };
        let worker = Rc::new(Self { thread, parts, shard: RefCell::new(None) });
        let (starts, mut lives) = mpsc::unbounded_channel();
        let at_work = Rc::clone(&worker);
        actix_rt::spawn(async move {
            while let Some(life) = lives.recv().await {
                at_work.start_shard(life, &address);
            }
        });
        (worker, starts)
    }

    /// Starts a shard in place of the earlier one.
    fn start_shard(&self, life: Life, address: &Address<Shard>) {
        let ctx = Context::new();
        life.begin(address, ctx.address());
        self.shard.replace(Some(ctx.address()));
        ctx.run(Shard::new(self.thread.clone(), self.parts.clone(), life));
    }

    /// The present shard; `None` before the first was started.
    pub fn shard(&self) -> Option<Addr<Shard>> {
        self.shard.borrow().clone()
    }
}
