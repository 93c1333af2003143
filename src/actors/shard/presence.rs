//! Who is here, and what for.

use actix::prelude::{Context, Handler, MessageResult};

use super::Shard;
use super::seat::Seat;
use crate::actors::shard::messages::{CountSubscribers, FindSessions};

impl Handler<FindSessions> for Shard {
    type Result = MessageResult<FindSessions>;

    /// Looks at every session: for operators, now and then.
    fn handle(&mut self, find: FindSessions, _: &mut Context<Self>) -> Self::Result {
        let mut found: Vec<&Seat> = self.subscribers.iter().filter(|seat| self.is_wanted(seat, &find)).collect();
        found.sort_unstable_by_key(|seat| seat.session);
        MessageResult(found.into_iter().take(find.limit).map(|seat| self.session_report(seat)).collect())
    }
}

impl Handler<CountSubscribers> for Shard {
    type Result = MessageResult<CountSubscribers>;

    fn handle(&mut self, CountSubscribers: CountSubscribers, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.subscribers.counts())
    }
}

impl Shard {
    fn is_wanted(&self, seat: &Seat, find: &FindSessions) -> bool {
        let FindSessions { after, limit: _, pattern, peer, kind } = find;
        let has = |wanted| self.subscribers.has(seat, wanted);
        let is_from = |wanted: &String| {
            seat.connection.peer.is_some_and(|peer| *wanted == peer.ip().to_string() || *wanted == peer.to_string())
        };
        after.is_none_or(|after| seat.session > after)
            && pattern.as_ref().is_none_or(has)
            && peer.as_ref().is_none_or(is_from)
            && kind.as_ref().is_none_or(|kind| seat.connection.wire.kind() == kind)
    }
}
