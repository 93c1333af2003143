//! Acks of members, and what follows from them.

use super::{Acked, ConsumerState, Dead, MemberId, Open, Place};
use crate::domain::delivery::DeadReason;
use crate::domain::event::{EventId, Timestamp};

impl<T: Clone> ConsumerState<T> {
    /// The event never reached the member: the delivery does not count.
    pub fn requeue(&mut self, member: MemberId, id: EventId) {
        if self.is_with(member, id) {
            self.detach(id);
            if let Some(open) = self.open.get_mut(&id) {
                open.deliveries = open.deliveries.saturating_sub(1);
            }
            self.wait(id);
        }
    }

    /// Acknowledges the event, whichever member has it now.
    pub fn ack(&mut self, id: EventId) -> Acked {
        match self.open.get(&id) {
            Some(open) if open.deliveries > open.spent => {
                self.settle(id, None);
                Acked::Now
            }
            Some(_) => Acked::Unknown,
            None if id <= self.ack_floor || self.settled.contains(&id) => Acked::Before,
            None => Acked::Unknown,
        }
    }

    /// Acknowledges the event and every event of a lower id that `member` was given before it; returns how many those
    /// were. Events that it was given later may still be on their way, so `member` cannot have meant them.
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

    /// `member` refuses the event: it is delivered again, not before `until` if given. False if the member has no such
    /// event.
    pub fn nack(&mut self, member: MemberId, id: EventId, until: Option<Timestamp>) -> bool {
        let is_its_own = self.is_with(member, id);
        if is_its_own {
            self.detach(id);
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

    /// `member` rejects the event, because no member can process it: it is dead. False if it has no such event.
    pub fn reject(&mut self, member: MemberId, id: EventId) -> bool {
        let is_its_own = self.is_with(member, id);
        if is_its_own {
            self.settle(id, Some(DeadReason::Rejected));
        }
        is_its_own
    }

    /// Requeues events that were not acknowledged in time, and those whose delay has passed.
    pub fn expire(&mut self, now: Timestamp) {
        while let Some(&(due, id)) = self.timers.first().filter(|(due, _)| *due <= now) {
            match self.open.get(&id).map(|open| open.place) {
                Some(Place::With { .. }) => {
                    self.detach(id);
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

    pub(super) fn insert(&mut self, id: EventId, open: Open<T>) {
        self.open_bytes += open.bytes;
        self.open.insert(id, open);
        self.waiting.insert(id);
    }

    pub(super) fn is_with(&self, member: MemberId, id: EventId) -> bool {
        let place = self.open.get(&id).map(|open| open.place);
        matches!(place, Some(Place::With { member: with, .. }) if with == member)
    }

    pub(super) fn wait(&mut self, id: EventId) {
        if let Some(open) = self.open.get_mut(&id) {
            open.place = Place::Waiting;
            self.waiting.insert(id);
        }
    }

    /// Settles the event: it is with no member, and is not delivered again.
    pub(super) fn detach(&mut self, id: EventId) {
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

    /// Ends a delivery without an ack: the event is requeued, or is dead after the last delivery.
    pub(super) fn again(&mut self, id: EventId, until: Option<Timestamp>) {
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

    pub(super) fn settle(&mut self, id: EventId, death: Option<DeadReason>) {
        self.detach(id);
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

    pub(super) fn raise_floor(&mut self) {
        let first_open = self.open.iter().find(|(_, open)| !open.is_renewed).map(|(id, _)| *id);
        self.ack_floor = first_open.map_or(self.cursor, |id| id - 1).max(self.ack_floor);
        while self.settled.first().is_some_and(|id| *id <= self.ack_floor) {
            self.settled.pop_first();
        }
    }
}
