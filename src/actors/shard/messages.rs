//! What a shard takes.

use std::collections::BTreeMap;

use actix::prelude::Message;
use bytestring::ByteString;
use serde::Serialize;

use crate::actors::connection::Ticket;
use crate::domain::event::EventId;
use crate::domain::filter::Filter;
use crate::domain::name::EventName;
use crate::domain::pattern::Pattern;
use crate::protocol::close::CloseReason;
use crate::protocol::error::ApiError;
use crate::protocol::frame::Subscribed;
use crate::protocol::subscription::{Envelope, RequestId, Start};
use crate::runtime::report::ActorReport;

/// The number of a session, unique in this process.
pub type SessionId = u64;

/// To a shard, from its own worker: a subscriber has connected and waits in the lobby under this ticket.
#[derive(Debug, Message)]
#[rtype(result = "Option<Place>")]
pub struct OpenSession(pub Ticket);

/// A place in a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub session: SessionId,
    /// Where the shard keeps it.
    pub slot: usize,
}

/// To a shard: the subscriber of this subscriber is gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SessionClosed(pub Place);

/// To a shard: a subscription of a subscriber. A reply, if one was asked for, is queued before its first event.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), ApiError>")]
pub struct OpenSubscription {
    pub place: Place,
    pub id: Option<RequestId>,
    pub pattern: Pattern,
    pub envelope: Envelope,
    pub filter: Option<Filter>,
    pub start: Start,
    /// The end of the log when the request was read: what is published afterwards is not missed.
    pub log_end: EventId,
}

/// To a shard: everything that an SSE subscriber wants. The beginning of its stream is queued before its first event.
#[derive(Debug, Message)]
#[rtype(result = "Result<Subscribed, ApiError>")]
pub struct OpenStream {
    pub place: Place,
    /// Each once.
    pub patterns: Vec<Pattern>,
    pub envelope: Envelope,
    /// Of all of them.
    pub filter: Option<Filter>,
    pub start: Start,
    /// See [`OpenSubscription`].
    pub log_end: EventId,
}

/// To a shard: wake this request when an event has been committed that any of the patterns matches, or when waiting is
/// in vain.
#[derive(Debug, Message)]
#[rtype(result = "PollId")]
pub struct AwaitEvent {
    pub patterns: Vec<Pattern>,
    pub wake: tokio::sync::oneshot::Sender<()>,
}

/// A request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollId {
    pub place: usize,
    /// Unique in this process.
    pub number: u64,
}

/// To a shard: this request waits no more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CancelPoll(pub PollId);

/// To a shard: the end of a subscription.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CloseSubscription {
    pub place: Place,
    pub id: Option<RequestId>,
    pub pattern: Pattern,
}

/// To a shard: which subscriptions does this subscriber hold? The answer is queued for the subscriber.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ListSubscriptions {
    pub place: Place,
    pub id: Option<RequestId>,
    /// To be listed too: the patterns and names of its durable subscriptions.
    pub durables: Vec<(String, String)>,
}

/// To the supervisor and the shards: end the session with this number; false if there is none.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "bool")]
pub struct CloseSession(pub SessionId);

/// To the supervisor and the shards: close the sessions whose token was revoked.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct CheckAccess;

/// To a shard: those of its sessions that fit, in the order of their numbers.
#[derive(Debug, Clone, Default, Message)]
#[rtype(result = "Vec<ActorReport>")]
pub struct FindSessions {
    /// Exclusive.
    pub after: Option<SessionId>,
    pub limit: usize,
    /// Has this very subscription.
    pub pattern: Option<Pattern>,
    /// An address, with its port or without.
    pub peer: Option<String>,
    /// See [`Wire::kind`](crate::protocol::wire::Wire::kind).
    pub kind: Option<String>,
}

/// To a shard: how many subscribe to each pattern?
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "BTreeMap<Pattern, SubscriberCount>")]
pub struct CountSubscribers;

/// Reach of one pattern, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SubscriberCount {
    pub websocket: usize,
    pub sse: usize,
}

/// To a shard: close every session, spread over `spread`.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct DrainSessions {
    pub reason: CloseReason,
    pub spread: std::time::Duration,
}

/// To a shard: which of its sessions would this event reach?
#[derive(Debug, Clone, Message)]
#[rtype(result = "Reach")]
pub struct FindSubscribers {
    pub name: EventName,
    pub payload: ByteString,
    /// Most sessions to list, of each kind.
    pub limit: usize,
}

/// Sessions that an event would reach, and the others; the counts are right, the lists may be cut.
#[derive(Debug, Default, Serialize)]
pub struct Reach {
    pub matching: usize,
    pub listed: Vec<ReachedSession>,
    pub others: usize,
    pub others_listed: Vec<ReachedSession>,
}

/// A session, with those of its patterns that count here, and why it would not be reached, if so.
#[derive(Debug, Serialize)]
pub struct ReachedSession {
    pub session: SessionId,
    pub peer: Option<String>,
    pub patterns: Vec<String>,
    pub why_not: Option<String>,
}

impl Reach {
    /// Adds those of another shard.
    pub fn merge(&mut self, other: Self, limit: usize) {
        let Self { matching, listed, others, others_listed } = other;
        self.matching += matching;
        self.others += others;
        self.listed.extend(listed);
        self.listed.truncate(limit);
        self.others_listed.extend(others_listed);
        self.others_listed.truncate(limit);
    }
}
