//! The router: hands every committed batch, in commit order, to the shards, which do the fan-out.

pub mod messages;
pub mod shard;
pub mod worker;

use std::time::Instant;

use actix::prelude::{Actor, Context, Handler, MessageResult};

use self::messages::{AttachShard, Observe, RouteBatch};
use super::mailbox::{Depth, Mailbox};
use super::observe::{ActorKind, ActorReport, ActorState, MailboxReport, uptime_seconds};
use super::persistence::messages::EventsCommitted;
use super::supervisor::guard::ExitGuard;
use crate::domain::event::EventId;
use crate::telemetry::metrics::Metrics;

/// Batches that may wait.
pub const MAILBOX: usize = 1024;

/// See the module.
pub struct Router {
    shards: Vec<Option<Mailbox<RouteBatch>>>,
    routed: EventId,
    batches: u64,
    depth: Depth,
    metrics: std::sync::Arc<Metrics>,
    started: Instant,
    _guard: ExitGuard,
}

impl Router {
    pub fn new(depth: Depth, metrics: std::sync::Arc<Metrics>, guard: ExitGuard) -> Self {
        Self { shards: Vec::new(), routed: 0, batches: 0, depth, metrics, started: Instant::now(), _guard: guard }
    }
}

impl Actor for Router {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<AttachShard> for Router {
    type Result = ();

    fn handle(&mut self, AttachShard { number, mailbox }: AttachShard, _: &mut Self::Context) {
        if self.shards.len() <= number {
            self.shards.resize_with(number + 1, || None);
        }
        self.shards[number] = Some(mailbox);
    }
}

impl Handler<EventsCommitted> for Router {
    type Result = ();

    fn handle(&mut self, EventsCommitted(batch): EventsCommitted, _: &mut Self::Context) {
        self.depth.took_one();
        self.routed = batch.last();
        self.batches += 1;
        for shard in self.shards.iter().flatten() {
            // A shard that misses a batch sees the gap before the next and reads the store.
            if shard.try_send(RouteBatch(batch.clone())).is_err() {
                self.metrics.mailbox_full.with_label_values(&["shard"]).inc();
            }
        }
    }
}

impl Handler<Observe> for Router {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, Observe: Observe, _: &mut Self::Context) -> Self::Result {
        MessageResult(Some(ActorReport {
            name: "router".into(),
            kind: ActorKind::Router,
            state: ActorState::Running,
            restarts: 0,
            mailbox: MailboxReport { depth: self.depth.get(), capacity: MAILBOX },
            uptime_seconds: uptime_seconds(self.started),
            details: serde_json::json!({
                "shards": self.shards.iter().flatten().count(),
                "batches": self.batches,
                "routed_id": self.routed,
                "subscriptions": self.metrics.subscriptions.get(),
            }),
            children: Vec::new(),
        }))
    }
}

#[cfg(feature = "fault-injection")]
impl Handler<super::supervisor::messages::InjectPanic> for Router {
    type Result = ();

    fn handle(&mut self, _: super::supervisor::messages::InjectPanic, _: &mut Self::Context) {
        panic!("injected fault in router");
    }
}
