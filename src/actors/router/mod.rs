//! The router: hands every committed batch, in commit order, to the shards, which do the fan-out, and to the durable
//! subscriptions.

pub mod messages;

use std::collections::BTreeMap;
use std::time::Instant;

use actix::prelude::{Actor, Context, Handler, MessageResult};

use self::messages::{Attach, Follower, Observe, RouteBatch};
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
    followers: BTreeMap<Follower, Mailbox<RouteBatch>>,
    routed: EventId,
    batches: u64,
    depth: Depth,
    metrics: std::sync::Arc<Metrics>,
    started: Instant,
    _guard: ExitGuard,
}

impl Router {
    pub fn new(depth: Depth, metrics: std::sync::Arc<Metrics>, guard: ExitGuard) -> Self {
        Self {
            followers: BTreeMap::new(),
            routed: 0,
            batches: 0,
            depth,
            metrics,
            started: Instant::now(),
            _guard: guard,
        }
    }
}

impl Actor for Router {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

impl Handler<Attach> for Router {
    type Result = ();

    fn handle(&mut self, Attach { follower, mailbox }: Attach, _: &mut Self::Context) {
        self.followers.insert(follower, mailbox);
    }
}

impl Handler<EventsCommitted> for Router {
    type Result = ();

    fn handle(&mut self, EventsCommitted(batch): EventsCommitted, _: &mut Self::Context) {
        self.depth.took_one();
        self.routed = batch.last();
        self.batches += 1;
        for (follower, mailbox) in &self.followers {
            // Who misses a batch sees the gap before the next and reads the store.
            if mailbox.try_send(RouteBatch(batch.clone())).is_err() {
                let name = match follower {
                    Follower::Shard(_) => "shard",
                    Follower::Durables => "durables",
                };
                self.metrics.mailbox_full.with_label_values(&[name]).inc();
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
                "shards": self.followers.keys().filter(|follower| **follower != Follower::Durables).count(),
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
