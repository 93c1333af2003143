//! The changes of a durable subscription: those to be stored, those under way, and those that are confirmed.

use std::collections::BTreeSet;

use crate::domain::delivery::DeadReason;
use crate::domain::event::EventId;

/// Rises with everything that is to be stored.
pub type Revision = u64;

/// What is known of an event above the ack floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is settled: it is not delivered again.
    Settled,
    /// It was delivered this many times without being settled.
    Delivered(u32),
}

/// What has to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes<T> {
    pub ack_floor: EventId,
    /// Marks to insert, or to replace.
    pub marks: Vec<(EventId, Mark)>,
    /// Marks to delete, because the ack floor has passed them.
    pub passed_marks: Vec<EventId>,
    pub dead: Vec<Dead<T>>,
    /// Reopened events that are acknowledged, with the number of their deliveries.
    pub renewed: Vec<(EventId, u32)>,
    /// Everything up to this is in it, or was stored before.
    pub revision: Revision,
}

/// An event that is dead: it is not delivered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead<T> {
    pub id: EventId,
    pub item: T,
    pub deliveries: u32,
    pub reason: DeadReason,
}

/// The changes that are not confirmed yet: see the module.
#[derive(Debug)]
pub(super) struct Pending<T> {
    ack_floor: EventId,
    /// Events whose stored marks may differ from their state.
    touched: BTreeSet<EventId>,
    /// Events that have marks in the store.
    marked: BTreeSet<EventId>,
    dead: Vec<Dead<T>>,
    renewed: Vec<(EventId, u32)>,
    /// The revision of everything that happened; of what was taken to be stored; of what is stored.
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
        let passed_marks = std::mem::replace(&mut self.marked, above).into_iter().collect();
        let mut marks = Vec::new();
        for id in std::mem::take(&mut self.touched).into_iter().filter(|id| *id > ack_floor) {
            self.marked.insert(id);
            marks.push((id, mark(id)));
        }
        self.taken = self.revision;
        let (dead, renewed) = (std::mem::take(&mut self.dead), std::mem::take(&mut self.renewed));
        Changes { ack_floor, marks, passed_marks, dead, renewed, revision: self.revision }
    }

    pub fn confirm(&mut self, revision: Revision) {
        self.stored = self.stored.max(revision);
    }

    /// Changes that were taken were not stored, perhaps.
    pub fn restore(&mut self, changes: Changes<T>) {
        let Changes { ack_floor: _, marks, passed_marks, dead, renewed, revision: _ } = changes;
        self.taken = self.stored;
        // It is unknown what is stored.
        self.ack_floor = EventId::MIN;
        self.touched.extend(marks.iter().map(|(id, _)| *id));
        self.marked.extend(passed_marks);
        self.dead.splice(..0, dead);
        self.renewed.splice(..0, renewed);
    }
}
