//! Sessions that the server ends.

use std::rc::Rc;
use std::time::Duration;

use actix::prelude::{AsyncContext, Context, Handler};

use super::Shard;
use crate::actors::shard::messages::{CloseSession, DrainSessions};
use crate::protocol::close::CloseReason;
use crate::runtime::address::Address;

/// Over how long the closing of sessions is spread where nothing ends with it.
pub const DRAIN_SPREAD: Duration = Duration::from_secs(5);

/// Has the shards close all sessions, spread over `spread`. The message waits for room in a full mailbox, so it is not
/// lost.
pub fn drain_sessions(shards: &[Address<Shard>], spread: Duration) {
    let drain = DrainSessions { reason: CloseReason::Draining, spread };
    for shard in shards {
        actix_rt::spawn(shard.ask(drain));
    }
}

impl Handler<CloseSession> for Shard {
    type Result = bool;

    fn handle(&mut self, CloseSession(session): CloseSession, _: &mut Context<Self>) -> bool {
        let subscriber = self.subscribers.iter().find(|subscriber| subscriber.session == session);
        subscriber.inspect(|subscriber| subscriber.connection.close(CloseReason::Policy)).is_some()
    }
}

impl Handler<DrainSessions> for Shard {
    type Result = ();

    /// The closes are spread evenly, so that the subscribers do not all reconnect in the same moment.
    fn handle(&mut self, DrainSessions { reason, spread }: DrainSessions, ctx: &mut Context<Self>) {
        self.polls.wake_all();
        let count = u32::try_from(self.subscribers.len()).unwrap_or(u32::MAX).max(1);
        for (turn, subscriber) in (0u32..).zip(self.subscribers.iter()) {
            let link = Rc::clone(&subscriber.connection);
            ctx.run_later(spread / count * turn, move |_, _| link.close(reason));
        }
    }
}

/// RT-4: the sessions of a failed shard are told to reconnect, since their positions in the log are lost.
impl Drop for Shard {
    fn drop(&mut self) {
        for subscriber in self.subscribers.iter() {
            subscriber.connection.close(CloseReason::ActorRestarted);
        }
        let code = CloseReason::ActorRestarted.code().to_string();
        self.parts.metrics.closes.with_label_values(&[&code]).inc_by(self.subscribers.len() as u64);
        self.parts.metrics.sessions.sub(self.subscribers.len() as i64);
        let subscriptions: usize = self.subscribers.iter().map(|subscriber| subscriber.subscriptions.len()).sum();
        self.parts.metrics.subscriptions.sub(subscriptions as i64);
    }
}
