//! How a session becomes a member: its consumer is found in the store, or made there, and opened here.

use std::sync::Arc;

use actix::prelude::{ActorFutureExt, AsyncContext, Context, Handler, ResponseActFuture, WrapFuture};

use super::Consumers;
use super::messages::{Join, Joined, MemberKey, RoomAgain};
use crate::actors::persistence::messages::{AppendFailure, LeaseConsumers};
use crate::domain::event::EventId;
use crate::domain::lease::LeaseName;
use crate::protocol::consumer::JoinRequest;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::subscription::Start;
use crate::storage::{Alteration, KnownConsumer, NewConsumer, Outcome, Write};

impl Consumers {
    /// Makes the session a member of an open consumer.
    fn add_member(&mut self, join: Join, ctx: &mut Context<Self>) -> Result<Joined, ApiError> {
        let Join { request, log_end, link } = join;
        let consumer = self.consumers.get_mut(&*request.name).ok_or_else(deleted_just_now)?;
        consumer.admits(&request)?;
        let name = Arc::clone(consumer.name());
        let member = self.next_member;
        self.next_member += 1;
        consumer.join(member, link);
        self.parts.metrics.durable_members.inc();
        let ack_floor = consumer.ack_floor();
        let bounds = self.parts.position.get().unwrap_or_default();
        let last = bounds.last.max(log_end);
        // The subscriber has seen another log than this one.
        let is_foreign = match request.start {
            Start::After(id) => id > last,
            Start::Elsewhere => true,
            Start::Now | Start::Earliest => false,
        };
        let joined = Joined {
            key: MemberKey { generation: self.life.generation(), consumer: Arc::clone(&name), member },
            ack_floor,
            last,
            earliest: bounds.earliest,
            is_recovered: ack_floor + 1 >= bounds.earliest && !consumer.has_lost() && !is_foreign,
        };
        log::debug!(durable = &*name, member, floor = ack_floor; "member joined");
        // This is handled after the reply, so that no event precedes it.
        ctx.notify(RoomAgain(joined.key.clone()));
        Ok(joined)
    }

    /// Stores the policy that the session asks for, if it is new, and makes the session a member.
    fn settle_policy(&mut self, join: Join) -> ResponseActFuture<Self, Result<Joined, ApiError>> {
        let consumer = self.consumers.get(&*join.request.name).ok_or_else(deleted_just_now);
        let checked = consumer.and_then(|consumer| {
            let policy = join.request.policy.over(consumer.policy());
            consumer.admits(&join.request).map(|()| (policy, policy != consumer.policy()))
        });
        let (policy, is_new) = match checked {
            Ok(checked) => checked,
            Err(error) => return Box::pin(actix::fut::ready(Err(error))),
        };
        if !is_new {
            return Box::pin(actix::fut::ready(()).map(|(), this: &mut Self, ctx| this.add_member(join, ctx)));
        }
        let (name, alteration) = (join.request.name.clone(), Alteration::Policy(policy));
        let outcome = self.parts.persistence.commit(Write::AlterConsumer { name, alteration });
        Box::pin(outcome.into_actor(self).map(move |outcome, this, ctx| {
            if outcome? != Outcome::Changed(true) {
                return Err(deleted_just_now());
            }
            this.consumers.get_mut(&*join.request.name).into_iter().for_each(|consumer| consumer.set_policy(policy));
            this.add_member(join, ctx)
        }))
    }

    /// Opens the consumer of this name, and makes it in the store if there is none.
    fn find_or_make(&mut self, join: &Join) -> ResponseActFuture<Self, Result<(), ApiError>> {
        if self.consumers.contains_key(&*join.request.name) {
            return Box::pin(actix::fut::ready(Ok(())));
        }
        let JoinRequest { name, pattern, filter, policy, .. } = &join.request;
        let new = NewConsumer {
            name: name.clone(),
            pattern: pattern.as_str().to_owned(),
            filter: filter.as_ref().map(|filter| filter.as_json().to_owned()),
            ack_floor: self.first_floor(&join.request, join.log_end),
            policy: policy.over(self.parts.default_policy()),
        };
        let max = self.parts.config.max_count;
        let outcome = self.parts.persistence.commit(Write::OpenConsumer { new, max });
        let persistence = self.parts.persistence.clone();
        let opened = async move {
            let Outcome::Opened(Some(record)) = outcome.await? else {
                let advice =
                    format!("there are {max} durable subscriptions, as many as there may be; delete some first");
                return Err(ApiError::new(ErrorCode::TooManyDurables, advice));
            };
            let lease = LeaseName::consumer(&record.name);
            let known = KnownConsumer { service: record.service, lease, held: None };
            let held = persistence.ask(LeaseConsumers(vec![known])).await;
            let held = held.unwrap_or(Err(AppendFailure::RESTARTED))?;
            held.into_iter().next().ok_or_else(deleted_just_now)
        };
        Box::pin(opened.into_actor(self).map(|held, this, ctx| held.map(|held| this.open(held, ctx))))
    }

    /// The ack floor of a new consumer.
    fn first_floor(&self, request: &JoinRequest, log_end: EventId) -> EventId {
        let bounds = self.parts.position.get().unwrap_or_default();
        match request.start {
            Start::Now | Start::Elsewhere => log_end,
            Start::Earliest => (bounds.earliest - 1).max(0),
            Start::After(id) => id.min(bounds.last.max(log_end)),
        }
    }
}

impl Handler<Join> for Consumers {
    type Result = ResponseActFuture<Self, Result<Joined, ApiError>>;

    fn handle(&mut self, join: Join, _: &mut Self::Context) -> Self::Result {
        let name = join.request.name.clone();
        self.joining.push(name.clone());
        let found = self.find_or_make(&join);
        let joined = found.then(move |found, this: &mut Self, _| match found {
            Ok(()) => this.settle_policy(join),
            Err(error) => Box::pin(actix::fut::ready(Err(error))),
        });
        Box::pin(joined.map(move |joined, this, _| {
            let place = this.joining.iter().position(|joining| *joining == name);
            place.into_iter().for_each(|place| drop(this.joining.swap_remove(place)));
            this.retire(&name);
            joined
        }))
    }
}

fn deleted_just_now() -> ApiError {
    ApiError::new(ErrorCode::DurableNotFound, "it was deleted just now; try again")
}
