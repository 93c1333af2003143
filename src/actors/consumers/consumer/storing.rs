//! What of a consumer is on its way to the store.

use super::Consumer;
use super::change::change;
use crate::domain::consumer::{Changes, ConsumerState, Dead};
use crate::domain::event::{Event, EventId, Timestamp};
use crate::storage::ConsumerChange;

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Stored,
    /// Not stored: the writer has too much to do.
    NotSent,
    /// Stored or not, nobody knows.
    Failed,
    /// Not stored, and never to be.
    Void,
}

/// What follows from the end of a transaction.
pub enum Saved {
    /// Its machine has given way to another: nothing is left to do about it.
    Outdated,
    Stored {
        generation: u64,
        dead: Vec<Dead<Event>>,
        has_renewed: bool,
    },
    /// Another node holds the lease, or an operator has moved the consumer.
    Moved,
    /// To be stored once more, after a while.
    Again {
        generation: u64,
    },
}

/// Changes in a transaction.
#[derive(Debug)]
pub(super) struct Saving {
    changes: Changes<Event>,
    /// Of the machine that has made them.
    generation: u64,
    epoch: i64,
}

impl Saving {
    /// Whether it says how this event ended, one that is dead or was made anew.
    pub(super) fn ends(&self, id: EventId) -> bool {
        self.changes.dead.iter().any(|dead| dead.id == id)
            || self.changes.renewed.iter().any(|(renewed, _)| *renewed == id)
    }
}

impl Consumer {
    /// Answers what is stored; returns how many.
    pub fn tell_stored(&mut self) -> usize {
        let Some(holder) = self.lease.holder() else { return 0 };
        self.answers.tell_stored(&self.name, holder.state.stored())
    }

    /// Whether something is to be stored now: what cannot wait or, if `all`, anything.
    pub fn has_to_save(&self, all: bool) -> bool {
        let is_due = |state: &ConsumerState<Event>| state.has_changes() || all && state.is_dirty();
        self.writes.is_idle() && self.state().is_some_and(is_due)
    }

    /// What is to be stored, until [`Self::saved`].
    pub fn begin_save(&mut self, now: Timestamp) -> Option<ConsumerChange> {
        let holder = self.lease.holder_mut().filter(|_| self.writes.is_idle())?;
        let (generation, epoch) = (holder.generation, holder.epoch);
        let changes = holder.state.take_changes();
        let change = change(&self.record, epoch, &changes, now);
        self.writes.push(Saving { changes, generation, epoch });
        self.writes.begin();
        Some(change)
    }

    /// The transaction has ended like this.
    pub fn saved(&mut self, end: End) -> Option<Saved> {
        let Saving { changes, generation, epoch } = self.writes.ended().pop()?;
        let Some(holder) = self.lease.holder_mut().filter(|holder| holder.generation == generation) else {
            return Some(Saved::Outdated);
        };
        Some(match end {
            End::Stored => {
                holder.confirm(&changes);
                self.writes.rest();
                Saved::Stored { generation, has_renewed: !changes.renewed.is_empty(), dead: changes.dead }
            }
            End::Void if epoch == holder.epoch && !self.is_asking => Saved::Moved,
            End::NotSent | End::Failed | End::Void => {
                // Stored or not: it is written once more, unless that is void. What is void in an epoch that has passed
                // may be good in the next one, if that is of this process too: the store is asked just now.
                holder.state.restore(changes);
                self.writes.rest();
                Saved::Again { generation }
            }
        })
    }

    /// It may be stored again. False if the machine has given way to another.
    pub fn rested(&mut self, generation: u64) -> bool {
        let is_same = self.holder_of(generation).is_some();
        if is_same {
            self.writes.rested();
        }
        is_same
    }

    /// Whether all is stored.
    pub fn is_saved(&self) -> bool {
        self.writes.under_way().is_empty() && self.state().is_none_or(|state| !state.is_dirty())
    }
}
