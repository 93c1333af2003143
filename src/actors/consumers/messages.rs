//! The messages that the consumers take, and what their members are sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use actix::prelude::Message;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::domain::consumer::{Fate, MemberId};
use crate::domain::event::EventId;
use crate::protocol::close::CloseReason;
use crate::protocol::consumer::{AckRequest, JoinRequest};
use crate::protocol::error::ApiError;
use crate::runtime::address::Generation;

/// Bytes of events that may be under way to a member before its session has taken them.
const MAX_UNDERWAY: usize = 256 * 1024;
/// Bytes that a frame counts for beside its length.
const FRAME_COST: usize = 64;

/// The way to a member's session.
#[derive(Debug, Clone)]
pub struct MemberLink {
    sender: mpsc::UnboundedSender<ToMember>,
    underway: Arc<Underway>,
}

/// The events under way to a session. `MAX_UNDERWAY` bounds their bytes, and so the channel.
#[derive(Debug, Default)]
pub struct Underway {
    bytes: AtomicUsize,
    /// The consumer waits for room.
    is_awaited: AtomicBool,
}

/// A message to a member.
#[derive(Debug)]
pub enum ToMember {
    /// An event, as a complete frame.
    Event(Bytes),
    /// The answer to an acknowledgement, as a complete frame.
    Answer(Bytes),
    /// A notice, as a complete frame.
    Notice(Bytes),
    /// The membership has ended.
    Ended(ApiError),
    /// The connection is to be closed.
    Close(CloseReason),
}

impl MemberLink {
    /// A link, and the two ends of it that the session keeps.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<ToMember>, Arc<Underway>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let underway = Arc::<Underway>::default();
        (Self { sender, underway: Arc::clone(&underway) }, receiver, underway)
    }

    /// Whether the member may be given an event.
    pub fn has_room(&self) -> bool {
        self.underway.bytes.load(Ordering::Acquire) < MAX_UNDERWAY
    }

    /// Asks for a [`RoomAgain`]. Room may have come meanwhile, so look once more.
    pub fn await_room(&self) {
        self.underway.is_awaited.store(true, Ordering::SeqCst);
    }

    /// Sends a message. False if the session is gone.
    pub fn send(&self, message: ToMember) -> bool {
        if let ToMember::Event(frame) = &message {
            self.underway.bytes.fetch_add(frame.len() + FRAME_COST, Ordering::AcqRel);
        }
        self.sender.send(message).is_ok()
    }
}

impl Underway {
    /// The session has taken an event of this length. Returns whether the consumer waits for the room.
    pub fn took(&self, frame: &Bytes) -> bool {
        let cost = frame.len() + FRAME_COST;
        let left = self.bytes.fetch_sub(cost, Ordering::SeqCst) - cost;
        left < MAX_UNDERWAY / 2 && self.is_awaited.swap(false, Ordering::SeqCst)
    }
}

/// Names a member over all generations of the actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberKey {
    /// The generation of the actor. Each counts its members from 1.
    pub generation: Generation,
    pub consumer: Arc<str>,
    pub member: MemberId,
}

/// Make the session a member.
#[derive(Debug, Message)]
#[rtype(result = "Result<Joined, ApiError>")]
pub struct Join {
    pub request: JoinRequest,
    /// The end of the log when the request was read.
    pub log_end: EventId,
    pub link: MemberLink,
}

/// The session is a member from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    pub key: MemberKey,
    /// Every event up to here is acknowledged.
    pub ack_floor: EventId,
    pub last: EventId,
    pub earliest: EventId,
    /// Whether every event above the ack floor is retained.
    pub is_recovered: bool,
}

/// The session is no member any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Leave(pub MemberKey);

/// A member acknowledges or refuses an event. The final answer comes through its link when it is stored.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), ApiError>")]
pub struct Acknowledge {
    pub key: MemberKey,
    pub request: AckRequest,
}

/// The session of a member has taken most of the events under way to it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RoomAgain(pub MemberKey);

/// An operator has changed a consumer in the store.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LookAgain(pub String);

/// What is the state of the consumers on this node?
#[derive(Debug, Message)]
#[rtype(result = "Vec<ConsumerStatus>")]
pub struct ListConsumers;

/// What has become of an event? The answer has the consumers whose events this node delivers and that may want it, by
/// name.
#[derive(Debug, Message)]
#[rtype(result = "BTreeMap<String, (Fate, u32)>")]
pub struct FindFate(pub EventId);

/// The state of a consumer with members on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConsumerStatus {
    pub name: String,
    /// `active`, or `standby` while another node delivers its events.
    pub state: &'static str,
    pub members: usize,
    pub in_flight: usize,
    /// Bytes of events that were taken from the log and are not acknowledged.
    pub unacked_bytes: usize,
    /// The bound because of which its members get no more until they acknowledge something.
    pub held_by: Option<&'static str>,
    /// Events that were taken from the log and are with no member.
    pub waiting: usize,
    #[serde(rename = "floor")]
    pub ack_floor: EventId,
    pub cursor: EventId,
    pub delivered: u64,
    pub redelivered: u64,
    pub acknowledged: u64,
}
