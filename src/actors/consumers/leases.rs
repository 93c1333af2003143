//! Leases of consumers: which node delivers their events, and from where on.

use std::collections::HashMap;
use std::sync::Arc;

use actix::prelude::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::Consumers;
use super::consumer::Consumer;
use super::consumer::holder::Holder;
use crate::actors::persistence::messages::{LeaseConsumers, ReleaseLease};
use crate::domain::consumer::{ConsumerState, Mark};
use crate::domain::event::EventId;
use crate::domain::filter::Filter;
use crate::domain::lease::{Grant, Lease};
use crate::domain::pattern::Pattern;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::storage::{ConsumerRecord, LeasedConsumer};

impl Consumers {
    /// Renews leases, and does what nothing else triggers. Each tick stores a tenth of the positions that have moved past
    /// unwanted events alone.
    pub(super) fn tick(&mut self, ctx: &mut Context<Self>) {
        const SHARES: usize = 10;
        self.ticks += 1;
        let names: Vec<_> = self.consumers.keys().cloned().collect();
        self.ask_for_leases(&names, ctx);
        for (place, name) in names.iter().enumerate() {
            if place % SHARES == self.ticks % SHARES {
                self.save_if(name, true, ctx);
            }
            self.read_if(name, |durable| durable.has_room(), ctx);
            self.pump(name, ctx);
            self.tell_held_up(name);
        }
    }

    /// Tells members that are held up to acknowledge something.
    fn tell_held_up(&mut self, name: &str) {
        let (head, now) = (self.head, self.clock.now());
        let held_by = self.consumers.get_mut(name).and_then(|consumer| consumer.tell_held_up(head, now));
        if let Some(by) = held_by {
            log::info!(durable = name, held_by = by.as_str(); "durable subscription is held up until something is acknowledged");
        }
    }

    /// The lease of `record` with these marks, of a machine that goes on from there; without any, another node has it.
    fn lease(&mut self, record: &ConsumerRecord, grant: Grant, marks: Option<Vec<(EventId, Mark)>>) -> Lease<Holder> {
        let Some((generation, marks)) = grant.generation().zip(marks) else { return Lease::Follower };
        let max_bytes = self.parts.config.max_unacked_bytes.as_usize();
        let durable = ConsumerState::new(record.policy, max_bytes, record.ack_floor, marks);
        self.generations += 1;
        let state = Holder::new(durable, record.fencing_epoch, self.generations);
        Lease::Holder { generation, state }
    }

    /// Adds a consumer that was found in the store.
    pub(super) fn open(&mut self, held: LeasedConsumer, ctx: &mut Context<Self>) {
        let LeasedConsumer { grant, term, record, marks, has_renewed } = held;
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
        let lease = self.lease(&record, grant, marks);
        let mut consumer = Consumer::new(record, pattern, filter, topic);
        consumer.replace(lease);
        consumer.term = term;
        let name = Arc::clone(consumer.name());
        self.by_topic.entry(topic).or_default().push(Arc::clone(&name));
        self.consumers.insert(Arc::clone(&name), consumer);
        if has_renewed {
            self.claim_renewed(&name, ctx);
        }
    }

    /// Removes a consumer, and releases its lease.
    pub(super) fn release(&mut self, name: &str) {
        let Some(consumer) = self.consumers.remove(name) else { return };
        let names = self.by_topic.get_mut(&consumer.topic());
        names.into_iter().for_each(|names| names.retain(|other| **other != *name));
        if self.index.remove(consumer.topic()) {
            self.by_topic.remove(&consumer.topic());
        }
        if let Some(fence) = consumer.fence().filter(|_| !self.joining.iter().any(|joining| **joining == *name)) {
            // Without a writer this node goes on holding it, until it has members again or the node leaves.
            let writer = self.parts.persistence.generation();
            let _ = writer.map(|writer| self.parts.persistence.tell_in(writer, ReleaseLease(fence)));
        }
    }

    /// Asks for the lease of a consumer, and so learns whether it was moved.
    pub(super) fn ask_for_lease(&mut self, name: &Arc<str>, ctx: &mut Context<Self>) {
        self.ask_for_leases(std::slice::from_ref(name), ctx);
    }

    /// Asks for the leases of many consumers at once.
    pub(super) fn ask_for_leases(&mut self, names: &[Arc<str>], ctx: &mut Context<Self>) {
        let mut asked = Vec::new();
        let mut known = Vec::new();
        for name in names {
            let Some(consumer) = self.consumers.get_mut(name) else { continue };
            if consumer.begin_asking() {
                known.push(consumer.known());
                asked.push((Arc::clone(name), consumer.service()));
            }
        }
        if asked.is_empty() {
            return;
        }
        let answer = self.parts.persistence.ask(LeaseConsumers(known));
        ctx.spawn(answer.into_actor(self).map(move |answer, this, ctx| {
            for (name, _) in &asked {
                this.consumers.get_mut(name).into_iter().for_each(Consumer::end_asking);
            }
            // While the store is away nothing can be stored. The lease stays as it was.
            let Ok(Ok(held)) = answer else { return };
            let mut held: HashMap<_, _> = held.into_iter().map(|held| (held.record.service, held)).collect();
            for (name, service) in asked {
                let is_same = this.consumers.get(&name).is_some_and(|consumer| consumer.service() == service);
                match held.remove(&service).filter(|held| *held.record.name == *name) {
                    Some(held) if is_same => this.leased(held, ctx),
                    None if is_same => this.deleted(&name),
                    Some(_) | None => {}
                }
            }
        }));
    }

    fn leased(&mut self, held: LeasedConsumer, ctx: &mut Context<Self>) {
        let LeasedConsumer { grant, term, record, marks, has_renewed } = held;
        let Some(consumer) = self.consumers.get_mut(&*record.name) else { return };
        let name = Arc::clone(consumer.name());
        consumer.term = term;
        if consumer.is_outdated_by(grant, record.fencing_epoch) {
            if grant != Grant::Elsewhere && marks.is_none() {
                // The lease was released after the request, so it is asked for again.
                return self.ask_for_lease(&name, ctx);
            }
            log::info!(durable = &*name, floor = record.ack_floor, is_held = grant != Grant::Elsewhere; "durable subscription moved");
            let lease = self.lease(&record, grant, marks);
            if let Some(consumer) = self.consumers.get_mut(&name) {
                consumer.moved(record, lease);
            }
        } else {
            consumer.set_policy(record.policy);
        }
        if has_renewed {
            self.claim_renewed(&name, ctx);
        }
        self.pump(&name, ctx);
    }

    fn deleted(&mut self, name: &str) {
        let Some(consumer) = self.consumers.get_mut(name) else { return };
        let gone = ApiError::new(ErrorCode::DurableNotFound, format!("durable subscription {name:?} was deleted"));
        self.parts.metrics.durable_members.sub(consumer.members().len() as i64);
        consumer.end(&gone);
        self.release(name);
    }
}
