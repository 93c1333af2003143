//! The sessions and subscriptions that operators ask for.

use actix::prelude::{Context, Handler, MessageResult};

use super::Shard;
use super::subscriber::Subscriber;
use crate::actors::shard::messages::{CountSubscribers, FindSessions};

impl Handler<FindSessions> for Shard {
    type Result = MessageResult<FindSessions>;

    /// Looks at every session, which is rare: operators ask for it.
    fn handle(&mut self, find: FindSessions, _: &mut Context<Self>) -> Self::Result {
        let mut found: Vec<&Subscriber> =
            self.subscribers.iter().filter(|subscriber| self.is_wanted(subscriber, &find)).collect();
        found.sort_unstable_by_key(|subscriber| subscriber.session);
        MessageResult(found.into_iter().take(find.limit).map(|subscriber| self.session_report(subscriber)).collect())
    }
}

impl Handler<CountSubscribers> for Shard {
    type Result = MessageResult<CountSubscribers>;

    fn handle(&mut self, CountSubscribers: CountSubscribers, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.subscribers.counts())
    }
}

impl Shard {
    fn is_wanted(&self, subscriber: &Subscriber, find: &FindSessions) -> bool {
        let FindSessions { after, limit: _, pattern, peer, kind } = find;
        let has = |wanted| self.subscribers.has(subscriber, wanted);
        let is_from = |wanted: &String| {
            subscriber
                .connection
                .peer
                .is_some_and(|peer| *wanted == peer.ip().to_string() || *wanted == peer.to_string())
        };
        after.is_none_or(|after| subscriber.session > after)
            && pattern.as_ref().is_none_or(has)
            && peer.as_ref().is_none_or(is_from)
            && kind.as_ref().is_none_or(|kind| subscriber.connection.wire.kind() == kind)
    }
}
