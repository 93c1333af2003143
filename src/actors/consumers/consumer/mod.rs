//! One consumer: its members, its state while this node holds its lease, and the writes under way.

mod answers;
mod change;
mod delivery;
pub mod holder;
mod members;
pub mod storing;

use std::sync::Arc;

use actix::prelude::SpawnHandle;

use self::answers::Answers;
use self::holder::Holder;
use self::members::{MAX_MEMBERS, Members};
use self::storing::Saving;
use super::messages::{ConsumerStatus, MemberLink};
use crate::domain::consumer::{ConsumerPolicy, ConsumerState, Fate, HeldBy, MemberId};
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::filter::Filter;
use crate::domain::index::TopicId;
use crate::domain::lease::{Fence, Grant, Lease, LeaseName, Turn};
use crate::domain::pattern::Pattern;
use crate::domain::pending_writes::PendingWrites;
use crate::domain::routes::ServiceId;
use crate::protocol::consumer::JoinRequest;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::storage::{Claimed, ConsumerRecord, KnownConsumer};

/// See the module.
pub struct Consumer {
    name: Arc<str>,
    /// As stored, except for the ack floor and, while this node holds the lease, the fencing epoch.
    record: ConsumerRecord,
    pattern: Pattern,
    filter: Option<Filter>,
    topic: TopicId,
    lease: Lease<Holder>,
    /// The generation of this node's membership in which it last learned who has the lease.
    pub(super) term: i64,
    members: Members,
    /// At most one write: the state itself collects changes, since later ones replace earlier ones.
    writes: PendingWrites<Saving>,
    answers: Answers,
    /// Some of its events were trimmed before they were delivered.
    has_lost: bool,
    /// It is to be pumped when the mailbox has been drained.
    is_due: bool,
    /// Whether persistence is being asked for the lease.
    is_asking: bool,
    timer: Option<SpawnHandle>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    delivered: u64,
    redelivered: u64,
    acknowledged: u64,
}

impl Consumer {
    pub fn new(record: ConsumerRecord, pattern: Pattern, filter: Option<Filter>, topic: TopicId) -> Self {
        Self {
            name: record.name.as_str().into(),
            record,
            pattern,
            filter,
            topic,
            lease: Lease::Follower,
            term: 0,
            members: Members::default(),
            writes: PendingWrites::default(),
            answers: Answers::default(),
            has_lost: false,
            is_due: false,
            is_asking: false,
            timer: None,
            counts: Counts::default(),
        }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn service(&self) -> ServiceId {
        self.record.service
    }

    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    pub fn topic(&self) -> TopicId {
        self.topic
    }

    pub fn policy(&self) -> ConsumerPolicy {
        self.record.policy
    }

    /// Uses this policy from now on. It is stored already.
    pub fn set_policy(&mut self, policy: ConsumerPolicy) {
        self.record.policy = policy;
        self.lease.holder_mut().into_iter().for_each(|holder| holder.state.set_policy(policy));
    }

    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Whether some of its events were trimmed before they were delivered.
    pub fn has_lost(&self) -> bool {
        self.has_lost
    }

    /// Whether the sender of this request may be a member.
    pub fn admits(&self, request: &JoinRequest) -> Result<(), ApiError> {
        let ConsumerRecord { name, pattern, filter, .. } = &self.record;
        if request.pattern.as_str() != pattern || request.filter != self.filter {
            let reason = format!(
                "durable subscription {name:?} exists with another event_name or filter; delete it first, or take another name"
            );
            return Err(ApiError::new(ErrorCode::DurableMismatch, reason).with("event_name", pattern.as_str()).with(
                "filter",
                filter.as_deref().and_then(|json| serde_json::from_str(json).ok()).unwrap_or(serde_json::Value::Null),
            ));
        }
        if self.members.len() >= MAX_MEMBERS {
            let reason = format!("durable subscription {name:?} has {MAX_MEMBERS} members, as many as it may have");
            return Err(ApiError::new(ErrorCode::TooManySubscriptions, reason));
        }
        Ok(())
    }

    pub fn join(&mut self, member: MemberId, link: MemberLink) {
        self.members.add(member, link);
        self.lease.holder_mut().into_iter().for_each(|holder| holder.state.join(member));
    }

    pub fn leave(&mut self, member: MemberId) {
        self.members.remove(member);
        self.lease.holder_mut().into_iter().for_each(|holder| holder.state.leave(member));
    }

    /// Ends all memberships, and answers all acknowledgements with the error.
    pub fn end(&mut self, error: &ApiError) {
        self.answers.void(&self.name, error);
        self.members.end(error);
    }

    /// True for the first call until [`Self::pumped`].
    pub fn begin_due(&mut self) -> bool {
        !std::mem::replace(&mut self.is_due, true)
    }

    pub fn pumped(&mut self) {
        self.is_due = false;
    }

    /// Sets the timer, and returns the earlier one.
    pub fn set_timer(&mut self, timer: Option<SpawnHandle>) -> Option<SpawnHandle> {
        std::mem::replace(&mut self.timer, timer)
    }

    /// When the consumer has something to do, if nothing else happens.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.state().and_then(ConsumerState::next_due)
    }
}

/// The lease.
impl Consumer {
    fn state(&self) -> Option<&ConsumerState<Event>> {
        self.lease.holder().map(|holder| &holder.state)
    }

    fn holder_of(&mut self, generation: u64) -> Option<&mut Holder> {
        self.lease.holder_mut().filter(|holder| holder.generation == generation)
    }

    /// Whether the present state has this number.
    pub fn is_of(&self, generation: u64) -> bool {
        self.lease.holder().is_some_and(|holder| holder.generation == generation)
    }

    /// What its changes carry, while it is held.
    pub fn fence(&self) -> Option<Fence> {
        let generation = self.lease.generation()?;
        Some(Fence { lease: LeaseName::consumer(&self.name), generation })
    }

    /// As the store is asked for its lease.
    pub fn known(&self) -> KnownConsumer {
        let held = self.lease.generation().zip(self.epoch());
        KnownConsumer { service: self.record.service, lease: LeaseName::consumer(&self.name), held }
    }

    fn epoch(&self) -> Option<i64> {
        self.lease.holder().map(|holder| holder.epoch)
    }

    /// Persistence is asked for the lease. False if it is being asked already.
    pub fn begin_asking(&mut self) -> bool {
        !std::mem::replace(&mut self.is_asking, true)
    }

    pub fn end_asking(&mut self) {
        self.is_asking = false;
    }

    /// Whether the store's answer means another machine: an operator has moved it, or others may have changed it.
    pub fn is_outdated_by(&self, grant: Grant, epoch: i64) -> bool {
        match self.lease.turn(grant) {
            Turn::Kept => self.epoch() != Some(epoch),
            Turn::Regained | Turn::Gained | Turn::Lost => true,
            Turn::Elsewhere => false,
        }
    }

    /// It was moved: goes on from what is stored.
    pub fn moved(&mut self, record: ConsumerRecord, lease: Lease<Holder>) {
        self.has_lost = false;
        self.record = record;
        self.replace(lease);
    }

    /// Continues with the state of this lease, or as a follower.
    pub fn replace(&mut self, lease: Lease<Holder>) {
        self.lease = lease;
        self.writes.rested();
        if let Some(holder) = self.lease.holder_mut() {
            self.members.ids().for_each(|member| holder.state.join(member));
        }
        // Acknowledgements of events that the earlier state has delivered are void.
        let moved = "the durable subscription was moved, or is at another node now";
        self.answers.void(&self.name, &ApiError::new(ErrorCode::NotDelivered, moved));
    }
}

/// Reading the log.
impl Consumer {
    /// Every event up to here was taken from the log, while this node holds the lease.
    pub fn cursor(&self) -> Option<EventId> {
        self.state().map(ConsumerState::cursor)
    }

    /// Whether a page of the log is being read.
    pub fn is_reading(&self) -> bool {
        self.lease.holder().is_some_and(|holder| holder.is_reading)
    }

    /// Takes those of `events` for which there is room. They are all of its events up to `through`.
    pub fn take(&mut self, events: impl Iterator<Item = Event>, through: EventId) {
        if let Some(holder) = self.lease.holder_mut() {
            holder.take(self.filter.as_ref(), events, through);
        }
    }

    /// If it is behind and has room: after which event a page is to be read, and for which state.
    pub fn begin_read(
        &mut self,
        head: EventId,
        has_room: impl FnOnce(&ConsumerState<Event>) -> bool,
    ) -> Option<(EventId, u64)> {
        let holder = self.lease.holder_mut().filter(|_| !self.members.is_empty())?;
        let state = &holder.state;
        let after = state.cursor();
        if after >= head || holder.is_reading || !has_room(state) {
            return None;
        }
        holder.is_reading = true;
        Some((after, holder.generation))
    }

    /// The read has ended. False if the state was replaced meanwhile.
    pub fn end_read(&mut self, generation: u64) -> bool {
        let holder = self.holder_of(generation);
        holder.map(|holder| holder.is_reading = false).is_some()
    }

    /// Notes that the log begins after events that the consumer was to have. Returns whether that is new.
    pub fn lose(&mut self) -> bool {
        !std::mem::replace(&mut self.has_lost, true)
    }

    /// If the store is to be asked for reopened dead letters: for which state.
    pub fn begin_claim(&mut self) -> Option<u64> {
        let holder = self.lease.holder_mut()?;
        holder.begin_claim().then_some(holder.generation)
    }

    /// Takes the answer of the store. False if the state was replaced meanwhile.
    pub fn end_claim(&mut self, generation: u64, claimed: Vec<Claimed>) -> bool {
        let holder = self.lease.holder_mut().filter(|holder| holder.generation == generation);
        holder
            .map(|holder| holder.end_claim(claimed, |id| self.writes.under_way().iter().any(|saving| saving.ends(id))))
            .is_some()
    }
}

/// What operators see of it.
impl Consumer {
    /// Every event up to here is acknowledged.
    pub fn ack_floor(&self) -> EventId {
        self.state().map_or(self.record.ack_floor, ConsumerState::ack_floor)
    }

    /// What has become of an event, while this node holds the lease.
    pub fn fate(&self, id: EventId) -> Option<(Fate, u32)> {
        self.state().map(|state| state.fate(id))
    }

    /// The state for operators.
    pub fn status(&self) -> ConsumerStatus {
        let state = self.state();
        ConsumerStatus {
            name: self.record.name.clone(),
            state: if state.is_some() { "active" } else { "standby" },
            members: self.members.len(),
            in_flight: state.map_or(0, ConsumerState::in_flight),
            unacked_bytes: state.map_or(0, ConsumerState::open_bytes),
            held_by: self.lease.holder().and_then(Holder::held_by).map(HeldBy::as_str),
            waiting: state.map_or(0, ConsumerState::not_in_flight),
            ack_floor: self.ack_floor(),
            cursor: state.map_or(self.record.ack_floor, ConsumerState::cursor),
            delivered: self.counts.delivered,
            redelivered: self.counts.redelivered,
            acknowledged: self.counts.acknowledged,
        }
    }
}
