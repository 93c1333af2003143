//! Who is here, and what for.

use std::collections::BTreeMap;

use actix::prelude::{Context, Handler, MessageResult};

use super::Shard;
use super::seat::Seat;
use crate::actors::shard::messages::{CountSubscribers, FindSessions, SubscriberCount};
use crate::protocol::wire::Wire;

impl Handler<FindSessions> for Shard {
    type Result = MessageResult<FindSessions>;

    /// Looks at every session: for operators, now and then.
    fn handle(&mut self, find: FindSessions, _: &mut Context<Self>) -> Self::Result {
        let mut found: Vec<&Seat> =
            self.seats.iter().map(|(_, seat)| seat).filter(|seat| self.is_wanted(seat, &find)).collect();
        found.sort_unstable_by_key(|seat| seat.session);
        MessageResult(found.into_iter().take(find.limit).map(|seat| self.session_report(seat)).collect())
    }
}

impl Handler<CountSubscribers> for Shard {
    type Result = MessageResult<CountSubscribers>;

    fn handle(&mut self, CountSubscribers: CountSubscribers, _: &mut Context<Self>) -> Self::Result {
        let mut counts = BTreeMap::<_, SubscriberCount>::new();
        for (topic, members) in self.members.iter().enumerate() {
            let Some(pattern) = self.index.pattern(topic) else { continue };
            let sse = members.iter().filter(|member| self.seats[member.seat].connection.wire == Wire::Sse).count();
            counts.insert(pattern.clone(), SubscriberCount { websocket: members.len() - sse, sse });
        }
        MessageResult(counts)
    }
}

impl Shard {
    fn is_wanted(&self, seat: &Seat, find: &FindSessions) -> bool {
        let FindSessions { after, limit: _, pattern, peer, kind } = find;
        let has = |wanted| {
            let topic = self.index.topic(wanted);
            topic.is_some_and(|topic| seat.subscription(topic).is_some())
        };
        let is_from = |wanted: &String| {
            seat.connection.peer.is_some_and(|peer| *wanted == peer.ip().to_string() || *wanted == peer.to_string())
        };
        after.is_none_or(|after| seat.session > after)
            && pattern.as_ref().is_none_or(has)
            && peer.as_ref().is_none_or(is_from)
            && kind.as_ref().is_none_or(|kind| seat.connection.wire.kind() == kind)
    }
}
