//! Addresses that outlive restarts.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::dev::ToEnvelope;
use actix::prelude::{Actor, Addr, Handler, Message, SendError};
use arc_swap::ArcSwapOption;
use futures_util::{Stream, StreamExt as _, future};
use tokio::sync::watch;

/// One life of an actor: counts from 1, and up with each restart.
pub type Generation = u64;

/// How many messages wait for one life of an actor: told, and not yet taken. Messages that are asked are not counted.
#[derive(Debug, Clone, Default)]
pub struct Depth(Arc<AtomicUsize>);

impl Depth {
    /// Messages that wait.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn enter<M>(&self, message: M) -> Queued<M> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Queued { message, _place: Place(self.clone()) }
    }
}

/// A message on its way, counted until its actor takes it or dies.
#[derive(Debug)]
pub struct Queued<M> {
    message: M,
    _place: Place,
}

#[derive(Debug)]
struct Place(Depth);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<M> Queued<M> {
    /// The actor has it from now on.
    pub fn take(self) -> M {
        self.message
    }
}

impl<M: Message<Result = ()>> Message for Queued<M> {
    type Result = ();
}

/// Why a message was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// As many messages wait as may wait.
    #[error("the mailbox of the actor is full")]
    Full,
    /// The actor has not started yet, or failed and is about to be restarted.
    #[error("the actor is restarting")]
    Absent,
    /// The actor of that generation is gone.
    #[error("the actor was restarted")]
    OtherLife,
}

/// Nobody answers: the actor is absent, or failed before it did. Whether it was done is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the actor is restarting")]
pub struct Unanswered;

/// What a value changes to, as long as somebody may change it; some may be left out if they follow quickly.
pub fn changes<T: Copy>(seen: watch::Receiver<T>) -> impl Stream<Item = T> {
    futures_util::stream::unfold(seen, |mut seen| async move {
        seen.changed().await.ok()?;
        let value = *seen.borrow_and_update();
        Some((value, seen))
    })
}

/// The address of a supervised actor, whichever life of it there is. Clones share it.
///
/// Reading it costs an atomic load. The bound is that of the actor's mailbox, since all share one `Addr`: actix lets
/// each clone of an `Addr` exceed it by one message.
pub struct Address<A: Actor>(Arc<Shared<A>>);

struct Shared<A: Actor> {
    life: ArcSwapOption<Life<A>>,
    generations: watch::Sender<Generation>,
}

struct Life<A: Actor> {
    generation: Generation,
    addr: Addr<A>,
    depth: Depth,
}

impl<A: Actor> Address<A> {
    /// An address at which nobody is yet.
    pub fn vacant() -> Self {
        Self(Arc::new(Shared { life: ArcSwapOption::empty(), generations: watch::Sender::new(0) }))
    }

    /// From now on this life is reached; what waits for it is counted by `depth`.
    pub fn fill(&self, generation: Generation, addr: Addr<A>, depth: Depth) {
        self.0.life.store(Some(Arc::new(Life { generation, addr, depth })));
        self.0.generations.send_replace(generation);
    }

    /// That life has ended; a later one stays.
    pub fn clear(&self, generation: Generation) {
        self.0.life.rcu(|life| life.clone().filter(|life| life.generation != generation));
    }

    /// The life that is reached now.
    pub fn generation(&self) -> Option<Generation> {
        self.0.life.load().as_ref().map(|life| life.generation)
    }

    /// The generations from now on, the present one first; some may be left out if they follow quickly.
    pub fn generations(&self) -> impl Stream<Item = Generation> + use<A> {
        let mut seen = self.0.generations.subscribe();
        seen.mark_changed();
        changes(seen).filter(|generation| future::ready(*generation > 0))
    }

    /// Messages that wait.
    pub fn depth(&self) -> usize {
        self.0.life.load().as_ref().map_or(0, |life| life.depth.get())
    }

    /// Gives a hint to whoever is there. It may be lost with the actor.
    pub fn tell<M>(&self, message: M) -> Result<(), Undelivered>
    where
        M: Message<Result = ()> + Send + 'static,
        A: Handler<Queued<M>>,
        A::Context: ToEnvelope<A, Queued<M>>,
    {
        let life = self.0.life.load();
        let life = life.as_ref().ok_or(Undelivered::Absent)?;
        life.addr.try_send(life.depth.enter(message)).map_err(|error| match error {
            SendError::Full(_) => Undelivered::Full,
            SendError::Closed(_) => Undelivered::Absent,
        })
    }

    /// Says what concerns one life only, such as an id that it has given out or a lease that it has.
    ///
    /// It is never refused for fullness: of such messages there is at most one for each id or lease.
    pub fn tell_in<M>(&self, generation: Generation, message: M) -> Result<(), Undelivered>
    where
        M: Message<Result = ()> + Send + 'static,
        A: Handler<Queued<M>>,
        A::Context: ToEnvelope<A, Queued<M>>,
    {
        let life = self.0.life.load();
        let life = life.as_ref().filter(|life| life.generation == generation).ok_or(Undelivered::OtherLife)?;
        life.addr.do_send(life.depth.enter(message));
        Ok(())
    }

    /// Asks whoever is there. The message takes its place now; when the mailbox is full it waits for one. Who asks
    /// bounds the time; when the future is dropped before the actor has taken the message, the actor passes it by. It is
    /// not asked again: without an answer, whether it was done is unknown.
    pub fn ask<M>(&self, message: M) -> impl Future<Output = Result<M::Result, Unanswered>> + use<A, M>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        let asked = self.0.life.load().as_ref().map(|life| life.addr.send(message));
        async move { asked.ok_or(Unanswered)?.await.map_err(|_| Unanswered) }
    }

    /// What a neighbour sees of it that knows only one kind of message.
    pub fn mailbox<M>(&self) -> Mailbox<M>
    where
        M: Message<Result = ()> + Send + 'static,
        A: Handler<Queued<M>>,
        A::Context: ToEnvelope<A, Queued<M>>,
    {
        Mailbox(Arc::new(self.clone()))
    }
}

impl<A: Actor> Clone for Address<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Where one kind of message goes, without a word of whose address it is.
pub struct Mailbox<M>(Arc<dyn Tell<M> + Send + Sync>);

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> Mailbox<M> {
    /// See [`Address::tell`].
    pub fn tell(&self, message: M) -> Result<(), Undelivered> {
        self.0.tell(message)
    }
}

trait Tell<M> {
    fn tell(&self, message: M) -> Result<(), Undelivered>;
}

impl<A, M> Tell<M> for Address<A>
where
    M: Message<Result = ()> + Send + 'static,
    A: Actor + Handler<Queued<M>>,
    A::Context: ToEnvelope<A, Queued<M>>,
{
    fn tell(&self, message: M) -> Result<(), Undelivered> {
        self.tell(message)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use actix::prelude::{AsyncContext as _, Context};
    use tokio::sync::oneshot;

    use super::*;

    /// Says what it was told.
    #[derive(Default)]
    struct Probe(Arc<Mutex<Vec<u32>>>);

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Note(u32);

    /// Busy until it is let go on.
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Wait(oneshot::Receiver<()>);

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Stop;

    impl Actor for Probe {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            ctx.set_mailbox_capacity(2);
        }
    }

    impl Handler<Note> for Probe {
        type Result = ();

        fn handle(&mut self, Note(number): Note, _: &mut Self::Context) {
            self.0.lock().expect("no panic").push(number);
        }
    }

    impl Handler<Wait> for Probe {
        type Result = ();

        fn handle(&mut self, Wait(end): Wait, ctx: &mut Self::Context) {
            ctx.wait(actix::fut::wrap_future(async move { drop(end.await) }));
        }
    }

    impl Handler<Stop> for Probe {
        type Result = ();

        fn handle(&mut self, Stop: Stop, ctx: &mut Self::Context) {
            actix::ActorContext::terminate(ctx);
        }
    }

    crate::supervised!(Probe, Note, Wait);

    #[cfg(feature = "fault-injection")]
    const _: fn() = || {
        fn takes<A: Handler<crate::runtime::child::InjectPanic>>() {}
        takes::<Probe>();
    };

    /// A life at `address`, and what it is told.
    fn begin(address: &Address<Probe>, generation: Generation) -> (Arc<Mutex<Vec<u32>>>, Depth) {
        let (probe, depth) = (Probe::default(), Depth::default());
        let told = Arc::clone(&probe.0);
        address.fill(generation, probe.start(), depth.clone());
        (told, depth)
    }

    /// Until it has taken what it was told before.
    async fn busy(address: &Address<Probe>) -> oneshot::Sender<()> {
        let (go_on, end) = oneshot::channel();
        address.tell(Wait(end)).expect("room");
        while address.depth() > 0 {
            tokio::task::yield_now().await;
        }
        go_on
    }

    #[actix_rt::test]
    async fn an_empty_place_is_not_full() {
        let address = Address::<Probe>::vacant();
        assert_eq!(address.tell(Note(1)), Err(Undelivered::Absent));
        assert_eq!(address.tell_in(1, Note(1)), Err(Undelivered::OtherLife));
        assert_eq!(address.ask(Stop).await, Err(Unanswered));
        assert_eq!((address.generation(), address.depth()), (None, 0));
    }

    #[actix_rt::test]
    async fn what_waits_is_bounded_and_counted_until_it_is_taken() {
        let address = Address::vacant();
        let (told, _) = begin(&address, 1);
        let go_on = busy(&address).await;
        let (mailbox, mut sent) = (address.mailbox::<Note>(), 0);
        let refused = loop {
            match mailbox.tell(Note(sent)) {
                Ok(()) => sent += 1,
                Err(refused) => break refused,
            }
            assert!(sent <= 3, "bounded");
        };
        assert_eq!(refused, Undelivered::Full);
        assert_eq!(address.depth(), sent as usize, "what was refused does not wait");
        assert_eq!(address.tell_in(1, Note(100)), Ok(()), "of one life, it is never refused");
        drop(go_on);
        while told.lock().expect("no panic").len() <= sent as usize {
            tokio::task::yield_now().await;
        }
        assert_eq!(address.depth(), 0);
        assert_eq!(*told.lock().expect("no panic"), (0..sent).chain([100]).collect::<Vec<_>>());
    }

    #[actix_rt::test]
    async fn what_waits_for_a_life_dies_with_it_and_so_does_its_depth() {
        let address = Address::vacant();
        let (earlier, depth) = begin(&address, 1);
        let go_on = busy(&address).await;
        let stopped = address.ask(Stop);
        let unanswered = address.ask(Stop);
        address.tell_in(1, Note(1)).expect("this life");
        assert_eq!(depth.get(), 1);
        drop(go_on);
        assert_eq!(stopped.await, Ok(()));
        assert_eq!(unanswered.await, Err(Unanswered), "it is not asked again");
        while depth.get() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(address.tell(Note(2)), Err(Undelivered::Absent), "dead, though not cleared yet");
        address.clear(1);
        let (later, _) = begin(&address, 2);
        address.clear(1);
        assert_eq!((address.generation(), address.depth()), (Some(2), 0));
        assert_eq!(address.tell_in(1, Note(3)), Err(Undelivered::OtherLife));
        address.tell_in(2, Note(4)).expect("this life");
        while later.lock().expect("no panic").is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!((&**earlier.lock().expect("no panic"), &**later.lock().expect("no panic")), (&[][..], &[4][..]));
    }

    #[actix_rt::test]
    async fn each_generation_is_told_to_who_waits_for_one() {
        let address = Address::vacant();
        let mut early = Box::pin(address.generations());
        begin(&address, 1);
        let mut late = Box::pin(address.generations());
        assert_eq!((early.next().await, late.next().await), (Some(1), Some(1)));
        begin(&address, 2);
        assert_eq!((early.next().await, late.next().await), (Some(2), Some(2)));
    }
}
