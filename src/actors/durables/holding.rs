//! Which node delivers the events of a durable subscription, and from where on.

use std::collections::HashMap;
use std::sync::Arc;

use actix::prelude::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::Durables;
use super::consumer::Consumer;
use crate::actors::persistence::messages::{HoldDurables, ReleaseDurable};
use crate::domain::durable::{Durable, DurablePolicy};
use crate::domain::filter::Filter;
use crate::domain::lease::Grant;
use crate::domain::pattern::Pattern;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::storage::HeldDurable;

impl Durables {
    /// Every second: what nobody else sees to. Of positions that only the events of others have moved, a share in each
    /// second.
    pub(super) fn care(&mut self, ctx: &mut Context<Self>) {
        const SHARES: usize = 10;
        self.cares += 1;
        let names: Vec<_> = self.consumers.keys().cloned().collect();
        self.hold_all(&names, ctx);
        for (place, name) in names.iter().enumerate() {
            if place % SHARES == self.cares % SHARES {
                self.save_if(name, true, ctx);
            }
            self.read_if(name, |durable| durable.has_room(), ctx);
            self.pump(name, ctx);
            self.look_at_hold(name);
        }
    }

    /// Members that have to settle something before they get more are told so.
    fn look_at_hold(&mut self, name: &str) {
        let (head, now) = (self.head, self.clock.now());
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let has_more = consumer.durable.as_ref().is_some_and(|durable| durable.cursor() < head);
        if let Some(by) = consumer.look_at_hold(has_more, now) {
            log::info!(durable = name, held_by = by.as_str(); "durable subscription is held up until something is acknowledged");
            consumer.tell_held_up(by);
        }
    }

    /// Takes up one that the store has found.
    pub(super) fn open(&mut self, held: HeldDurable, ctx: &mut Context<Self>) {
        let HeldDurable { hold: _, record, marks, has_renewed } = held;
        if self.consumers.contains_key(&*record.name) {
            return;
        }
        let Ok(pattern) = Pattern::parse(record.pattern.clone()) else {
            log::error!(durable = record.name.as_str(), pattern = record.pattern.as_str(); "stored pattern is not valid");
            return;
        };
        let filter = match record.filter.as_deref().map(Filter::parse).transpose() {
            Ok(filter) => filter,
            Err(error) => {
                log::error!(durable = record.name.as_str(), error:%; "stored filter is not valid");
                return;
            }
        };
        let topic = self.index.insert(&pattern);
        let mut consumer = Consumer::new(record, pattern, filter, topic);
        let record = &consumer.record;
        let max_bytes = self.parts.limits.max_unacked_bytes;
        let durable = marks.map(|marks| Durable::new(record.policy, max_bytes, record.floor, marks));
        consumer.replace(durable, self.next_life);
        self.next_life += 1;
        let name = Arc::clone(&consumer.name);
        self.by_topic.entry(topic).or_default().push(Arc::clone(&name));
        self.consumers.insert(Arc::clone(&name), consumer);
        if has_renewed {
            self.claim_renewed(&name, ctx);
        }
    }

    /// Lets go of one, and lets others have it.
    pub(super) fn forget(&mut self, name: &str) {
        let Some(consumer) = self.consumers.remove(name) else { return };
        let names = self.by_topic.get_mut(&consumer.topic);
        names.into_iter().for_each(|names| names.retain(|other| **other != *name));
        if self.index.remove(consumer.topic) {
            self.by_topic.remove(&consumer.topic);
        }
        if consumer.is_held() && !self.opening.iter().any(|opening| **opening == *name) {
            let writer = self.parts.persistence.generation();
            // A writer that is gone holds nothing any more.
            let _ =
                writer.map(|writer| self.parts.persistence.tell_in(writer, ReleaseDurable(consumer.record.service)));
        }
    }

    /// Makes sure that no other node delivers its events, and that nobody has moved it.
    pub(super) fn hold(&mut self, name: &Arc<str>, ctx: &mut Context<Self>) {
        self.hold_all(std::slice::from_ref(name), ctx);
    }

    /// The same for many.
    pub(super) fn hold_all(&mut self, names: &[Arc<str>], ctx: &mut Context<Self>) {
        let mut asked = Vec::new();
        let mut known = Vec::new();
        for name in names {
            let Some(consumer) = self.consumers.get_mut(name).filter(|consumer| !consumer.is_asking) else { continue };
            consumer.is_asking = true;
            known.push((consumer.record.service, consumer.is_held().then_some(consumer.record.epoch)));
            asked.push((Arc::clone(name), consumer.record.service));
        }
        if asked.is_empty() {
            return;
        }
        let answer = self.parts.persistence.ask(HoldDurables(known));
        ctx.spawn(answer.into_actor(self).map(move |answer, this, ctx| {
            for (name, _) in &asked {
                this.consumers.get_mut(name).into_iter().for_each(|consumer| consumer.is_asking = false);
            }
            // While the store is away nothing can be settled; the hold itself is as it was.
            let Ok(Ok(held)) = answer else { return };
            let mut held: HashMap<_, _> = held.into_iter().map(|held| (held.record.service, held)).collect();
            for (name, service) in asked {
                let is_same = this.consumers.get(&name).is_some_and(|consumer| consumer.record.service == service);
                match held.remove(&service).filter(|held| *held.record.name == *name) {
                    Some(held) if is_same => this.held(held, ctx),
                    None if is_same => this.deleted(&name),
                    Some(_) | None => {}
                }
            }
        }));
    }

    fn held(&mut self, held: HeldDurable, ctx: &mut Context<Self>) {
        let HeldDurable { hold, record, marks, has_renewed } = held;
        let Some(consumer) = self.consumers.get_mut(&*record.name) else { return };
        let name = Arc::clone(&consumer.name);
        if consumer.is_outdated_by(hold, &record) {
            if hold != Grant::Elsewhere && marks.is_none() {
                // It was let go of after the store was asked.
                return self.hold(&name, ctx);
            }
            log::info!(durable = &*name, floor = record.floor, is_held = hold != Grant::Elsewhere; "durable subscription moved");
            let max_bytes = self.parts.limits.max_unacked_bytes;
            let durable = marks.map(|marks| Durable::new(record.policy, max_bytes, record.floor, marks));
            consumer.has_lost = false;
            consumer.record = record;
            consumer.replace(durable, self.next_life);
            self.next_life += 1;
        } else {
            consumer.record.epoch = record.epoch;
            self.set_policy(&name, record.policy);
        }
        if has_renewed {
            self.claim_renewed(&name, ctx);
        }
        self.pump(&name, ctx);
    }

    fn deleted(&mut self, name: &str) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let gone = ApiError::new(ErrorCode::DurableNotFound, format!("durable subscription {name:?} was deleted"));
        self.parts.metrics.durable_members.sub(consumer.members.len() as i64);
        consumer.end(&gone);
        self.forget(name);
    }

    /// Delivers like this from now on; the store knows.
    pub(super) fn set_policy(&mut self, name: &str, policy: DurablePolicy) {
        if let Some(consumer) = self.consumers.get_mut(name) {
            consumer.record.policy = policy;
            consumer.durable.iter_mut().for_each(|durable| durable.set_policy(policy));
        }
    }
}
