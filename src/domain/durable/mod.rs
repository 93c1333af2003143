//! A durable subscription: which of its events goes to which of its members, and how far all of it is settled.
//!
//! What outlives the process is small: the *floor*, up to which every event is settled, and a [`Mark`] for each event
//! above it that is not as new. Whatever has no mark is delivered again after a crash.
//!
//! - *DS-1* Every event that was taken is settled by an acknowledgement or by its death, and until then is delivered
//!   again and again.
//! - *DS-2* What is settled, and committed, is not delivered again.
//! - *DS-3* An event is with one member at a time, for at most `ack_wait` unless that member asks for more.
//! - *DS-4* The floor never passes an event that is not settled.
//! - *DS-5* What was said of an event counts as stored only when a store that began after it was confirmed, never
//!   because nothing seems to be left to store: see [`Revision`].

mod changes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::changes::Pending;
pub use self::changes::{Changes, Dead, Mark, Revision};
use super::delivery::DeadReason;
use super::event::{EventId, Timestamp};

/// Events settled above the floor, at most: with more, nothing new is taken until the one that holds the floor is
/// settled.
const MAX_SETTLED: usize = 100_000;
/// Events that wait to be sent, at most.
const MAX_WAITING: usize = 512;

/// How events are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurablePolicy {
    /// How long a member may take to acknowledge.
    pub ack_wait: Duration,
    /// Events that are with members, together.
    pub max_in_flight: u32,
    /// Deliveries after which an event is dead; 0 for any number.
    pub max_deliver: u32,
}

/// The number of a member, never used for another.
pub type MemberId = u64;

/// What keeps a durable subscription from giving more to its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    /// So many events are with members as may be.
    MaxInFlight,
    /// Events that are not acknowledged have as many bytes as they may have together.
    MaxUnackedBytes,
    /// So many later events are settled that the oldest one has to be settled first.
    MaxSettled,
}

impl HeldBy {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxInFlight => "max_in_flight",
            Self::MaxUnackedBytes => "max_unacked_bytes",
            Self::MaxSettled => "max_settled",
        }
    }
}

/// An event for a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery<T> {
    pub member: MemberId,
    pub id: EventId,
    pub item: T,
    /// The how manieth it is.
    pub delivery: u32,
}

/// What an acknowledgement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    Now,
    /// It was settled already.
    Before,
    /// Nobody was given this event.
    Unknown,
}

/// How far an event has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is to be delivered, or to be delivered again.
    Waiting,
    /// It is with a member.
    InFlight,
    /// Nothing is left to do: it was acknowledged, is dead, or lies before the beginning.
    Settled,
}

impl Fate {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::InFlight => "in_flight",
            Self::Settled => "settled",
        }
    }
}

/// See the module. `T` is what of an event is needed to deliver it.
#[derive(Debug)]
pub struct Durable<T> {
    policy: DurablePolicy,
    /// Bytes of all that is open, at most; one event may be larger.
    max_unacked_bytes: usize,
    floor: EventId,
    /// Every event up to here was taken.
    cursor: EventId,
    /// Taken and not settled.
    open: BTreeMap<EventId, Open<T>>,
    /// Settled above the floor.
    settled: BTreeSet<EventId>,
    /// Deliveries in an earlier life, of events that were not taken yet in this one.
    counted: BTreeMap<EventId, u32>,
    waiting: BTreeSet<EventId>,
    timers: BTreeSet<(Timestamp, EventId)>,
    in_flight: usize,
    open_bytes: usize,
    members: BTreeMap<MemberId, Member>,
    /// Rises with each delivery: whose turn was longest ago.
    turn: u64,
    pending: Pending<T>,
}

#[derive(Debug)]
struct Open<T> {
    item: T,
    bytes: usize,
    deliveries: u32,
    /// Those before it was made anew.
    spent: u32,
    /// Made anew by an operator, wherever the floor is.
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

impl<T: Clone> Durable<T> {
    /// Goes on from what is stored.
    pub fn new(
        policy: DurablePolicy,
        max_unacked_bytes: usize,
        floor: EventId,
        marks: impl IntoIterator<Item = (EventId, Mark)>,
    ) -> Self {
        let mut settled = BTreeSet::new();
        let mut counted = BTreeMap::new();
        let mut marked = BTreeSet::new();
        for (id, mark) in marks {
            marked.insert(id);
            match mark {
                _ if id <= floor => {}
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
            floor,
            cursor: floor,
            open: BTreeMap::new(),
            settled,
            counted,
            waiting: BTreeSet::new(),
            timers: BTreeSet::new(),
            in_flight: 0,
            open_bytes: 0,
            members: BTreeMap::new(),
            turn: 0,
            pending: Pending::new(floor, marked),
        }
    }

    /// From now on.
    pub fn set_policy(&mut self, policy: DurablePolicy) {
        self.policy = policy;
    }

    /// Every event up to here is settled.
    pub fn floor(&self) -> EventId {
        self.floor
    }

    /// Every event up to here was taken, or is none of its own.
    pub fn cursor(&self) -> EventId {
        self.cursor
    }

    /// Events with members.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Events taken, and with nobody.
    pub fn not_in_flight(&self) -> usize {
        self.open.len() - self.in_flight
    }

    /// Bytes of what is taken and not settled.
    pub fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// Whether another event may be taken.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING
            && (self.open_bytes < self.max_unacked_bytes || self.open.is_empty())
            && self.settled.len() < MAX_SETTLED
    }

    /// Whether so many may be taken that it is worth reading a page of them.
    pub fn has_room_for_page(&self) -> bool {
        let is_roomy = self.waiting.len() <= MAX_WAITING / 2 && self.open_bytes <= self.max_unacked_bytes / 2;
        self.has_room() && is_roomy
    }

    /// What keeps members from getting more, though there is more: they have to settle something first. `has_more`:
    /// there are events that were not taken.
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

    /// Those with something that it may settle.
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

    /// There is none of its events up to `id` that it has not taken.
    pub fn advance(&mut self, id: EventId) {
        if id > self.cursor {
            self.cursor = id;
            self.counted = self.counted.split_off(&(id + 1));
            self.raise_floor();
        }
    }

    /// Takes a dead one that an operator wants to be delivered again, after `spent` deliveries. Ignored if it is open, or
    /// how it ended is not stored yet.
    pub fn renew(&mut self, id: EventId, item: T, bytes: usize, spent: u32) {
        if !self.open.contains_key(&id) && !self.pending.is_ending(id) {
            self.insert(id, Open { item, bytes, deliveries: spent, spent, is_renewed: true, place: Place::Waiting });
        }
    }

    /// What has become of one of its events, and how often it was delivered.
    pub fn fate(&self, id: EventId) -> (Fate, u32) {
        match self.open.get(&id) {
            Some(Open { place: Place::With { .. }, deliveries, .. }) => (Fate::InFlight, *deliveries),
            Some(Open { place: Place::Delayed { .. } | Place::Waiting, deliveries, .. }) => {
                (Fate::Waiting, *deliveries)
            }
            None if id <= self.floor || self.settled.contains(&id) => (Fate::Settled, 0),
            None => (Fate::Waiting, self.counted.get(&id).copied().unwrap_or(0)),
        }
    }

    pub fn join(&mut self, member: MemberId) {
        self.members.entry(member).or_default();
    }

    /// What the member had is for others, at once.
    pub fn leave(&mut self, member: MemberId) {
        if self.members.remove(&member).is_none() {
            return;
        }
        let is_its_own = |open: &Open<T>| matches!(open.place, Place::With { member: with, .. } if with == member);
        let left: Vec<EventId> = self.open.iter().filter(|(_, open)| is_its_own(open)).map(|(id, _)| *id).collect();
        for id in left {
            self.take_back(id);
            self.again(id, None);
        }
    }

    /// The next delivery, to whichever member has the least to do of those that have room.
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

    /// The event never got to the member: as if it had not been given.
    pub fn hand_back(&mut self, member: MemberId, id: EventId) {
        if self.is_with(member, id) {
            self.take_back(id);
            if let Some(open) = self.open.get_mut(&id) {
                open.deliveries = open.deliveries.saturating_sub(1);
            }
            self.wait(id);
        }
    }

    /// The event is done with, whoever has it now.
    pub fn ack(&mut self, id: EventId) -> Acked {
        match self.open.get(&id) {
            Some(open) if open.deliveries > open.spent => {
                self.settle(id, None);
                Acked::Now
            }
            Some(_) => Acked::Unknown,
            None if id <= self.floor || self.settled.contains(&id) => Acked::Before,
            None => Acked::Unknown,
        }
    }

    /// So is all that `member` was given before it, of lower ids; how many events that were. What was given to it
    /// later may still be on its way: `member` cannot have meant it.
    pub fn ack_through(&mut self, member: MemberId, id: EventId) -> Result<usize, Acked> {
        let Some(Place::With { member: with, turn, .. }) = self.open.get(&id).map(|open| open.place) else {
            return Err(self.ack(id));
        };
        if with != member {
            return Err(self.ack(id));
        }
        let was_given = |open: &Open<T>| matches!(open.place, Place::With { member: with, turn: given, .. } if with == member && given <= turn);
        let own: Vec<EventId> = self.open.range(..=id).filter(|(_, open)| was_given(open)).map(|(id, _)| *id).collect();
        own.iter().for_each(|id| self.settle(*id, None));
        Ok(own.len())
    }

    /// `member` does not want the event: it is for others, not before `until` if given. False if the member has no such
    /// event.
    pub fn nack(&mut self, member: MemberId, id: EventId, until: Option<Timestamp>) -> bool {
        let is_its_own = self.is_with(member, id);
        if is_its_own {
            self.take_back(id);
            self.again(id, until);
        }
        is_its_own
    }

    /// `member` needs another `ack_wait` for the event. False if it has no such event.
    pub fn extend(&mut self, member: MemberId, id: EventId, now: Timestamp) -> bool {
        let until = now.plus(self.policy.ack_wait);
        match self.open.get_mut(&id) {
            Some(Open { place: Place::With { member: with, until: was, .. }, .. }) if *with == member => {
                self.timers.remove(&(*was, id));
                self.timers.insert((until, id));
                *was = until;
                true
            }
            _ => false,
        }
    }

    /// `member` says that nobody can do anything with the event: it is dead. False if it has no such event.
    pub fn reject(&mut self, member: MemberId, id: EventId) -> bool {
        let is_its_own = self.is_with(member, id);
        if is_its_own {
            self.settle(id, Some(DeadReason::Rejected));
        }
        is_its_own
    }

    /// Takes back what was not acknowledged in time, and lets go what was delayed until now.
    pub fn expire(&mut self, now: Timestamp) {
        while let Some(&(due, id)) = self.timers.first().filter(|(due, _)| *due <= now) {
            match self.open.get(&id).map(|open| open.place) {
                Some(Place::With { .. }) => {
                    self.take_back(id);
                    self.again(id, None);
                }
                Some(Place::Delayed { .. }) => {
                    self.timers.remove(&(due, id));
                    self.wait(id);
                }
                Some(Place::Waiting) | None => unreachable!("invariant: what has a timer is with a member or delayed"),
            }
        }
    }

    /// When [`Self::expire`] has something to do.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Whether something has to be stored soon; that the floor has risen past events of others can wait.
    pub fn has_changes(&self) -> bool {
        self.pending.has_changes()
    }

    /// All that has happened so far.
    pub fn revision(&self) -> Revision {
        self.pending.revision()
    }

    /// What of it is stored, for certain.
    pub fn stored(&self) -> Revision {
        self.pending.stored()
    }

    /// Whether something is not stored.
    pub fn is_dirty(&self) -> bool {
        self.has_changes() || !self.pending.is_floor_stored(self.floor)
    }

    /// What is to be stored now, until it is [confirmed](Self::confirm) or [not](Self::restore); one at a time.
    pub fn take_changes(&mut self) -> Changes<T> {
        let open = &self.open;
        self.pending.take(self.floor, |id| match open.get(&id).filter(|open| !open.is_renewed) {
            Some(open) => Mark::Delivered(open.deliveries),
            None => Mark::Settled,
        })
    }

    /// Changes that were taken are stored.
    pub fn confirm(&mut self, revision: Revision) {
        self.pending.confirm(revision);
    }

    /// They were not stored, perhaps.
    pub fn restore(&mut self, changes: Changes<T>) {
        self.pending.restore(changes);
    }

    fn insert(&mut self, id: EventId, open: Open<T>) {
        self.open_bytes += open.bytes;
        self.open.insert(id, open);
        self.waiting.insert(id);
    }

    fn is_with(&self, member: MemberId, id: EventId) -> bool {
        let place = self.open.get(&id).map(|open| open.place);
        matches!(place, Some(Place::With { member: with, .. }) if with == member)
    }

    fn wait(&mut self, id: EventId) {
        if let Some(open) = self.open.get_mut(&id) {
            open.place = Place::Waiting;
            self.waiting.insert(id);
        }
    }

    /// Nobody has it any more, nor will have it by itself.
    fn take_back(&mut self, id: EventId) {
        match self.open.get(&id).map(|open| open.place) {
            Some(Place::With { member, until, .. }) => {
                self.timers.remove(&(until, id));
                self.in_flight -= 1;
                if let Some(member) = self.members.get_mut(&member) {
                    member.in_flight -= 1;
                }
            }
            Some(Place::Delayed { until }) => {
                self.timers.remove(&(until, id));
            }
            Some(Place::Waiting) => {
                self.waiting.remove(&id);
            }
            None => {}
        }
    }

    /// It was delivered in vain: once more, or never again.
    fn again(&mut self, id: EventId, until: Option<Timestamp>) {
        let max = self.policy.max_deliver;
        let Some(open) = self.open.get_mut(&id) else { return };
        if max > 0 && open.deliveries.saturating_sub(open.spent) >= max {
            open.place = Place::Waiting;
            return self.settle(id, Some(DeadReason::Exhausted));
        }
        if !open.is_renewed {
            self.pending.touch(id);
        }
        match until {
            Some(until) => {
                open.place = Place::Delayed { until };
                self.timers.insert((until, id));
            }
            None => self.wait(id),
        }
    }

    fn settle(&mut self, id: EventId, death: Option<DeadReason>) {
        self.take_back(id);
        let Some(open) = self.open.remove(&id) else { return };
        self.open_bytes -= open.bytes;
        let Open { item, deliveries, is_renewed, .. } = open;
        if !is_renewed {
            self.settled.insert(id);
            self.pending.touch(id);
        }
        match death {
            Some(reason) => self.pending.bury(Dead { id, item, deliveries, reason }),
            None if is_renewed => self.pending.acknowledge_renewed(id, deliveries),
            None => {}
        }
        self.raise_floor();
    }

    fn raise_floor(&mut self) {
        let first_open = self.open.iter().find(|(_, open)| !open.is_renewed).map(|(id, _)| *id);
        self.floor = first_open.map_or(self.cursor, |id| id - 1).max(self.floor);
        while self.settled.first().is_some_and(|id| *id <= self.floor) {
            self.settled.pop_first();
        }
    }
}

#[cfg(test)]
mod tests;
