//! The messages that a shard takes.

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

/// A subscriber has connected, and waits in the lobby under this ticket. Its worker sends this.
#[derive(Debug, Message)]
#[rtype(result = "Option<Place>")]
pub struct OpenSession(pub Ticket);

/// Where a session is found in its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub session: SessionId,
    /// The key of the subscriber. After the session has gone, another subscriber may get it.
    pub slot: usize,
}

/// The subscriber has gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SessionClosed(pub Place);

/// Add a subscription. The reply, if one was asked for, is queued before the first event. The answer is none if the
/// subscriber has gone.
#[derive(Debug, Message)]
#[rtype(result = "Result<Option<Subscribed>, ApiError>")]
pub struct OpenSubscription {
    pub place: Place,
    pub id: Option<RequestId>,
    pub pattern: Pattern,
    pub envelope: Envelope,
    pub filter: Option<Filter>,
    pub start: Start,
    /// The end of the log when the request was read. No event published after that is missed.
    pub log_end: EventId,
}

/// Add all subscriptions of an SSE subscriber. The preamble of its stream is queued before the first event.
#[derive(Debug, Message)]
#[rtype(result = "Result<Subscribed, ApiError>")]
pub struct OpenStream {
    pub place: Place,
    /// Without duplicates.
    pub patterns: Vec<Pattern>,
    pub envelope: Envelope,
    /// The filter of all its subscriptions.
    pub filter: Option<Filter>,
    pub start: Start,
    /// See [`OpenSubscription`].
    pub log_end: EventId,
}

/// Wake this request when an event is committed that one of the patterns matches, or when waiting has become useless.
#[derive(Debug, Message)]
#[rtype(result = "PollId")]
pub struct AwaitEvent {
    pub patterns: Vec<Pattern>,
    pub wake: tokio::sync::oneshot::Sender<()>,
}

/// Names a request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollId {
    pub place: usize,
    /// Unique in this process.
    pub number: u64,
}

/// The request waits no more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CancelPoll(pub PollId);

/// End a subscription. Whether there was one.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct CloseSubscription {
    pub place: Place,
    pub id: Option<RequestId>,
    pub pattern: Pattern,
}

/// Queue a list of the subscriptions for the subscriber.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ListSubscriptions {
    pub place: Place,
    pub id: Option<RequestId>,
    /// The patterns and names of its durable subscriptions, which the list has too.
    pub durables: Vec<(String, String)>,
}

/// Close the session with this number. The answer is false if there is none.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "bool")]
pub struct CloseSession(pub SessionId);

/// Close the sessions whose token was revoked.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct CheckAccess;

/// Report the sessions that meet these conditions, in the order of their numbers.
#[derive(Debug, Clone, Default, Message)]
#[rtype(result = "Vec<ActorReport>")]
pub struct FindSessions {
    /// Only sessions with greater numbers.
    pub after: Option<SessionId>,
    pub limit: usize,
    /// Only sessions with exactly this subscription.
    pub pattern: Option<Pattern>,
    /// Only sessions from this address, with its port or without.
    pub peer: Option<String>,
    /// Only sessions of this kind; see [`Wire::kind`](crate::protocol::wire::Wire::kind).
    pub kind: Option<String>,
}

/// Count the subscribers of each pattern.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "BTreeMap<Pattern, SubscriberCount>")]
pub struct CountSubscribers;

/// How many subscribers a pattern has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SubscriberCount {
    pub websocket: usize,
    pub sse: usize,
}

/// Close every session, spread over `spread`.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct DrainSessions {
    pub reason: CloseReason,
    pub spread: std::time::Duration,
}

/// Which sessions would get this event?
#[derive(Debug, Clone, Message)]
#[rtype(result = "Reach")]
pub struct FindSubscribers {
    pub name: EventName,
    pub payload: ByteString,
    /// How many sessions are listed at most, of those that would get it and of the others.
    pub limit: usize,
}

/// The sessions that would get an event, and the others. The counts are exact; the lists may be shortened.
#[derive(Debug, Default, Serialize)]
pub struct Reach {
    pub matching: usize,
    pub listed: Vec<ReachedSession>,
    pub others: usize,
    pub others_listed: Vec<ReachedSession>,
}

/// A session with the patterns that explain its place, and why it would not get the event, if so.
#[derive(Debug, Serialize)]
pub struct ReachedSession {
    pub session: SessionId,
    pub peer: Option<String>,
    pub patterns: Vec<String>,
    pub why_not: Option<String>,
}

impl Reach {
    /// Adds the sessions of another shard.
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
