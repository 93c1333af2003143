//! What a shard reports to operators about itself and its sessions.

use actix::prelude::{Context, Handler, MessageResult};
use serde_json::json;

use super::Shard;
use super::subscriber::{Mode, Subscriber, Subscription};
use crate::actors::shard::messages::{FindSubscribers, Reach, ReachedSession};
use crate::runtime::report::{ActorKind, ActorReport, ActorState, Details, MailboxReport, Observe, uptime_seconds};
use crate::transport::peer_name;

/// Messages that may wait for a session. It gets few, since its input is the connection.
const SESSION_MAILBOX: usize = 16;
/// Most subscriptions listed for one session. The count is exact.
const LISTED_SUBSCRIPTIONS: usize = 100;
/// Most patterns listed for one session in an explanation of where an event would go.
const EXPLAINED_PATTERNS: usize = 10;

impl Handler<Observe> for Shard {
    type Result = MessageResult<Observe>;

    fn handle(&mut self, Observe: Observe, _: &mut Context<Self>) -> Self::Result {
        let children = self.subscribers.iter().map(|subscriber| self.session_report(subscriber)).collect();
        MessageResult(Details {
            state: json!({
                "head": self.head.known(),
                "sessions": self.subscribers.len(),
                "patterns": self.subscribers.patterns(),
                "long_polls": self.polls.len(),
                "queued_bytes": self.thread.queues.budget.used(),
                "queue_limit_bytes": self.thread.queues.budget.limit(),
                "recent_bytes": self.head.recent().bytes(),
                "recent_after": self.head.recent().floor(),
            }),
            children,
        })
    }
}

impl Shard {
    pub(super) fn session_report(&self, subscriber: &Subscriber) -> ActorReport {
        let head = self.head.position();
        let position = subscriber.position(head);
        let patterns: Vec<&str> = subscriber
            .subscriptions
            .iter()
            .take(LISTED_SUBSCRIPTIONS)
            .filter_map(|s| self.subscribers.pattern(s.topic).map(|p| p.as_str()))
            .collect();
        let closed = subscriber.connection.send_queue.is_closed();
        ActorReport {
            name: format!("session/{}", subscriber.session),
            kind: ActorKind::Session,
            state: if closed { ActorState::Stopped } else { ActorState::Running },
            restarts: 0,
            mailbox: MailboxReport { depth: 0, capacity: SESSION_MAILBOX },
            uptime_seconds: uptime_seconds(subscriber.opened),
            details: json!({
                "id": subscriber.session,
                "kind": subscriber.connection.wire.kind(),
                "peer": subscriber.connection.peer.map(|peer| peer_name(Some(peer))),
                "principal": subscriber.connection.auth.caller().principal().map(|principal| principal.name()),
                "shard": self.thread.number,
                "subscriptions": patterns,
                "subscription_count": subscriber.subscriptions.len(),
                "queue_bytes": subscriber.connection.send_queue.queued_bytes(),
                "live": subscriber.is_live(),
                "reading": subscriber.mode == (Mode::CatchingUp { reading: true }),
                "position": position,
                "lag": (head - position).max(0),
                "frames": subscriber.frames + subscriber.connection.durable_frames.get(),
            }),
            children: Vec::new(),
        }
    }
}

impl Handler<FindSubscribers> for Shard {
    type Result = MessageResult<FindSubscribers>;

    /// Looks at every subscription, which is rare: operators ask for it.
    fn handle(&mut self, find: FindSubscribers, _: &mut Context<Self>) -> Self::Result {
        let FindSubscribers { name, payload, limit } = find;
        let mut found = Reach::default();
        for subscriber in self.subscribers.iter() {
            let of = |s: &Subscription| self.subscribers.pattern(s.topic).map(|pattern| pattern.as_str().to_owned());
            let is_named = |s: &&Subscription| self.subscribers.pattern(s.topic).is_some_and(|p| p.matches(&name));
            let named: Vec<&Subscription> = subscriber.subscriptions.iter().filter(is_named).collect();
            let failure = |s: &Subscription| s.filter.as_ref().and_then(|filter| filter.first_failure(&payload));
            let passed: Vec<&Subscription> = named.iter().copied().filter(|s| failure(s).is_none()).collect();
            let (why_not, counted) = match (&passed[..], &named[..]) {
                ([], [first, ..]) => (failure(first).map(|failure| failure.to_string()), named),
                ([], []) if subscriber.subscriptions.is_empty() => (Some("no subscriptions".to_owned()), Vec::new()),
                ([], []) => (Some("no subscription matches".to_owned()), subscriber.subscriptions.iter().collect()),
                _ => (None, passed),
            };
            let (count, list) = match why_not {
                Some(_) => (&mut found.others, &mut found.others_listed),
                None => (&mut found.matching, &mut found.listed),
            };
            *count += 1;
            if list.len() < limit {
                let patterns = counted.into_iter().take(EXPLAINED_PATTERNS).filter_map(of).collect();
                let peer = subscriber.connection.peer.map(|peer| peer_name(Some(peer)));
                list.push(ReachedSession { session: subscriber.session, peer, patterns, why_not });
            }
        }
        MessageResult(found)
    }
}
