//! The router: passes every committed batch, in commit order, to its followers. These are the shards, which do the
//! fan-out, and the consumers.

pub mod messages;

use std::sync::Arc;

use actix::prelude::{Actor, Context, Handler, MessageResult};

use self::messages::RouteBatch;
use super::log_position::LogPosition;
use super::persistence::messages::EventsCommitted;
use crate::domain::event::EventId;
use crate::protocol::log_batch::LogBatch;
use crate::runtime::address::{Mailbox, Undelivered};
use crate::runtime::child::Finish;
use crate::runtime::life::Life;
use crate::runtime::report::{ActorKind, Details, Observe};
use crate::telemetry::metrics::Metrics;

/// Batches that may wait.
pub const MAILBOX: usize = 1024;

/// What a router is made of. It is kept, to make the next generation.
#[derive(Clone)]
pub struct RouterParts {
    /// The followers of the log, each with its kind.
    pub followers: Arc<[(ActorKind, Mailbox<RouteBatch>)]>,
    pub position: Arc<LogPosition>,
    pub metrics: Arc<Metrics>,
}

/// See the module.
pub struct Router {
    parts: RouterParts,
    routed: EventId,
    batches: u64,
    _life: Life,
}

impl Router {
    pub fn new(parts: RouterParts, life: Life) -> Self {
        Self { parts, routed: 0, batches: 0, _life: life }
    }

    fn route(&mut self, batch: &Arc<LogBatch>) {
        self.routed = batch.last();
        self.batches += 1;
        for (kind, follower) in &*self.parts.followers {
            // A follower that misses a batch finds the gap before the next one, and reads the store.
            if follower.tell(RouteBatch(Arc::clone(batch))) == Err(Undelivered::Full) {
                self.parts.metrics.mailbox_full.with_label_values(&[kind.as_str()]).inc();
            }
        }
    }
}

impl Actor for Router {
    type Context = Context<Self>;

    /// Its followers miss the batches that an earlier router has lost. By the end of the log they find that gap.
    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        if let Some(bounds) = self.parts.position.get() {
            self.route(&LogBatch::new(bounds.last, Vec::new()));
        }
    }
}

impl Handler<EventsCommitted> for Router {
    type Result = ();

    fn handle(&mut self, EventsCommitted(batch): EventsCommitted, _: &mut Self::Context) {
        self.route(&batch);
    }
}

impl Handler<Observe> for Router {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, Observe: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(Details::of(serde_json::json!({
            "shards": self.parts.followers.iter().filter(|(kind, _)| *kind == ActorKind::Shard).count(),
            "batches": self.batches,
            "routed_id": self.routed,
            "subscriptions": self.parts.metrics.subscriptions.get(),
        })))
    }
}

impl Handler<Finish> for Router {
    type Result = ();

    fn handle(&mut self, Finish: Finish, _: &mut Self::Context) {}
}

crate::supervised!(Router, EventsCommitted);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::domain::event::{Event, LogBounds};
    use crate::runtime::address::{Address, Depth};

    /// Remembers how far each batch reached, and what it followed.
    #[derive(Default)]
    struct Follower(Arc<Mutex<Vec<(EventId, EventId)>>>);

    impl Actor for Follower {
        type Context = Context<Self>;
    }

    impl Handler<RouteBatch> for Follower {
        type Result = ();

        fn handle(&mut self, RouteBatch(batch): RouteBatch, _: &mut Self::Context) {
            self.0.lock().expect("no panic").push((batch.prev, batch.last()));
        }
    }

    crate::supervised!(Follower, RouteBatch);

    #[actix_rt::test]
    async fn a_new_router_begins_with_the_end_of_the_log_by_which_lost_batches_are_found() {
        let (address, follower) = (Address::vacant(), Follower::default());
        let told = Arc::clone(&follower.0);
        address.fill(1, follower.start(), Depth::default());
        let position = Arc::new(LogPosition::default());
        position.set(LogBounds { earliest: 1, last: 7 });
        let metrics = Arc::new(Metrics::new().expect("distinct names"));
        // An address without an actor does not count as a full mailbox.
        let nobody = (ActorKind::Shard, Address::<Follower>::vacant().mailbox());
        let followers = Arc::new([(ActorKind::Consumers, address.mailbox()), nobody]);
        let parts = RouterParts { followers, position, metrics: Arc::clone(&metrics) };
        let router = Router::new(parts, Life::unsupervised(ActorKind::Router, 2)).start();
        router.do_send(EventsCommitted(LogBatch::new(7, vec![Event::plain(8, "a.b", "1")])));
        while told.lock().expect("no panic").last() != Some(&(7, 8)) {
            tokio::task::yield_now().await;
        }
        assert_eq!(*told.lock().expect("no panic"), [(7, 7), (7, 8)]);
        assert_eq!(metrics.mailbox_full.with_label_values(&["shard"]).get(), 0);
    }
}
