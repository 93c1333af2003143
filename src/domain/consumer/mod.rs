//! A durable subscription: which of its events goes to which of its members, and up to where all are settled.
//!
//! What is stored is small: the *ack floor*, up to which every event is settled, and a [`Mark`] for each event above it
//! that was settled or delivered before. An event without a mark is delivered again after a crash.
//!
//! - *DS-1* Every event that was taken is delivered again and again until it is settled: acknowledged, or dead.
//! - *DS-2* What is settled, and committed, is not delivered again.
//! - *DS-3* An event is with one member at a time, for at most `ack_wait` unless that member asks for more.
//! - *DS-4* The ack floor never passes an event that is not settled.
//! - *DS-5* An ack counts as stored only when a write that began after it was confirmed, never because nothing seems to
//!   be left to write: see [`Revision`].

mod changes;
mod settling;
mod types;

use std::collections::{BTreeMap, BTreeSet};

use self::changes::Pending;
pub use self::changes::{Changes, Dead, Mark, Revision};
pub use self::types::{Acked, ConsumerPolicy, Delivery, Fate, HeldBy, MemberId};
use super::event::{EventId, Timestamp};

/// Events settled above the ack floor, at most: with more, nothing new is taken until the one that holds the ack floor
/// is settled.
const MAX_SETTLED: usize = 100_000;
/// Events that wait to be sent, at most.
const MAX_WAITING: usize = 512;

/// The state of a durable subscription: see the module. `T` is what is needed of an event to deliver it.
#[derive(Debug)]
pub struct ConsumerState<T> {
    policy: ConsumerPolicy,
    /// Bytes of all that is open, at most; one event may be larger.
    max_unacked_bytes: usize,
    ack_floor: EventId,
    /// Every event up to here was taken from the log.
    cursor: EventId,
    /// The events that were taken and are not settled.
    open: BTreeMap<EventId, Open<T>>,
    /// The events above the ack floor that are settled.
    settled: BTreeSet<EventId>,
    /// How often events were delivered in an earlier generation, for those that were not taken in this one yet.
    counted: BTreeMap<EventId, u32>,
    waiting: BTreeSet<EventId>,
    timers: BTreeSet<(Timestamp, EventId)>,
    in_flight: usize,
    open_bytes: usize,
    members: BTreeMap<MemberId, Member>,
    /// Rises with each delivery, to find the member that was served longest ago.
    turn: u64,
    pending: Pending<T>,
}

#[derive(Debug)]
struct Open<T> {
    item: T,
    bytes: usize,
    deliveries: u32,
    /// The deliveries before an operator reopened it.
    spent: u32,
    /// An operator has reopened it, wherever the ack floor is.
    is_renewed: bool,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Waiting,
    With { member: MemberId, until: Timestamp, turn: u64 },
    Delayed { until: Timestamp },
}

#[derive(Debug, Default)]
struct Member {
    in_flight: usize,
    last_turn: u64,
}

impl<T: Clone> ConsumerState<T> {
    /// Resumes from the stored state.
    pub fn new(
        policy: ConsumerPolicy,
        max_unacked_bytes: usize,
        ack_floor: EventId,
        marks: impl IntoIterator<Item = (EventId, Mark)>,
    ) -> Self {
        let mut settled = BTreeSet::new();
        let mut counted = BTreeMap::new();
        let mut marked = BTreeSet::new();
        for (id, mark) in marks {
            marked.insert(id);
            match mark {
                _ if id <= ack_floor => {}
                Mark::Settled => {
                    settled.insert(id);
                }
                Mark::Delivered(deliveries) => {
                    counted.insert(id, deliveries);
                }
            }
        }
        Self {
            policy,
            max_unacked_bytes,
            ack_floor,
            cursor: ack_floor,
            open: BTreeMap::new(),
            settled,
            counted,
            waiting: BTreeSet::new(),
            timers: BTreeSet::new(),
            in_flight: 0,
            open_bytes: 0,
            members: BTreeMap::new(),
            turn: 0,
            pending: Pending::new(ack_floor, marked),
        }
    }

    /// Applies `policy` to all deliveries from now on.
    pub fn set_policy(&mut self, policy: ConsumerPolicy) {
        self.policy = policy;
    }

    /// Every event up to here is settled.
    pub fn ack_floor(&self) -> EventId {
        self.ack_floor
    }

    /// Every event up to here was taken, or does not match.
    pub fn cursor(&self) -> EventId {
        self.cursor
    }

    /// How many events are with members.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many events were taken and are with no member.
    pub fn not_in_flight(&self) -> usize {
        self.open.len() - self.in_flight
    }

    /// The size of all events that were taken and are not settled, in bytes.
    pub fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// Whether another event may be taken.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING
            && (self.open_bytes < self.max_unacked_bytes || self.open.is_empty())
            && self.settled.len() < MAX_SETTLED
    }

    /// Whether there is room for enough events to make reading a page worthwhile.
    pub fn has_room_for_page(&self) -> bool {
        let is_roomy = self.waiting.len() <= MAX_WAITING / 2 && self.open_bytes <= self.max_unacked_bytes / 2;
        self.has_room() && is_roomy
    }

    /// The bound that keeps members from getting more events until they settle some; none if there are no more.
    /// `has_more`: there are events in the log that were not taken.
    pub fn held_by(&self, has_more: bool) -> Option<HeldBy> {
        if self.in_flight == 0 {
            return None;
        }
        if !self.waiting.is_empty() {
            return (self.in_flight >= self.policy.max_in_flight.max(1) as usize).then_some(HeldBy::MaxInFlight);
        }
        let is_full = has_more && !self.has_room();
        let by = if self.settled.len() < MAX_SETTLED { HeldBy::MaxUnackedBytes } else { HeldBy::MaxSettled };
        is_full.then_some(by)
    }

    /// The members that have events to settle.
    pub fn busy_members(&self) -> impl Iterator<Item = MemberId> {
        self.members.iter().filter(|(_, member)| member.in_flight > 0).map(|(id, _)| *id)
    }

    /// Takes the next of its events, `bytes` long. Events come in the order of their ids, each once.
    pub fn take(&mut self, id: EventId, item: T, bytes: usize) {
        if id <= self.cursor {
            return;
        }
        let deliveries = self.counted.remove(&id).unwrap_or(0);
        if !self.settled.contains(&id) {
            self.insert(id, Open { item, bytes, deliveries, spent: 0, is_renewed: false, place: Place::Waiting });
        }
        self.cursor = id;
        self.raise_floor();
    }

    /// Notes that every matching event up to `id` was taken.
    pub fn advance(&mut self, id: EventId) {
        if id > self.cursor {
            self.cursor = id;
            self.counted = self.counted.split_off(&(id + 1));
            self.raise_floor();
        }
    }

    /// Takes a dead event that an operator wants to be delivered again, after `spent` deliveries. Ignored if it is
    /// open, or how it ended is not stored yet.
    pub fn renew(&mut self, id: EventId, item: T, bytes: usize, spent: u32) {
        if !self.open.contains_key(&id) && !self.pending.is_ending(id) {
            self.insert(id, Open { item, bytes, deliveries: spent, spent, is_renewed: true, place: Place::Waiting });
        }
    }

    /// The fate of an event, and how often it was delivered.
    pub fn fate(&self, id: EventId) -> (Fate, u32) {
        match self.open.get(&id) {
            Some(Open { place: Place::With { .. }, deliveries, .. }) => (Fate::InFlight, *deliveries),
            Some(Open { place: Place::Delayed { .. } | Place::Waiting, deliveries, .. }) => {
                (Fate::Waiting, *deliveries)
            }
            None if id <= self.ack_floor || self.settled.contains(&id) => (Fate::Settled, 0),
            None => (Fate::Waiting, self.counted.get(&id).copied().unwrap_or(0)),
        }
    }

    pub fn join(&mut self, member: MemberId) {
        self.members.entry(member).or_default();
    }

    /// Removes a member. Its events are delivered to others at once.
    pub fn leave(&mut self, member: MemberId) {
        if self.members.remove(&member).is_none() {
            return;
        }
        let is_its_own = |open: &Open<T>| matches!(open.place, Place::With { member: with, .. } if with == member);
        let left: Vec<EventId> = self.open.iter().filter(|(_, open)| is_its_own(open)).map(|(id, _)| *id).collect();
        for id in left {
            self.detach(id);
            self.again(id, None);
        }
    }

    /// The next delivery. It goes to the member that has the fewest events, of those that have room.
    pub fn next(&mut self, now: Timestamp, has_room: impl Fn(MemberId) -> bool) -> Option<Delivery<T>> {
        if self.in_flight >= self.policy.max_in_flight.max(1) as usize {
            return None;
        }
        let id = *self.waiting.first()?;
        let free = self.members.iter_mut().filter(|(member, _)| has_room(**member));
        let (&member, chosen) = free.min_by_key(|(_, member)| (member.in_flight, member.last_turn))?;
        self.turn += 1;
        chosen.in_flight += 1;
        chosen.last_turn = self.turn;
        self.in_flight += 1;
        self.waiting.remove(&id);
        let until = now.plus(self.policy.ack_wait);
        self.timers.insert((until, id));
        let open = self.open.get_mut(&id).expect("invariant: what waits is open");
        open.place = Place::With { member, until, turn: self.turn };
        open.deliveries = open.deliveries.saturating_add(1);
        Some(Delivery { member, id, item: open.item.clone(), delivery: open.deliveries })
    }

    /// When [`Self::expire`] has something to do.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Whether something has to be stored soon. An ack floor that rose only past events that do not match can wait.
    pub fn has_changes(&self) -> bool {
        self.pending.has_changes()
    }

    /// The revision of everything that has happened so far.
    pub fn revision(&self) -> Revision {
        self.pending.revision()
    }

    /// The revision that is confirmed to be stored.
    pub fn stored(&self) -> Revision {
        self.pending.stored()
    }

    /// Whether something is not stored.
    pub fn is_dirty(&self) -> bool {
        self.has_changes() || !self.pending.is_ack_floor_stored(self.ack_floor)
    }

    /// Takes the changes to be stored, one batch at a time: each is [confirmed](Self::confirm) or
    /// [restored](Self::restore) before the next.
    pub fn take_changes(&mut self) -> Changes<T> {
        let open = &self.open;
        self.pending.take(self.ack_floor, |id| match open.get(&id).filter(|open| !open.is_renewed) {
            Some(open) => Mark::Delivered(open.deliveries),
            None => Mark::Settled,
        })
    }

    /// The changes that were taken are stored.
    pub fn confirm(&mut self, revision: Revision) {
        self.pending.confirm(revision);
    }

    /// The changes that were taken may not have been stored, so they are to be stored again.
    pub fn restore(&mut self, changes: Changes<T>) {
        self.pending.restore(changes);
    }
}

#[cfg(test)]
mod tests;
