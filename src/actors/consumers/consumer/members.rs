//! The members of one consumer, with the links to their sessions.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::actors::consumers::messages::{MemberLink, ToMember};
use crate::domain::consumer::MemberId;
use crate::protocol::close::CloseReason;
use crate::protocol::error::ApiError;

/// Most members of one consumer.
pub const MAX_MEMBERS: usize = 1000;

/// See the module.
#[derive(Debug, Default)]
pub struct Members(BTreeMap<MemberId, MemberLink>);

impl Members {
    pub fn add(&mut self, member: MemberId, link: MemberLink) {
        self.0.insert(member, link);
    }

    pub fn remove(&mut self, member: MemberId) {
        self.0.remove(&member);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, member: MemberId) -> bool {
        self.0.contains_key(&member)
    }

    pub fn ids(&self) -> impl Iterator<Item = MemberId> {
        self.0.keys().copied()
    }

    pub fn link(&self, member: MemberId) -> Option<&MemberLink> {
        self.0.get(&member)
    }

    /// Whether the member may be given an event.
    pub fn has_room(&self, member: MemberId) -> bool {
        self.0.get(&member).is_some_and(MemberLink::has_room)
    }

    /// Asks members without room to report when they have some. Returns whether one has it already.
    pub fn await_room(&self) -> bool {
        let full: Vec<_> = self.0.values().filter(|link| !link.has_room()).collect();
        full.iter().for_each(|link| link.await_room());
        full.iter().any(|link| link.has_room())
    }

    /// Sends an event. False if the session is gone.
    pub fn send_event(&self, member: MemberId, frame: Bytes) -> bool {
        self.0.get(&member).is_some_and(|link| link.send(ToMember::Event(frame)))
    }

    /// Sends a notice to these members.
    pub fn notify(&self, members: impl Iterator<Item = MemberId>, frame: &Bytes) {
        for link in members.filter_map(|member| self.0.get(&member)) {
            link.send(ToMember::Notice(frame.clone()));
        }
    }

    /// Closes their connections.
    pub fn close(&self, reason: CloseReason) {
        for link in self.0.values() {
            link.send(ToMember::Close(reason));
        }
    }

    /// Ends all memberships.
    pub fn end(&mut self, error: &ApiError) {
        for link in std::mem::take(&mut self.0).into_values() {
            link.send(ToMember::Ended(error.clone()));
        }
    }
}
