//! What of a durable subscription is to be stored, what is on its way, and what is stored for certain.

use std::collections::BTreeSet;

use crate::domain::delivery::DeadReason;
use crate::domain::event::EventId;

/// Rises with everything that is to be stored.
pub type Revision = u64;

/// What is known of an event above the ack floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Not to be delivered again.
    Settled,
    /// Delivered so often, in vain.
    Delivered(u32),
}

/// What has to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes<T> {
    pub ack_floor: EventId,
    /// New, or in place of an earlier one.
    pub marks: Vec<(EventId, Mark)>,
    /// Marks that say nothing any more.
    pub forget: Vec<EventId>,
    pub dead: Vec<Dead<T>>,
    /// Of those made anew: acknowledged, after so many deliveries.
    pub renewed: Vec<(EventId, u32)>,
    /// Everything up to this is in it, or was stored before.
    pub revision: Revision,
}

/// An event that is delivered no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead<T> {
    pub id: EventId,
    pub item: T,
    pub deliveries: u32,
    pub reason: DeadReason,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pending<T> {
    ack_floor: EventId,
    /// Events whose marks are not as stored, perhaps.
    touched: BTreeSet<EventId>,
    /// Events that have marks in the store.
    marked: BTreeSet<EventId>,
    dead: Vec<Dead<T>>,
    renewed: Vec<(EventId, u32)>,
    /// What has happened; what of it was taken to be stored; what is stored.
    revision: Revision,
    taken: Revision,
    stored: Revision,
}

impl<T> Pending<T> {
    /// All of this is stored.
    pub fn new(ack_floor: EventId, marked: BTreeSet<EventId>) -> Self {
        let (touched, dead, renewed) = Default::default();
        Self { ack_floor, touched, marked, dead, renewed, revision: 0, taken: 0, stored: 0 }
    }

    /// What is known of an event has changed.
    pub fn touch(&mut self, id: EventId) {
        self.revision += 1;
        self.touched.insert(id);
    }

    pub fn bury(&mut self, dead: Dead<T>) {
        self.revision += 1;
        self.dead.push(dead);
    }

    /// One that was made anew is acknowledged, after so many deliveries.
    pub fn acknowledge_renewed(&mut self, id: EventId, deliveries: u32) {
        self.revision += 1;
        self.renewed.push((id, deliveries));
    }

    /// Whether it is not taken yet how the event, one that is dead or was made anew, ended.
    pub fn is_ending(&self, id: EventId) -> bool {
        self.dead.iter().any(|dead| dead.id == id) || self.renewed.iter().any(|(renewed, _)| *renewed == id)
    }

    pub fn has_changes(&self) -> bool {
        self.taken < self.revision
    }

    pub fn is_ack_floor_stored(&self, ack_floor: EventId) -> bool {
        self.ack_floor == ack_floor
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn stored(&self) -> Revision {
        self.stored
    }

    /// `mark`: what is known of an event above the ack floor.
    pub fn take(&mut self, ack_floor: EventId, mark: impl Fn(EventId) -> Mark) -> Changes<T> {
        self.ack_floor = ack_floor;
        let above = self.marked.split_off(&(ack_floor + 1));
        let forget = std::mem::replace(&mut self.marked, above).into_iter().collect();
        let mut marks = Vec::new();
        for id in std::mem::take(&mut self.touched).into_iter().filter(|id| *id > ack_floor) {
            self.marked.insert(id);
            marks.push((id, mark(id)));
        }
        self.taken = self.revision;
        let (dead, renewed) = (std::mem::take(&mut self.dead), std::mem::take(&mut self.renewed));
        Changes { ack_floor, marks, forget, dead, renewed, revision: self.revision }
    }

    pub fn confirm(&mut self, revision: Revision) {
        self.stored = self.stored.max(revision);
    }

    /// Changes that were taken were not stored, perhaps.
    pub fn restore(&mut self, changes: Changes<T>) {
        let Changes { ack_floor: _, marks, forget, dead, renewed, revision: _ } = changes;
        self.taken = self.stored;
        // Whatever is stored is not known.
        self.ack_floor = EventId::MIN;
        self.touched.extend(marks.iter().map(|(id, _)| *id));
        self.marked.extend(forget);
        self.dead.splice(..0, dead);
        self.renewed.splice(..0, renewed);
    }
}
