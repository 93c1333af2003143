//! The session as a member of consumers.

use std::rc::Rc;
use std::sync::Arc;

use actix::prelude::{ActorFutureExt, AsyncContext, Context, ContextFutureSpawner, StreamHandler, WrapFuture};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::Session;
use crate::actors::consumers::messages::{
    Acknowledge, Join, Joined, Leave, MemberKey, MemberLink, RoomAgain, ToMember, Underway,
};
use crate::domain::filter::Filter;
use crate::domain::pattern::Pattern;
use crate::protocol::close::CloseReason;
use crate::protocol::consumer::{self, AckRequest, JoinRequest};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::frame::Subscribed;
use crate::protocol::permit;
use crate::protocol::subscription::RequestId;
use crate::protocol::wire::Bundle;
use crate::transport::SendQueue;

/// A membership in a consumer.
pub(super) struct Membership {
    key: MemberKey,
    pattern: String,
    filter: Option<Filter>,
    underway: Arc<Underway>,
}

/// A message from a consumer.
pub(super) struct FromConsumer {
    /// The member it is for. The session may have left, and joined the same consumer again.
    key: MemberKey,
    /// `None`: the actor has gone.
    message: Option<ToMember>,
}

impl Session {
    pub(super) fn join(&mut self, id: Option<RequestId>, request: JoinRequest, ctx: &mut Context<Self>) {
        if let Err(error) = permit::subscribe(&self.connection().auth.caller(), &request.pattern) {
            return self.refuse(id.as_ref(), &error);
        }
        let name: Arc<str> = request.name.as_str().into();
        let known = self.memberships.iter().find(|membership| membership.key.consumer == name);
        let is_other = |known: &Membership| known.pattern != request.pattern.as_str() || known.filter != request.filter;
        if known.is_some_and(is_other) {
            let reason = "this connection is a member already, with another event_name or filter";
            return self.refuse(id.as_ref(), &ApiError::new(ErrorCode::DurableMismatch, reason));
        }
        let max = self.parts.max_memberships;
        if self.memberships.len() >= max && known.is_none() {
            let advice = format!("a connection may be a member of at most {max} durable subscriptions");
            return self.refuse(id.as_ref(), &ApiError::new(ErrorCode::TooManySubscriptions, advice));
        }
        // Joining again replaces the membership, so the events of the earlier one are delivered again.
        self.leave_consumer(&name);
        let mut request = request;
        request.start = request.start.in_log(self.parts.position.log_id(), request.log);
        let log_end = self.parts.position.last();
        let (reader, position) = (self.parts.reader.clone(), Arc::clone(&self.parts.position));
        let consumers = self.parts.consumers.clone();
        let (link, events, underway) = MemberLink::new();
        let (asked, pattern, filter) = (request.clone(), request.pattern.as_str().to_owned(), request.filter.clone());
        let joined = async move {
            match position.end_for(request.start, log_end, &reader).await {
                Ok(log_end) => consumers.ask(Join { request, log_end, link }).await,
                Err(error) => Ok(Err(error)),
            }
        };
        joined
            .into_actor(self)
            .map(move |joined, this, ctx| match joined {
                Ok(Ok(Joined { key, ack_floor, last, earliest, is_recovered })) => {
                    if let Some(id) = &id {
                        let log = this.parts.position.log_id();
                        let state = Subscribed { last_id: last, recovered: is_recovered, earliest_id: earliest, log };
                        this.say(&consumer::joined(id, &asked, state, ack_floor));
                    }
                    ctx.add_stream(from_consumer(key.clone(), events, Rc::clone(&this.connection().send_queue)));
                    this.memberships.push(Membership { key, pattern, filter, underway });
                }
                Ok(Err(error)) => this.refuse(id.as_ref(), &this.as_far_as_granted(error)),
                Err(_) => this.refuse(id.as_ref(), &restarting()),
            })
            .wait(ctx);
    }

    /// Removes what the error tells of the existing consumer, unless the subscriber may subscribe to its pattern.
    fn as_far_as_granted(&self, error: ApiError) -> ApiError {
        let theirs = error.details().get("event_name").and_then(|name| Pattern::parse(name.as_str()?.to_owned()).ok());
        let is_granted =
            theirs.is_none_or(|pattern| permit::subscribe(&self.connection().auth.caller(), &pattern).is_ok());
        if is_granted { error } else { ApiError::new(error.code(), error.message()) }
    }

    pub(super) fn leave(&mut self, id: Option<&RequestId>, name: &str) {
        if !self.leave_consumer(name) {
            return self.refuse(id, &not_a_member(name));
        }
        if let Some(id) = id {
            self.say(&consumer::left(id, name));
        }
    }

    /// False if the session was no member.
    fn leave_consumer(&mut self, name: &str) -> bool {
        let Some(place) = self.memberships.iter().position(|membership| *membership.key.consumer == *name) else {
            return false;
        };
        let membership = self.memberships.swap_remove(place);
        // A restarted actor does not know the member any more.
        let _ = self.parts.consumers.tell_in(membership.key.generation, Leave(membership.key));
        true
    }

    pub(super) fn leave_all_consumers(&mut self) {
        while let Some(name) = self.memberships.last().map(|membership| Arc::clone(&membership.key.consumer)) {
            self.leave_consumer(&name);
        }
    }

    /// Passes an acknowledgement on.
    pub(super) fn settle(&mut self, request: AckRequest, ctx: &mut Context<Self>) {
        let event_id = request.event_id;
        let key = match (&request.durable, &self.memberships[..]) {
            (Some(name), memberships) => {
                let named = memberships.iter().find(|membership| *membership.key.consumer == **name);
                named.map(|membership| membership.key.clone()).ok_or_else(|| not_a_member(name))
            }
            (None, [only]) => Ok(only.key.clone()),
            (None, []) => {
                Err(ApiError::new(ErrorCode::NotAMember, "this connection is a member of no durable subscription"))
            }
            (None, _) => {
                let reason = "is required where the connection is a member of several durable subscriptions";
                Err(ApiError::field(ErrorCode::MissingField, "durable", reason))
            }
        };
        let key = match key {
            Ok(key) => key,
            Err(error) => return self.refuse_ack(event_id, &error),
        };
        let settled = self.parts.consumers.ask(Acknowledge { key, request });
        settled
            .into_actor(self)
            .map(move |settled, this, _| match settled {
                Ok(Ok(())) => {
                    this.unanswered += 1;
                    this.pace();
                }
                Ok(Err(error)) => this.refuse_ack(event_id, &error),
                Err(_) => this.refuse_ack(event_id, &restarting()),
            })
            .wait(ctx);
    }

    fn refuse_ack(&mut self, event_id: i64, error: &ApiError) {
        self.parts.metrics.frames_refused.with_label_values(&[error.code().as_str()]).inc();
        self.say(&consumer::not_acked(event_id, error));
    }

    /// The patterns and names of the durable subscriptions.
    pub(super) fn durables(&self) -> Vec<(String, String)> {
        let shown = |membership: &Membership| (membership.pattern.clone(), membership.key.consumer.to_string());
        self.memberships.iter().map(shown).collect()
    }

    fn take_event(&mut self, key: &MemberKey, frame: Bytes) {
        let Some(membership) = self.memberships.iter().find(|membership| membership.key == *key) else { return };
        if membership.underway.took(&frame) {
            // If this hint is lost, the actor looks again within a second.
            let _ = self.parts.consumers.tell(RoomAgain(membership.key.clone()));
        }
        self.connection().send_queue.push(Bundle::of(self.connection().wire, std::iter::once(&frame)));
        self.connection().durable_frames.update(|frames| frames + 1);
        if self.connection().send_queue.queued_bytes() > self.parts.worker.parts.queue_limit() {
            self.connection().send_queue.feeding().pause_until(self.parts.worker.parts.low_water());
        }
    }
}

impl StreamHandler<FromConsumer> for Session {
    fn handle(&mut self, FromConsumer { key, message }: FromConsumer, _: &mut Self::Context) {
        match message {
            Some(ToMember::Event(frame)) => self.take_event(&key, frame),
            Some(ToMember::Answer(frame)) => {
                self.unanswered = self.unanswered.saturating_sub(1);
                self.answer(frame);
                self.pace();
            }
            Some(ToMember::Notice(frame)) => {
                self.answer(frame);
                self.pace();
            }
            Some(ToMember::Ended(error)) => {
                let members = self.memberships.len();
                self.memberships.retain(|membership| membership.key != key);
                if self.memberships.len() < members {
                    self.say(&consumer::ended(&key.consumer, &error));
                }
            }
            Some(ToMember::Close(reason)) => self.close(reason),
            // The membership ended without its doing, so the subscriber is to reconnect and join again.
            None if self.memberships.iter().any(|membership| membership.key == key) => {
                self.close(CloseReason::ActorRestarted);
            }
            None => {}
        }
    }

    /// Only the end of the input ends the session.
    fn finished(&mut self, _: &mut Self::Context) {}
}

fn from_consumer(
    key: MemberKey,
    events: mpsc::UnboundedReceiver<ToMember>,
    send_queue: Rc<SendQueue>,
) -> impl Stream<Item = FromConsumer> {
    let end = key.clone();
    let messages = futures_util::stream::unfold((events, send_queue), |(mut events, send_queue)| async {
        send_queue.may_feed().await;
        let message = events.recv().await?;
        Some((message, (events, send_queue)))
    });
    let messages = messages.map(move |message| FromConsumer { key: key.clone(), message: Some(message) });
    messages.chain(futures_util::stream::once(async move { FromConsumer { key: end, message: None } }))
}

fn restarting() -> ApiError {
    ApiError::transient(ErrorCode::Overloaded, "the durable subscriptions are restarting")
}

fn not_a_member(name: &str) -> ApiError {
    ApiError::new(ErrorCode::NotAMember, format!("this connection is not a member of durable subscription {name:?}"))
}
