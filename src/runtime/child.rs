//! A supervised actor as its supervisor sees it: how it is started, reached, observed and ended.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{Actor, Context, Handler, Message};
use actix_rt::ArbiterHandle;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::address::{Address, Generation};
use super::life::Life;
use super::report::{Details, MailboxReport, Observe};

/// How long an actor may take to say what it is before it is reported without its word.
const OBSERVE_TIMEOUT: Duration = Duration::from_millis(500);

/// Store what there is to store, take no more, and stop; answers when that is done. Some have nothing to store, and
/// just answer.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Finish;

/// Panic, for tests.
#[cfg(feature = "fault-injection")]
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct InjectPanic;

/// What an actor that is supervised takes. [`supervised!`](crate::supervised) has a part of it.
#[cfg(not(feature = "fault-injection"))]
pub trait Supervised: Actor<Context = Context<Self>> + Handler<Observe> + Handler<Finish> {}
#[cfg(not(feature = "fault-injection"))]
impl<A: Actor<Context = Context<A>> + Handler<Observe> + Handler<Finish>> Supervised for A {}

/// What an actor that is supervised takes. [`supervised!`](crate::supervised) has a part of it.
#[cfg(feature = "fault-injection")]
pub trait Supervised:
    Actor<Context = Context<Self>> + Handler<Observe> + Handler<Finish> + Handler<InjectPanic>
{
}
#[cfg(feature = "fault-injection")]
impl<A: Actor<Context = Context<A>> + Handler<Observe> + Handler<Finish> + Handler<InjectPanic>> Supervised for A {}

/// Starts lives of an actor, wherever it runs; each fills its address with [`Life::begin`].
pub type Starter = Box<dyn Fn(Life) + Send>;

/// A supervised actor, whatever it does.
pub struct Child {
    /// As operators know it.
    pub name: String,
    capacity: usize,
    start: Starter,
    reached: Box<dyn Reached + Send>,
}

impl Child {
    /// The actor at `address`, whose mailbox takes `capacity` messages.
    pub fn new<A: Supervised>(name: String, address: &Address<A>, capacity: usize, start: Starter) -> Self {
        Self { name, capacity, start, reached: Box::new(address.clone()) }
    }

    /// Starts a life of it.
    pub fn start(&self, life: Life) {
        (self.start)(life);
    }

    /// That life has ended.
    pub fn clear(&self, generation: Generation) {
        self.reached.clear_life(generation);
    }

    /// What it says of itself; nothing if it takes too long.
    pub fn observe(&self) -> BoxFuture<'static, Option<Details>> {
        self.reached.observe()
    }

    /// What waits for it.
    pub fn mailbox(&self) -> MailboxReport {
        MailboxReport { depth: self.reached.waiting(), capacity: self.capacity }
    }

    /// What has it stop in good order when it is called.
    pub fn finisher(&self) -> Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send> {
        self.reached.finisher()
    }

    /// Has it panic.
    #[cfg(feature = "fault-injection")]
    pub fn inject_panic(&self) {
        self.reached.inject_panic();
    }
}

/// Starts an actor on a thread that is there for it.
pub fn on_arbiter<A: Supervised>(
    arbiter: ArbiterHandle,
    address: &Address<A>,
    make: impl Fn(Life) -> A + Send + Sync + 'static,
) -> Starter {
    let (address, make) = (address.clone(), Arc::new(make));
    Box::new(move |life| {
        let (address, make) = (address.clone(), Arc::clone(&make));
        // False if the thread is gone: the process is about to end.
        arbiter.spawn_fn(move || {
            let ctx = Context::<A>::new();
            life.begin(&address, actix::AsyncContext::address(&ctx));
            ctx.run(make(life));
        });
    })
}

/// Has another thread start an actor, whose parts cannot leave it.
pub fn elsewhere(starts: mpsc::UnboundedSender<Life>) -> Starter {
    Box::new(move |life| {
        // One for each life. If the thread is gone the life ends here, and is reported as any other.
        let _ = starts.send(life);
    })
}

/// The address of an actor, as far as all have it in common.
trait Reached {
    fn clear_life(&self, generation: Generation);
    fn waiting(&self) -> usize;
    fn observe(&self) -> BoxFuture<'static, Option<Details>>;
    fn finisher(&self) -> Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;
    #[cfg(feature = "fault-injection")]
    fn inject_panic(&self);
}

impl<A: Supervised> Reached for Address<A> {
    fn clear_life(&self, generation: Generation) {
        self.clear(generation);
    }

    fn waiting(&self) -> usize {
        self.depth()
    }

    fn observe(&self) -> BoxFuture<'static, Option<Details>> {
        let asked = tokio::time::timeout(OBSERVE_TIMEOUT, self.ask(Observe));
        async move { asked.await.ok()?.ok() }.boxed()
    }

    fn finisher(&self) -> Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send> {
        let address = self.clone();
        Box::new(move || address.ask(Finish).map(drop).boxed())
    }

    #[cfg(feature = "fault-injection")]
    fn inject_panic(&self) {
        actix_rt::spawn(self.ask(InjectPanic));
    }
}
