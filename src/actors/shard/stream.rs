//! Server-sent events: all subscriptions of a connection are made at once, when its stream begins.

use std::time::Duration;

use actix::prelude::{Context, Handler};

use super::Shard;
use crate::actors::shard::messages::{OpenStream, OpenSubscription};
use crate::protocol::error::ApiError;
use crate::protocol::frame::Subscribed;
use crate::protocol::sse;
use crate::protocol::subscription::Start;

impl Handler<OpenStream> for Shard {
    type Result = Result<Subscribed, ApiError>;

    fn handle(&mut self, request: OpenStream, ctx: &mut Context<Self>) -> Self::Result {
        let OpenStream { place, patterns, envelope, filter, start, log_end } = request;
        let bounds = self.parts.position.bounds()?;
        let (from, recovered) = self.parts.position.place(start, bounds, log_end);
        let (last_id, earliest_id) = (bounds.last.max(log_end), bounds.earliest);
        let state = Subscribed { last_id, recovered, earliest_id, log: self.parts.position.log_id() };
        if let Some(subscriber) = self.subscribers.of(place) {
            let retry = Duration::from_millis(rand::random_range(sse::RETRY));
            subscriber.connection.send_queue.push(sse::preamble(retry, from, state, envelope));
        }
        // All subscriptions begin at one position before anything is queued, so that ids rise.
        let start = Start::After(from);
        for pattern in patterns {
            self.open_subscription(OpenSubscription {
                place,
                id: None,
                pattern,
                envelope,
                filter: filter.clone(),
                start,
                log_end,
            })?;
        }
        self.catch_up(place.slot, ctx);
        Ok(state)
    }
}
