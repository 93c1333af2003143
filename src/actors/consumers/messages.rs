//! What the durable subscriptions take, and what their members are sent.

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

/// Bytes that may be on their way to a member before its connection has taken them.
const MAX_UNDERWAY: usize = 256 * 1024;
/// What a frame counts for beside its length.
const FRAME_COST: usize = 64;

/// The way to a member's session.
#[derive(Debug, Clone)]
pub struct MemberLink {
    sender: mpsc::UnboundedSender<ToMember>,
    underway: Arc<Underway>,
}

/// What is on its way to a session; [`MAX_UNDERWAY`] bounds the channel.
#[derive(Debug, Default)]
pub struct Underway {
    bytes: AtomicUsize,
    /// Somebody waits for room.
    is_awaited: AtomicBool,
}

/// To a member.
#[derive(Debug)]
pub enum ToMember {
    /// An event, as a complete frame.
    Event(Bytes),
    /// The answer to what it has said of an event, as a complete frame.
    Answer(Bytes),
    /// Something that it has not asked for, as a complete frame.
    Notice(Bytes),
    /// It is a member no longer.
    Ended(ApiError),
    /// There is no going on on this connection.
    Close(CloseReason),
}

impl MemberLink {
    /// A link, and its end at the session.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<ToMember>, Arc<Underway>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let underway = Arc::<Underway>::default();
        (Self { sender, underway: Arc::clone(&underway) }, receiver, underway)
    }

    /// Whether it may be given an event.
    pub fn has_room(&self) -> bool {
        self.underway.bytes.load(Ordering::Acquire) < MAX_UNDERWAY
    }

    /// Asks for a [`RoomAgain`]. There may be room already: look once more.
    pub fn await_room(&self) {
        self.underway.is_awaited.store(true, Ordering::SeqCst);
    }

    /// False if the session is gone.
    pub fn send(&self, message: ToMember) -> bool {
        if let ToMember::Event(frame) = &message {
            self.underway.bytes.fetch_add(frame.len() + FRAME_COST, Ordering::AcqRel);
        }
        self.sender.send(message).is_ok()
    }
}

impl Underway {
    /// The session has taken an event of this length. Whether somebody waits for the room.
    pub fn took(&self, frame: &Bytes) -> bool {
        let cost = frame.len() + FRAME_COST;
        let left = self.bytes.fetch_sub(cost, Ordering::SeqCst) - cost;
        left < MAX_UNDERWAY / 2 && self.is_awaited.swap(false, Ordering::SeqCst)
    }
}

/// The address of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberKey {
    /// Of the actor: each counts its members anew.
    pub generation: Generation,
    pub consumer: Arc<str>,
    pub member: MemberId,
}

/// Take this session in.
#[derive(Debug, Message)]
#[rtype(result = "Result<Joined, ApiError>")]
pub struct Join {
    pub request: JoinRequest,
    /// The end of the log when the request was read.
    pub log_end: EventId,
    pub link: MemberLink,
}

/// A session is a member from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    pub key: MemberKey,
    /// Everything up to here is settled.
    pub ack_floor: EventId,
    pub last: EventId,
    pub earliest: EventId,
    /// Whether everything above the ack floor is retained.
    pub is_recovered: bool,
}

/// A session is a member no longer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Leave(pub MemberKey);

/// What a member says of an event. The answer, once it is stored, comes through its link.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), ApiError>")]
pub struct Acknowledge {
    pub key: MemberKey,
    pub request: AckRequest,
}

/// A member's session has taken most of what was on its way.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RoomAgain(pub MemberKey);

/// An operator has changed a durable subscription in the store.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LookAgain(pub String);

/// How do those of this node fare?
#[derive(Debug, Message)]
#[rtype(result = "Vec<ConsumerStatus>")]
pub struct ListConsumers;

/// What has become of an event? Answers for those whose events this node delivers and that may want it, by name.
#[derive(Debug, Message)]
#[rtype(result = "BTreeMap<String, (Fate, u32)>")]
pub struct FindFate(pub EventId);

/// One durable subscription with members on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConsumerStatus {
    pub name: String,
    /// `active`, or `standby` while another node delivers its events.
    pub state: &'static str,
    pub members: usize,
    pub in_flight: usize,
    /// Of what is taken from the log and not settled.
    pub unacked_bytes: usize,
    /// The bound that keeps its members from getting more, until they have settled something.
    pub held_by: Option<&'static str>,
    /// Taken from the log and with nobody.
    pub waiting: usize,
    #[serde(rename = "floor")]
    pub ack_floor: EventId,
    pub cursor: EventId,
    pub delivered: u64,
    pub redelivered: u64,
    pub acknowledged: u64,
}
