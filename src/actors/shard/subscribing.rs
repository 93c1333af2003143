//! How subscriptions are opened, replaced, ended and listed.

use actix::prelude::Handler;

use super::Shard;
use super::subscriber::Mode;
use crate::actors::shard::messages::{CloseSubscription, ListSubscriptions, OpenSubscription, Place};
use crate::domain::filter::Filter;
use crate::domain::pattern::Pattern;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::frame::{self, Subscribed};
use crate::protocol::subscription::Start;

/// Most conditions in all filters of one connection. This bounds what one event costs for one subscriber.
const MAX_CONDITIONS: usize = 4_096;

impl Shard {
    /// Adds a subscription. The caller has the subscriber [catch up](Self::catch_up).
    pub(super) fn open_subscription(&mut self, request: OpenSubscription) -> Result<Option<Subscribed>, ApiError> {
        let OpenSubscription { place, id, pattern, envelope, filter, start, log_end } = request;
        let bounds = self.parts.position.bounds()?;
        let head = self.head.learn(bounds.last);
        let known_topic = self.subscribers.topic_of(place, &pattern);
        let max = self.parts.config.max_subscriptions;
        let Some(subscriber) = self.subscribers.of(place) else {
            return Ok(None);
        };
        if known_topic.is_none() && subscriber.subscriptions.len() >= max {
            let advice = format!("a connection may hold at most {max} subscriptions; unsubscribe from some first");
            return Err(ApiError::new(ErrorCode::TooManySubscriptions, advice));
        }
        let others = subscriber.subscriptions.iter().filter(|subscription| Some(subscription.topic) != known_topic);
        let held: usize = others.filter_map(|subscription| subscription.filter.as_ref()).map(Filter::conditions).sum();
        if filter.as_ref().is_some_and(|filter| held + filter.conditions() > MAX_CONDITIONS) {
            let advice = format!("the filters of a connection may have at most {MAX_CONDITIONS} conditions together");
            return Err(ApiError::new(ErrorCode::TooManySubscriptions, advice));
        }
        let last_id = bounds.last.max(log_end);
        let (mut from, recovered) = self.parts.position.place(start, bounds, log_end);
        let state = Subscribed { last_id, recovered, earliest_id: bounds.earliest, log: self.parts.position.log_id() };
        if let Some(id) = &id {
            subscriber.connection.say(&frame::subscribed(id, &pattern, filter.as_ref(), state));
        }
        if let (Some(topic), Start::Now) = (known_topic, start)
            && let Some(subscription) = subscriber.subscription(topic)
        {
            if subscription.filter == filter {
                self.subscribers.set_envelope(place.slot, topic, envelope);
                return Ok(Some(state));
            }
            // The earlier filter has decided on the events so far, and the new one decides on all that follow.
            from = subscriber.position(head).max(subscription.window.from());
        }
        if known_topic.is_some() {
            self.unsubscribe(place, &pattern);
        }
        let Some(subscriber) = self.subscribers.of_mut(place) else { return Ok(None) };
        let position = subscriber.position(head);
        subscriber.cursor.advance(position);
        let window = subscriber.cursor.open(from, subscriber.subscriptions.iter_mut().map(|s| &mut s.window));
        self.subscribers.subscribe(place.slot, &pattern, envelope, filter, window);
        self.parts.metrics.subscriptions.inc();
        let Some(subscriber) = self.subscribers.of_mut(place) else { return Ok(None) };
        if subscriber.is_live() && !subscriber.may_go_live(head) {
            subscriber.mode = Mode::CatchingUp { reading: false };
            if from < head {
                if self.parts.log_activity {
                    log::info!(target: "event_handler::activity", session = place.session, event_name = pattern.as_str(), after = from; "resumed");
                }
                self.parts.metrics.catch_ups.with_label_values(&["resume"]).inc();
            }
        }
        Ok(Some(state))
    }

    /// Whether there was such a subscription.
    fn unsubscribe(&mut self, place: Place, pattern: &Pattern) -> bool {
        let was_open = self.subscribers.unsubscribe(place, pattern);
        if was_open {
            self.parts.metrics.subscriptions.dec();
        }
        was_open
    }
}

impl Handler<OpenSubscription> for Shard {
    type Result = Result<Option<Subscribed>, ApiError>;

    fn handle(&mut self, request: OpenSubscription, ctx: &mut Self::Context) -> Self::Result {
        let slot = request.place.slot;
        let opened = self.open_subscription(request)?;
        self.catch_up(slot, ctx);
        Ok(opened)
    }
}

impl Handler<CloseSubscription> for Shard {
    type Result = bool;

    fn handle(&mut self, request: CloseSubscription, _: &mut Self::Context) -> bool {
        let CloseSubscription { place, id, pattern } = request;
        let was_open = self.unsubscribe(place, &pattern);
        if let (Some(id), Some(subscriber)) = (id, self.subscribers.of(place)) {
            subscriber.connection.say(&frame::unsubscribed(&id, &pattern));
        }
        was_open
    }
}

impl Handler<ListSubscriptions> for Shard {
    type Result = ();

    fn handle(&mut self, request: ListSubscriptions, _: &mut Self::Context) {
        let ListSubscriptions { place, id, durables } = request;
        let Some(subscriber) = self.subscribers.of(place) else { return };
        let subscriptions = subscriber
            .subscriptions
            .iter()
            .filter_map(|s| Some((self.subscribers.pattern(s.topic)?, s.envelope, s.filter.as_ref())));
        subscriber.connection.say(&frame::list(id.as_ref(), subscriptions, &durables));
    }
}
