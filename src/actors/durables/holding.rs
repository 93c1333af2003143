//! Which node delivers the events of a durable subscription, and from where on.

use std::collections::HashMap;
use std::sync::Arc;

use actix::prelude::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::Durables;
use super::consumer::Consumer;
use crate::actors::persistence::messages::{AlterDurable, Alteration, HoldDurables, ReleaseDurable};
use crate::domain::durable::{Durable, DurablePolicy};
use crate::domain::filter::Filter;
use crate::domain::pattern::Pattern;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::storage::{HeldDurable, Hold};

impl Durables {
    /// Every second: what nobody else sees to. Of positions that only the events of others have moved, and of what
    /// was made anew by another node, a share in each second.
    pub(super) fn care(&mut self, ctx: &mut Context<Self>) {
        const SHARES: usize = 10;
        self.cares += 1;
        let names: Vec<_> = self.consumers.keys().cloned().collect();
        self.hold_all(&names, ctx);
        for (place, name) in names.iter().enumerate() {
            if place % SHARES == self.cares % SHARES {
                self.claim_renewed(name, ctx);
                self.save_if(name, true, ctx);
            }
            self.pump(name, ctx);
        }
    }

    /// Takes up one that the store has found.
    pub(super) fn open(&mut self, held: HeldDurable) {
        let HeldDurable { hold: _, record, marks } = held;
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
        let durable = marks.map(|marks| Durable::new(record.policy, record.floor, marks));
        consumer.replace(durable, self.next_life);
        self.next_life += 1;
        let name = Arc::clone(&consumer.name);
        self.by_topic.entry(topic).or_default().push(Arc::clone(&name));
        self.consumers.insert(name, consumer);
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
            // At most one for each hold: unbounded sending is bounded by that.
            self.store.release.do_send(ReleaseDurable(consumer.record.service));
        }
    }

    /// Makes sure that no other node delivers its events, and that nobody has moved it.
    pub(super) fn hold(&mut self, name: &Arc<str>, ctx: &mut Context<Self>) {
        self.hold_all(std::slice::from_ref(name), ctx);
    }

    /// The same for many.
    fn hold_all(&mut self, names: &[Arc<str>], ctx: &mut Context<Self>) {
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
        let answer = self.store.hold.send(HoldDurables(known));
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
        let HeldDurable { hold, record, marks } = held;
        let Some(consumer) = self.consumers.get_mut(&*record.name) else { return };
        let name = Arc::clone(&consumer.name);
        if consumer.is_outdated_by(hold, &record) {
            if hold != Hold::Elsewhere && marks.is_none() {
                // It was let go of after the store was asked.
                return self.hold(&name, ctx);
            }
            log::info!(durable = &*name, floor = record.floor, is_held = hold != Hold::Elsewhere; "durable subscription moved");
            let durable = marks.map(|marks| Durable::new(record.policy, record.floor, marks));
            consumer.has_lost = false;
            consumer.record = record;
            consumer.replace(durable, self.next_life);
            self.next_life += 1;
        } else if record.policy != consumer.record.policy {
            consumer.record.policy = record.policy;
            consumer.durable.iter_mut().for_each(|durable| durable.set_policy(record.policy));
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

    /// Delivers like this from now on, here and after a restart.
    pub(super) fn change_policy(&mut self, name: &Arc<str>, policy: DurablePolicy, ctx: &mut Context<Self>) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        consumer.record.policy = policy;
        consumer.durable.iter_mut().for_each(|durable| durable.set_policy(policy));
        let alter = AlterDurable { name: name.to_string(), alteration: Alteration::Policy(policy) };
        let stored = self.store.alter.send(alter);
        let name = Arc::clone(name);
        ctx.spawn(stored.into_actor(self).map(move |stored, _, _| {
            if !matches!(stored, Ok(Ok(true))) {
                log::warn!(durable = &*name; "the new policy of a durable subscription was not stored");
            }
        }));
    }
}
