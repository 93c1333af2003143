//! What lives on each HTTP thread: the intake of its publishes, the queues of its connections, and its shard.

use std::cell::RefCell;
use std::rc::Rc;

use actix::prelude::{Addr, Context};
use actix_rt::ArbiterHandle;

use super::mailbox::{Depth, Mailbox};
use super::persistence::intake::Intake;
use super::persistence::messages::AppendEvents;
use super::shard::{Shard, ShardParts, ShardThread, low_water};
use super::supervisor::guard::ExitGuard;
use crate::transport::ShardQueues;

thread_local! {
    /// The worker of this thread, where the supervisor finds it to start a shard anew.
    static WORKER: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
}

/// See the module.
pub struct Worker {
    pub thread: ShardThread,
    parts: ShardParts,
    shard: RefCell<Option<Addr<Shard>>>,
}

impl Worker {
    /// Sets up the current thread, without a shard yet; the supervisor starts that one.
    pub fn install(
        number: usize,
        intake: Intake,
        parts: ShardParts,
        queues: Rc<ShardQueues>,
    ) -> (Rc<Self>, ArbiterHandle) {
        let thread = ShardThread { number, intake, queues, lobby: Rc::default(), clock: Rc::default() };
        let worker = Rc::new(Self { thread, parts, shard: RefCell::new(None) });
        WORKER.set(Some(Rc::clone(&worker)));
        (worker, actix_rt::Arbiter::current())
    }

    /// The worker of the current thread.
    pub fn current() -> Option<Rc<Self>> {
        WORKER.with_borrow(Clone::clone)
    }

    /// Starts a shard in place of the one before.
    pub fn start_shard(&self, depth: Depth, guard: ExitGuard) -> Addr<Shard> {
        let address = Context::new().run(Shard::new(self.thread.clone(), self.parts.clone(), depth, guard));
        self.shard.replace(Some(address.clone()));
        address
    }

    /// The shard of the moment; `None` before the first was started.
    pub fn shard(&self) -> Option<Addr<Shard>> {
        self.shard.borrow().clone()
    }

    /// Queued bytes above which a connection lags.
    pub fn queue_limit(&self) -> usize {
        self.parts.limits.queue_per_connection
    }

    /// Queued bytes at which a connection that lags is given more.
    pub fn low_water(&self) -> usize {
        low_water(self.queue_limit())
    }
}

/// Appends from this worker go to `persistence` from now on.
pub fn connect_intake(persistence: Mailbox<AppendEvents>) {
    if let Some(worker) = Worker::current() {
        worker.thread.intake.connect(persistence);
    }
}
