//! Deliveries to members, and reads for consumers that are behind.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::{Consumers, STORE_RETRY};
use crate::actors::clock::now;
use crate::domain::consumer::ConsumerState;
use crate::domain::event::{Event, Timestamp};
use crate::protocol::close::CloseReason;
use crate::storage::{Claim, Scan, ScanPage, StoreError};

/// Events and bytes of one page.
const PAGE_EVENTS: usize = 256;
const PAGE_BYTES: usize = 1024 * 1024;
/// Reopened dead letters that are read at a time.
const RENEWED_ROWS: usize = 256;

impl Consumers {
    /// Sends what members have room for.
    pub(super) fn send(&mut self, name: &str) {
        let now = self.clock.now();
        let (metrics, pushes) = (&self.parts.metrics, &self.parts.pushes);
        // Another node may deliver them, as long as this one cannot say that none does.
        let cluster = &self.parts.cluster;
        let Some(consumer) = self.consumers.get_mut(name).filter(|known| cluster.may_act_in(known.term)) else {
            return;
        };
        consumer.deliver(now, self.is_finishing, |id, delivery, is_sent| {
            metrics.durable_deliveries.inc();
            if delivery > 1 {
                metrics.durable_redeliveries.inc();
            } else if is_sent {
                pushes.add(id, 1);
            }
        });
    }

    /// Reads the next page of the log, if the consumer is behind and has room for it.
    pub(super) fn read(&mut self, name: &str, ctx: &mut Context<Self>) {
        self.read_if(name, ConsumerState::has_room_for_page, ctx);
    }

    pub(super) fn read_if(
        &mut self,
        name: &str,
        has_room: impl FnOnce(&ConsumerState<Event>) -> bool,
        ctx: &mut Context<Self>,
    ) {
        let head = self.head.max(self.parts.position.last());
        let Some(consumer) = self.consumers.get_mut(name).filter(|_| !self.is_finishing) else { return };
        let Some((after, generation)) = consumer.begin_read(head, has_room) else { return };
        let scan = Scan {
            after,
            through: Some(head),
            patterns: vec![consumer.pattern().clone()],
            max_events: PAGE_EVENTS,
            max_bytes: PAGE_BYTES,
        };
        let name = Arc::clone(consumer.name());
        let reader = self.parts.reader.clone();
        let read = async move { reader.scan(scan).await };
        ctx.spawn(read.into_actor(self).map(move |page, this, ctx| match page {
            Ok(ScanPage { events, scanned_through, earliest }) => {
                let Some(consumer) = this.consumers.get_mut(&name) else { return };
                if !consumer.end_read(generation) {
                    return;
                }
                if earliest > after + 1 && consumer.lose() {
                    log::warn!(durable = &*name, after, earliest_id = earliest; "durable subscription fell behind the retained history");
                    this.parts.metrics.durable_gaps.inc();
                }
                consumer.take(events.into_iter(), scanned_through);
                this.pump(&name, ctx);
            }
            Err(error) => this.read_again(&name, generation, &error, ctx),
        }));
    }

    fn read_again(&mut self, name: &Arc<str>, generation: u64, error: &StoreError, ctx: &mut Context<Self>) {
        log::warn!(durable = &**name, error:%; "reading for a durable subscription failed, trying again");
        let consumer = self.consumers.get(name).filter(|consumer| consumer.is_of(generation) && error.is_damage());
        consumer.into_iter().for_each(|consumer| consumer.members().close(CloseReason::HistoryUnreadable));
        let name = Arc::clone(name);
        ctx.run_later(STORE_RETRY, move |this, ctx| {
            if this.consumers.get_mut(&name).is_some_and(|consumer| consumer.end_read(generation)) {
                this.pump(&name, ctx);
            }
        });
    }

    /// Looks for dead letters that an operator has reopened.
    pub(super) fn claim_renewed(&mut self, name: &str, ctx: &mut Context<Self>) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let Some(generation) = consumer.begin_claim() else { return };
        let claim = Claim::Due { now: now(), after: (Timestamp(0), 0) };
        let (name, service) = (Arc::clone(consumer.name()), consumer.service());
        let reader = self.parts.reader.clone();
        let read = async move { reader.claim(service, claim, RENEWED_ROWS, PAGE_BYTES).await };
        ctx.spawn(read.into_actor(self).map(move |claimed, this, ctx| {
            let Some(consumer) = this.consumers.get_mut(&name) else { return };
            if consumer.end_claim(generation, claimed.unwrap_or_default()) {
                this.pump(&name, ctx);
            }
        }));
    }

    pub(super) fn set_timer(&mut self, name: &str, ctx: &mut Context<Self>) {
        let now = self.clock.now();
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let wait = consumer.next_due().map(|due| due.since(now).max(Duration::from_millis(1)));
        let name = Arc::clone(consumer.name());
        let timer = wait.map(|wait| ctx.run_later(wait, move |this, ctx| this.pump(&name, ctx)));
        if let Some(timer) = consumer.set_timer(timer) {
            ctx.cancel_future(timer);
        }
    }
}
