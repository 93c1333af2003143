//! Storing the changes of consumers.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::consumer::Consumer;
use super::consumer::storing::{End, Saved};
use super::{Consumers, STORE_RETRY};
use crate::actors::clock::now;
use crate::domain::consumer::Dead;
use crate::domain::lease::Lease;
use crate::storage::{Outcome, Write, service_name};
use crate::telemetry::faults::{self, FaultPoint};

/// Pause between two transactions of one consumer, so that acknowledgements that arrive meanwhile share the next.
const SAVE_PAUSE: Duration = Duration::from_millis(1);
/// Pause when the writer's mailbox was full.
const MAILBOX_RETRY: Duration = Duration::from_millis(20);

impl Consumers {
    /// Stores what cannot wait, or everything if the consumer has no members.
    pub(super) fn save(&mut self, name: &str, ctx: &mut Context<Self>) {
        let is_last = self.is_finishing || self.consumers.get(name).is_some_and(|c| c.members().is_empty());
        self.save_if(name, is_last, ctx);
    }

    /// Stores what cannot wait, or everything if `all`.
    pub(super) fn save_if(&mut self, name: &str, all: bool, ctx: &mut Context<Self>) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        self.parts.metrics.durable_settled.inc_by(consumer.tell_stored() as u64);
        if !consumer.has_to_save(all) {
            return;
        }
        assert!(!faults::strikes(FaultPoint::ConsumersDieBefore), "injected fault in durables");
        let fence = consumer.fence();
        let Some(change) = consumer.begin_save(now()) else { return };
        let answer = self.parts.persistence.commit_all(fence, vec![Write::ChangeConsumer(change)]);
        let name = Arc::clone(consumer.name());
        let end = async move {
            let Some(answer) = answer else { return End::NotSent };
            match answer.await {
                Ok(Ok(outcomes)) if outcomes == [Outcome::Void] => End::Void,
                Ok(Ok(_)) => End::Stored,
                Ok(Err(_)) | Err(_) => End::Failed,
            }
        };
        ctx.spawn(end.into_actor(self).map(move |end, this, ctx| this.saved(&name, end, ctx)));
    }

    fn saved(&mut self, name: &Arc<str>, end: End, ctx: &mut Context<Self>) {
        let Some(saved) = self.consumers.get_mut(name).and_then(|consumer| consumer.saved(end)) else { return };
        assert!(!faults::strikes(FaultPoint::ConsumersDieAfter), "injected fault in durables");
        match saved {
            Saved::Outdated => self.pump(name, ctx),
            Saved::Stored { generation, dead, has_renewed } => {
                for Dead { id, deliveries, reason, .. } in &dead {
                    let reason = reason.as_str();
                    log::warn!(service = service_name(name), id, attempts = deliveries, reason; "delivery is dead");
                }
                self.parts.metrics.durable_dead.inc_by(dead.len() as u64);
                self.rest(name, generation, SAVE_PAUSE, ctx);
                if has_renewed {
                    self.claim_renewed(name, ctx);
                }
                self.pump(name, ctx);
            }
            Saved::Moved => {
                // The store says who holds the lease now.
                let consumer = self.consumers.get_mut(name);
                consumer.into_iter().for_each(|consumer| consumer.replace(Lease::Follower));
                self.ask_for_lease(name, ctx);
            }
            Saved::Again { generation } => {
                let pause = if end == End::Failed { STORE_RETRY } else { MAILBOX_RETRY };
                self.rest(name, generation, pause, ctx);
            }
        }
    }

    /// Stores nothing of the consumer during the pause.
    fn rest(&mut self, name: &Arc<str>, generation: u64, pause: Duration, ctx: &mut Context<Self>) {
        let name = Arc::clone(name);
        ctx.run_later(pause, move |this, ctx| {
            if this.consumers.get_mut(&name).is_some_and(|consumer| consumer.rested(generation)) {
                this.pump(&name, ctx);
            }
        });
    }

    /// Removes a consumer without members, once all is stored.
    pub(super) fn retire(&mut self, name: &str) {
        let is_idle = |consumer: &Consumer| consumer.members().is_empty() && consumer.is_saved();
        let is_joining = self.joining.iter().any(|joining| joining == name);
        if !is_joining && self.consumers.get(name).is_some_and(is_idle) {
            self.release(name);
        }
        self.tell_if_finished();
    }

    /// Answers `Finish` once everything is stored.
    pub(super) fn tell_if_finished(&mut self) {
        if self.is_finishing && self.consumers.values().all(Consumer::is_saved) {
            for finished in self.finished.drain(..) {
                let _ = finished.send(());
            }
        }
    }
}
