//! Events to members, and events from the store for those that are behind.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::Durables;
use super::messages::ToMember;
use crate::domain::durable::{Delivery, Durable};
use crate::domain::event::{Event, Timestamp};
use crate::protocol::close::CloseReason;
use crate::protocol::durable::delivery_text;
use crate::storage::{Claim, Claimed, Scan, ScanPage, StoreError};
use crate::transport::text_frame;

/// Events and bytes in one page read from the store.
const PAGE_EVENTS: usize = 256;
const PAGE_BYTES: usize = 1024 * 1024;
/// Of what was made anew.
const RENEWED_ROWS: usize = 256;
/// Settlements that wait for the store: with more, nothing is sent.
const MAX_UNSAVED: usize = 4096;
/// After a failure of the store.
const STORE_RETRY: Duration = Duration::from_millis(500);

impl Durables {
    /// Sends what members have room for.
    pub(super) fn send(&mut self, name: &str, _: &mut Context<Self>) {
        let now = self.clock.now();
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let Some(durable) = &mut consumer.durable else { return };
        durable.expire(now);
        if self.is_finishing || consumer.answers.len() > MAX_UNSAVED {
            return;
        }
        loop {
            let members = &consumer.members;
            let has_room = |member| members.get(&member).is_some_and(|link| link.has_room());
            let Some(Delivery { member, id, item, delivery }) = durable.next(now, has_room) else {
                if durable.not_in_flight() == 0 || consumer.members.values().all(|link| link.has_room()) {
                    break;
                }
                let full: Vec<_> = consumer.members.values().filter(|link| !link.has_room()).collect();
                full.iter().for_each(|link| link.await_room());
                if full.iter().all(|link| !link.has_room()) {
                    break;
                }
                continue;
            };
            consumer.delivered += 1;
            consumer.redelivered += u64::from(delivery > 1);
            self.parts.metrics.durable_deliveries.inc();
            if delivery > 1 {
                self.parts.metrics.durable_redeliveries.inc();
            }
            let frame = text_frame(delivery_text(&item, &consumer.name, delivery).as_bytes());
            let link = consumer.members.get(&member);
            if !link.is_some_and(|link| link.send(ToMember::Event(frame))) {
                // It is gone; its session's own word is on its way.
                durable.hand_back(member, id);
                durable.leave(member);
            } else if delivery == 1 {
                self.parts.pushes.add(id, 1);
            }
        }
    }

    /// Reads on from where it is, if it is behind and has room.
    pub(super) fn read(&mut self, name: &str, ctx: &mut Context<Self>) {
        self.read_if(name, Durable::has_room_for_page, ctx);
    }

    pub(super) fn read_if(
        &mut self,
        name: &str,
        has_room: impl FnOnce(&Durable<Event>) -> bool,
        ctx: &mut Context<Self>,
    ) {
        let head = self.head.max(self.parts.position.last());
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let Some(durable) = &consumer.durable else { return };
        let is_behind = durable.cursor() < head && has_room(durable) && !consumer.members.is_empty();
        if !is_behind || consumer.is_reading || self.is_finishing {
            return;
        }
        consumer.is_reading = true;
        let scan = Scan {
            after: durable.cursor(),
            through: Some(head),
            patterns: vec![consumer.pattern.clone()],
            max_events: PAGE_EVENTS,
            max_bytes: PAGE_BYTES,
        };
        let (name, life, after) = (Arc::clone(&consumer.name), consumer.life, durable.cursor());
        let reader = self.parts.reader.clone();
        let read = async move { reader.scan(scan).await };
        ctx.spawn(read.into_actor(self).map(move |page, this, ctx| {
            let Some(consumer) = this.consumers.get_mut(&name).filter(|consumer| consumer.life == life) else { return };
            match page {
                Ok(ScanPage { events, scanned_through, earliest }) => {
                    consumer.is_reading = false;
                    if earliest > after + 1 && !consumer.has_lost {
                        log::warn!(durable = &*name, after, earliest_id = earliest; "durable subscription fell behind the retained history");
                        consumer.has_lost = true;
                        this.parts.metrics.durable_gaps.inc();
                    }
                    consumer.take(events.into_iter(), scanned_through);
                    this.pump(&name, ctx);
                }
                Err(error) => this.try_again(&name, life, &error, ctx),
            }
        }));
    }

    fn try_again(&mut self, name: &Arc<str>, life: u64, error: &StoreError, ctx: &mut Context<Self>) {
        log::warn!(durable = &**name, error:%; "reading for a durable subscription failed, trying again");
        if let Some(consumer) = self.consumers.get(name).filter(|_| error.is_damage()) {
            for link in consumer.members.values() {
                link.send(ToMember::Close(CloseReason::HistoryUnreadable));
            }
        }
        let name = Arc::clone(name);
        ctx.run_later(STORE_RETRY, move |this, ctx| {
            if let Some(consumer) = this.consumers.get_mut(&name).filter(|consumer| consumer.life == life) {
                consumer.is_reading = false;
                this.pump(&name, ctx);
            }
        });
    }

    /// Looks for dead ones that an operator wants to be delivered again.
    pub(super) fn claim_renewed(&mut self, name: &str, ctx: &mut Context<Self>) {
        let now = super::super::clock::now();
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        if consumer.durable.is_none() || consumer.is_claiming {
            return;
        }
        consumer.is_claiming = true;
        consumer.ended_meanwhile.clear();
        let claim = Claim::Due { now, after: (Timestamp(0), 0) };
        let (name, life) = (Arc::clone(&consumer.name), consumer.life);
        let (reader, service) = (self.parts.reader.clone(), consumer.record.service);
        let read = async move { reader.claim(service, claim, RENEWED_ROWS, PAGE_BYTES).await };
        ctx.spawn(read.into_actor(self).map(move |claimed, this, ctx| {
            let Some(consumer) = this.consumers.get_mut(&name).filter(|consumer| consumer.life == life) else { return };
            consumer.is_claiming = false;
            // What has ended meanwhile, or is about to, may be among them.
            let ended = std::mem::take(&mut consumer.ended_meanwhile);
            let is_ending = |id| consumer.saving.as_ref().is_some_and(|saving| saving.ends(id));
            let Some(durable) = &mut consumer.durable else { return };
            for Claimed { event, attempts, .. } in claimed.into_iter().flatten() {
                let (id, bytes) = (event.id, event.memory());
                if !ended.contains(&id) && !is_ending(id) {
                    durable.renew(id, event, bytes, attempts);
                }
            }
            this.pump(&name, ctx);
        }));
    }

    pub(super) fn set_timer(&mut self, name: &str, ctx: &mut Context<Self>) {
        let now = self.clock.now();
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        if let Some(timer) = consumer.timer.take() {
            ctx.cancel_future(timer);
        }
        let due = consumer.durable.as_ref().and_then(|durable| durable.next_due());
        let wait = due.map(|due| due.since(now).max(Duration::from_millis(1)));
        let name = Arc::clone(&consumer.name);
        consumer.timer = wait.map(|wait| ctx.run_later(wait, move |this, ctx| this.pump(&name, ctx)));
    }
}
