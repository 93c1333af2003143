//! One durable subscription: its machine while this node holds it, its members, and what is on its way to the store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::SpawnHandle;

use super::MAX_MEMBERS;
use super::messages::{DurableStatus, MemberLink, ToMember};
use super::saving::{Answer, Saving, moved};
use crate::domain::durable::{Acked, Durable, HeldBy, MemberId};
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::filter::Filter;
use crate::domain::index::TopicId;
use crate::domain::lease::Grant;
use crate::domain::pattern::Pattern;
use crate::protocol::durable::{JoinRequest, Settlement, Word, held_up};
use crate::protocol::error::{ApiError, ErrorCode};
use crate::storage::DurableRecord;
use crate::transport::text_frame;

/// How long members may have to settle something before they are told that they have to.
const HELD_UP_QUIETLY: Duration = Duration::from_secs(2);

/// Members have to settle something before they get more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldUp {
    pub by: HeldBy,
    pub since: Timestamp,
    /// Deliveries and settlements so far: with another one it is a new case.
    pub progress: u64,
    pub is_told: bool,
}

/// See the module.
pub struct Consumer {
    pub name: Arc<str>,
    /// As stored, but for the floor.
    pub record: DurableRecord,
    pub pattern: Pattern,
    pub filter: Option<Filter>,
    pub topic: TopicId,
    /// None while another node holds it.
    pub durable: Option<Durable<Event>>,
    /// Distinguishes the machine from those before it, here and elsewhere.
    pub life: u64,
    pub members: BTreeMap<MemberId, MemberLink>,
    pub is_reading: bool,
    /// Some of its events were trimmed before they were delivered.
    pub has_lost: bool,
    /// To be pumped when the mailbox has been drained.
    pub is_due: bool,
    /// Whether the store is asked who holds it.
    pub is_asking: bool,
    pub saving: Option<Saving>,
    /// Nothing is sent to the store now.
    pub is_resting: bool,
    /// Who waits until something is stored, in the order in which it happened.
    pub answers: VecDeque<Answer>,
    pub is_claiming: bool,
    /// Dead ones, and ones made anew, whose end was stored while the store was asked for those made anew.
    pub ended_meanwhile: BTreeSet<EventId>,
    /// What holds it up, since when, and whether its members know.
    pub held_up: Option<HeldUp>,
    pub timer: Option<SpawnHandle>,
    pub delivered: u64,
    pub redelivered: u64,
    pub acknowledged: u64,
}

impl Consumer {
    pub fn new(record: DurableRecord, pattern: Pattern, filter: Option<Filter>, topic: TopicId) -> Self {
        Self {
            name: record.name.as_str().into(),
            record,
            pattern,
            filter,
            topic,
            durable: None,
            life: 0,
            members: BTreeMap::new(),
            is_reading: false,
            has_lost: false,
            is_due: false,
            is_asking: false,
            saving: None,
            is_resting: false,
            answers: VecDeque::new(),
            is_claiming: false,
            ended_meanwhile: BTreeSet::new(),
            held_up: None,
            timer: None,
            delivered: 0,
            redelivered: 0,
            acknowledged: 0,
        }
    }

    /// Whether somebody who asks for this may be a member.
    pub fn admits(&self, request: &JoinRequest) -> Result<(), ApiError> {
        let DurableRecord { name, pattern, filter, .. } = &self.record;
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

    /// Goes on with this machine, or with none.
    pub fn replace(&mut self, durable: Option<Durable<Event>>, life: u64) {
        self.durable = durable;
        self.life = life;
        self.is_reading = false;
        self.is_claiming = false;
        self.is_resting = false;
        self.held_up = None;
        if let Some(durable) = &mut self.durable {
            self.members.keys().for_each(|member| durable.join(*member));
        }
        // What was said of events in its earlier life is void.
        self.void(&moved());
    }

    pub fn join(&mut self, member: MemberId, link: MemberLink) {
        self.members.insert(member, link);
        if let Some(durable) = &mut self.durable {
            durable.join(member);
        }
    }

    pub fn leave(&mut self, member: MemberId) {
        self.members.remove(&member);
        if let Some(durable) = &mut self.durable {
            durable.leave(member);
        }
    }

    /// Takes those of `events` for which there is room; all of its events up to `through` are among them.
    pub fn take(&mut self, events: impl Iterator<Item = Event>, through: EventId) {
        let Some(durable) = &mut self.durable else { return };
        for event in events {
            if self.filter.as_ref().is_some_and(|filter| !filter.matches(&event.payload)) {
                continue;
            }
            if !durable.has_room() {
                return;
            }
            let bytes = event.memory();
            durable.take(event.id, event, bytes);
        }
        durable.advance(through);
    }

    /// What a member says of an event; answered when it is stored.
    pub fn settle(&mut self, member: MemberId, settlement: &Settlement, now: Timestamp) -> Result<(), ApiError> {
        let Settlement { event_id: id, word, .. } = settlement;
        let name = &self.name;
        let refuse = |why: &str| {
            ApiError::new(ErrorCode::NotDelivered, format!("event {id} of durable subscription {name:?} {why}"))
        };
        let Some(durable) = &mut self.durable else {
            return Err(refuse("was not delivered here: another node delivers its events now"));
        };
        let is_with_member = match word {
            Word::Ack => match durable.ack(*id) {
                Acked::Now => {
                    self.acknowledged += 1;
                    true
                }
                Acked::Before => true,
                Acked::Unknown => return Err(refuse("was not delivered")),
            },
            Word::AckThrough => match durable.ack_through(member, *id) {
                Ok(count) => {
                    self.acknowledged += count as u64;
                    true
                }
                Err(Acked::Now) => {
                    self.acknowledged += 1;
                    true
                }
                Err(Acked::Before) => true,
                Err(Acked::Unknown) => return Err(refuse("was not delivered")),
            },
            Word::Nack(delay) => durable.nack(member, *id, (!delay.is_zero()).then(|| now.plus(*delay))),
            Word::Extend => durable.extend(member, *id, now),
            Word::Reject => durable.reject(member, *id),
        };
        if !is_with_member {
            return Err(refuse("is not with this connection: it was never delivered to it, or ack_wait is over"));
        }
        // Also if it was settled before: perhaps not for long enough to be stored.
        let revision = durable.revision();
        let link = self.members.get(&member).cloned();
        self.answers.extend(link.map(|link| Answer { link, event_id: *id, word: *word, revision }));
        Ok(())
    }

    /// Sees whether members have to settle something before they get more; whether it is time to tell them. `has_more`: as
    /// for [`Durable::held_by`].
    pub fn look_at_hold(&mut self, has_more: bool, now: Timestamp) -> Option<HeldBy> {
        let by = self.durable.as_ref().and_then(|durable| durable.held_by(has_more));
        let progress = self.delivered + self.acknowledged;
        let known = self.held_up.filter(|known| Some(known.by) == by && known.progress == progress);
        self.held_up = by.map(|by| known.unwrap_or(HeldUp { by, since: now, progress, is_told: false }));
        let held_up = self.held_up.as_mut().filter(|held| !held.is_told && now.since(held.since) >= HELD_UP_QUIETLY)?;
        held_up.is_told = true;
        Some(held_up.by)
    }

    /// Tells those that can do something about it.
    pub fn tell_held_up(&self, by: HeldBy) {
        let Some(durable) = &self.durable else { return };
        let text = held_up(&self.name, by, durable.in_flight(), durable.open_bytes());
        let frame = text_frame(text.as_bytes());
        for link in durable.busy_members().filter_map(|member| self.members.get(&member)) {
            link.send(ToMember::Notice(frame.clone()));
        }
    }

    /// Says how far it is.
    pub fn status(&self) -> DurableStatus {
        let durable = self.durable.as_ref();
        DurableStatus {
            name: self.record.name.clone(),
            state: if durable.is_some() { "active" } else { "standby" },
            members: self.members.len(),
            in_flight: durable.map_or(0, Durable::in_flight),
            unacked_bytes: durable.map_or(0, Durable::open_bytes),
            held_by: self.held_up.map(|held_up| held_up.by.as_str()),
            waiting: durable.map_or(0, Durable::not_in_flight),
            floor: durable.map_or(self.record.floor, Durable::floor),
            cursor: durable.map_or(self.record.floor, Durable::cursor),
            delivered: self.delivered,
            redelivered: self.redelivered,
            acknowledged: self.acknowledged,
        }
    }

    /// Ends all memberships, and answers all that was said.
    pub fn end(&mut self, error: &ApiError) {
        self.void(error);
        for link in std::mem::take(&mut self.members).into_values() {
            link.send(ToMember::Ended(error.clone()));
        }
    }

    /// Whether this process, and no other, delivers its events.
    pub fn is_held(&self) -> bool {
        self.durable.is_some()
    }

    /// Whether the store's word `held` means another machine: it was moved, or others may have changed it. Not if this
    /// process has taken it back and nobody has had it meanwhile: whoever takes or moves it begins an epoch.
    pub fn is_outdated_by(&self, hold: Grant, record: &DurableRecord) -> bool {
        let is_held = hold != Grant::Elsewhere;
        let own = self.record.epoch + i64::from(hold == Grant::Taken);
        is_held != self.is_held() || is_held && record.epoch != own
    }
}
