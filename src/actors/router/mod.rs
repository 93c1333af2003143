//! The router: hands every committed batch, in commit order, to its followers: the shards, which do the fan-out, and
//! the consumers.

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

/// What a router is made of; kept to make another.
#[derive(Clone)]
pub struct RouterParts {
    /// Who takes committed batches, and of what kind they are.
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
            // Who misses a batch sees the gap before the next and reads the store.
            if follower.tell(RouteBatch(Arc::clone(batch))) == Err(Undelivered::Full) {
                self.parts.metrics.mailbox_full.with_label_values(&[kind.as_str()]).inc();
            }
        }
    }
}

impl Actor for Router {
    type Context = Context<Self>;

    /// What an earlier router took along is missing at the followers: the end of the log lets them find the gap.
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
