//! Actors whose work is tasks: these are told when the actor is to end, and it ends when all of them have.

use actix::prelude::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, ResponseActFuture, WrapFuture as _,
};
use tokio::sync::{oneshot, watch};

use super::life::Life;
use super::stop::Stop;

/// The tasks of an actor, and those who wait for its end.
pub struct Tasks {
    teller: watch::Sender<bool>,
    stop: Stop,
    /// Those that have not ended.
    running: usize,
    finished: Vec<oneshot::Sender<()>>,
    life: Life,
}

/// An actor whose work is tasks.
pub trait Tasked: Actor<Context = Context<Self>> {
    fn tasks(&mut self) -> &mut Tasks;

    /// Runs a task for as long as the actor lives.
    fn run(&mut self, task: impl Future<Output = ()> + 'static, ctx: &mut Context<Self>) {
        self.tasks().running += 1;
        ctx.spawn(task.into_actor(self).map(|(), this, ctx| {
            let tasks = this.tasks();
            tasks.running -= 1;
            tasks.end_if_finished(ctx);
        }));
    }

    /// Tells the tasks to end; the actor ends after them.
    fn finish(&mut self, ctx: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        let (done, finished) = oneshot::channel();
        let tasks = self.tasks();
        tasks.finished.push(done);
        tasks.teller.send_replace(true);
        tasks.end_if_finished(ctx);
        Box::pin(finished.into_actor(self).map(|_, _, _| ()))
    }
}

impl Tasks {
    /// None yet.
    pub fn new(life: Life) -> Self {
        let (teller, stop) = Stop::new();
        Self { teller, stop, running: 0, finished: Vec::new(), life }
    }

    /// By what a task learns that it is to end.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    fn end_if_finished<A: Actor<Context = Context<A>>>(&mut self, ctx: &mut Context<A>) {
        if self.running == 0 && !self.finished.is_empty() {
            self.life.finish();
            for finished in self.finished.drain(..) {
                let _ = finished.send(());
            }
            ctx.stop();
        }
    }
}
