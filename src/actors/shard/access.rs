//! Sessions whose token ends: they are warned before, and closed when it has ended or was revoked.

use actix::prelude::{Context, Handler};

use super::Shard;
use super::subscriber::Subscriber;
use crate::actors::clock::now;
use crate::actors::shard::messages::CheckAccess;
use crate::domain::event::Timestamp;
use crate::protocol::close::CloseReason;
use crate::protocol::frame;

impl Shard {
    /// Checks the token of each session.
    pub(super) fn check_access(&self) {
        if !self.parts.access.is_required() {
            return;
        }
        let now = now();
        for subscriber in self.subscribers.iter() {
            self.check_token(subscriber, now);
        }
    }

    fn check_token(&self, subscriber: &Subscriber, now: Timestamp) {
        let auth = &subscriber.connection.auth;
        let caller = auth.caller();
        if subscriber.connection.send_queue.is_closed() {
            return;
        }
        let name = caller.principal().map_or("", |principal| principal.name());
        if caller.principal().is_some_and(|principal| principal.is_expired(now)) || !self.parts.access.admits(&caller) {
            log::info!(session = subscriber.session, principal = name, peer = subscriber.connection.peer_name().as_str(); "token missing, expired, revoked or taken away, closing");
            subscriber.connection.close(CloseReason::BadToken);
            return;
        }
        let Some(principal) = caller.principal() else { return };
        let left = principal.expires_at.map(|end| end.since(now));
        if let Some(left) = left.filter(|left| *left <= self.parts.expiry_notice && auth.asks_more.get())
            && !auth.was_warned.replace(true)
        {
            subscriber.connection.say(&frame::expiring(left));
        }
    }
}

impl Handler<CheckAccess> for Shard {
    type Result = ();

    fn handle(&mut self, CheckAccess: CheckAccess, _: &mut Context<Self>) {
        self.check_access();
    }
}
