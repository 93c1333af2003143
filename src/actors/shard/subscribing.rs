//! Subscriptions of clients: opened, replaced, ended, listed.

use std::time::Duration;

use actix::prelude::Handler;

use super::Shard;
use super::fanout::Member;
use super::seat::{Ended, Mode, Subscription};
use crate::actors::shard::messages::{CloseSubscription, ListSubscriptions, OpenSubscription, Seated};
use crate::domain::filter::Filter;
use crate::domain::index::TopicId;
use crate::domain::pattern::Pattern;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::frame::{self, Subscribed};
use crate::protocol::subscription::{Envelope, Start};
use crate::transport::text_frame;

/// Ended subscriptions remembered for a client that is catching up; beyond, an event of theirs may come twice.
const MAX_ENDED: usize = 256;

/// Conditions in all filters of one connection: what one event may cost for one client is bounded.
const MAX_CONDITIONS: usize = 4_096;

impl Shard {
    /// Adds a subscription; its client is still to [catch up](Self::catch_up).
    pub(super) fn open_subscription(&mut self, request: OpenSubscription) -> Result<(), ApiError> {
        let OpenSubscription { seated, id, pattern, envelope, filter, start, log_end } = request;
        let Some(bounds) = self.parts.position.get() else {
            return Err(ApiError::new(ErrorCode::StoreUnavailable, "the store has not been opened yet")
                .retry_after(Duration::from_secs(1)));
        };
        let head = self.learn_head(bounds.last);
        let known_topic = self.topic_of(seated, &pattern);
        let max = self.parts.limits.max_subscriptions;
        let Some(seat) = self.seats.get_mut(seated.seat).filter(|seat| seat.session == seated.session) else {
            return Ok(());
        };
        if known_topic.is_none() && seat.subscriptions.len() >= max {
            let advice = format!("a connection may hold at most {max} subscriptions; unsubscribe from some first");
            return Err(ApiError::new(ErrorCode::TooManySubscriptions, advice));
        }
        let others = seat.subscriptions.iter().filter(|subscription| Some(subscription.topic) != known_topic);
        let held: usize = others.filter_map(|subscription| subscription.filter.as_ref()).map(Filter::conditions).sum();
        if filter.as_ref().is_some_and(|filter| held + filter.conditions() > MAX_CONDITIONS) {
            let advice = format!("the filters of a connection may have at most {MAX_CONDITIONS} conditions together");
            return Err(ApiError::new(ErrorCode::TooManySubscriptions, advice));
        }
        let last_id = bounds.last.max(log_end);
        let (mut from, recovered) = start.place(bounds, log_end);
        if let Some(id) = &id {
            let state =
                Subscribed { last_id, recovered, earliest_id: bounds.earliest, log: self.parts.position.log_id() };
            seat.connection.outbox.push(text_frame(frame::subscribed(id, &pattern, filter.as_ref(), state).as_bytes()));
        }
        if let (Some(topic), Start::Now) = (known_topic, start)
            && let Some(subscription) = seat.subscription(topic)
        {
            if subscription.filter == filter {
                self.set_envelope(seated.seat, topic, envelope);
                return Ok(());
            }
            // What the former filter has decided stays so; all that follows is for the new one.
            from = seat.position(head).max(subscription.window.from());
        }
        if known_topic.is_some() {
            self.unsubscribe(seated, &pattern);
        }
        let seat = &mut self.seats[seated.seat];
        let position = seat.position(head);
        seat.cursor.advance(position);
        let window = seat.cursor.open(from, seat.subscriptions.iter_mut().map(|s| &mut s.window));
        let topic = self.index.insert(&pattern);
        seat.subscriptions.push(Subscription { topic, envelope, filter: filter.clone(), window });
        if self.members.len() <= topic {
            self.members.resize_with(topic + 1, Vec::new);
        }
        let member = Member { seat: seated.seat, envelope };
        match &filter {
            None => self.members[topic].push(member),
            Some(filter) => self.filtered.add(topic, filter, member),
        }
        self.parts.metrics.subscriptions.inc();
        if seat.is_live() && !seat.may_go_live(head) {
            seat.mode = Mode::CatchingUp { reading: false };
            if from < head {
                if self.parts.log_activity {
                    log::info!(target: "event_handler::activity", session = seated.session, event_name = pattern.as_str(), after = from; "resumed");
                }
                self.parts.metrics.catch_ups.with_label_values(&["resume"]).inc();
            }
        }
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, seated: Seated, pattern: &Pattern) {
        let Some(topic) = self.topic_of(seated, pattern) else { return };
        let Some(seat) = self.seat(seated) else { return };
        let Some(place) = seat.subscriptions.iter().position(|s| s.topic == topic) else { return };
        let subscription = seat.subscriptions.swap_remove(place);
        if !seat.is_live() && seat.ended.len() < MAX_ENDED {
            let (filter, window) = (subscription.filter.clone(), seat.cursor.end(subscription.window));
            seat.ended.push(Ended { pattern: pattern.clone(), filter, window });
        }
        self.leave_topic(seated.seat, &subscription);
        self.parts.metrics.subscriptions.dec();
    }

    /// The topic of `pattern`, if this client has subscribed to it.
    pub(super) fn topic_of(&self, seated: Seated, pattern: &Pattern) -> Option<usize> {
        let seat = self.seats.get(seated.seat).filter(|seat| seat.session == seated.session)?;
        let topic = self.index.topic(pattern)?;
        seat.subscription(topic).map(|s| s.topic)
    }

    pub(super) fn leave_topic(&mut self, seat: usize, subscription: &Subscription) {
        let members = &mut self.members[subscription.topic];
        if let Some(filter) = &subscription.filter {
            self.filtered.remove(subscription.topic, filter, seat);
        } else if let Some(place) = members.iter().rposition(|m| m.seat == seat) {
            members.swap_remove(place);
        }
        if self.index.remove(subscription.topic) {
            self.members[subscription.topic] = Vec::new();
        }
    }

    pub(super) fn set_envelope(&mut self, key: usize, topic: TopicId, envelope: Envelope) {
        for subscription in self.seats[key].subscriptions.iter_mut().filter(|s| s.topic == topic) {
            subscription.envelope = envelope;
            if let Some(filter) = &subscription.filter {
                self.filtered.set_envelope(topic, filter, key, envelope);
            }
        }
        for member in self.members[topic].iter_mut().filter(|m| m.seat == key) {
            member.envelope = envelope;
        }
    }
}

impl Handler<OpenSubscription> for Shard {
    type Result = Result<(), ApiError>;

    fn handle(&mut self, request: OpenSubscription, ctx: &mut Self::Context) -> Self::Result {
        let seat = request.seated.seat;
        self.open_subscription(request)?;
        self.catch_up(seat, ctx);
        Ok(())
    }
}

impl Handler<CloseSubscription> for Shard {
    type Result = ();

    fn handle(&mut self, request: CloseSubscription, _: &mut Self::Context) {
        let CloseSubscription { seated, id, pattern } = request;
        self.unsubscribe(seated, &pattern);
        if let (Some(id), Some(seat)) = (id, self.seat(seated)) {
            seat.connection.outbox.push(text_frame(frame::unsubscribed(&id, &pattern).as_bytes()));
        }
    }
}

impl Handler<ListSubscriptions> for Shard {
    type Result = ();

    fn handle(&mut self, request: ListSubscriptions, _: &mut Self::Context) {
        let ListSubscriptions { seated, id, durables } = request;
        let Some(seat) = self.seats.get(seated.seat).filter(|seat| seat.session == seated.session) else { return };
        let subscriptions = seat
            .subscriptions
            .iter()
            .filter_map(|s| Some((self.index.pattern(s.topic)?, s.envelope, s.filter.as_ref())));
        seat.connection.outbox.push(text_frame(frame::list(id.as_ref(), subscriptions, &durables).as_bytes()));
    }
}
