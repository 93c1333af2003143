//! The changes of a consumer on their way to the store.

use super::Consumer;
use super::change::change;
use crate::domain::consumer::{Changes, ConsumerState, Dead};
use crate::domain::event::{Event, EventId, Timestamp};
use crate::storage::ConsumerChange;

/// How a transaction has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Stored,
    /// Not stored, since the writer's mailbox was full or the writer absent.
    NotSent,
    /// Stored or not: that is unknown.
    Failed,
    /// Not stored, since the fencing epoch has passed.
    Void,
}

/// What follows from the end of a transaction.
pub enum Saved {
    /// The state was replaced meanwhile, so nothing is left to do.
    Outdated,
    Stored {
        generation: u64,
        dead: Vec<Dead<Event>>,
        has_renewed: bool,
    },
    /// Another node holds the lease, or an operator has moved the consumer.
    Moved,
    /// The changes are to be stored again after a pause.
    Again {
        generation: u64,
    },
}

/// Changes in a transaction.
#[derive(Debug)]
pub(super) struct Saving {
    changes: Changes<Event>,
    /// The number of the state that has made them.
    generation: u64,
    epoch: i64,
}

impl Saving {
    /// Whether it stores the end of this event, as a dead letter or a reopened one.
    pub(super) fn ends(&self, id: EventId) -> bool {
        self.changes.dead.iter().any(|dead| dead.id == id)
            || self.changes.renewed.iter().any(|(renewed, _)| *renewed == id)
    }
}

impl Consumer {
    /// Sends the answers whose changes are stored. Returns how many.
    pub fn tell_stored(&mut self) -> usize {
        let Some(holder) = self.lease.holder() else { return 0 };
        self.answers.tell_stored(&self.name, holder.state.stored())
    }

    /// Whether a write is due: for what cannot wait or, with `all`, for any change.
    pub fn has_to_save(&self, all: bool) -> bool {
        let is_due = |state: &ConsumerState<Event>| state.has_changes() || all && state.is_dirty();
        self.writes.is_idle() && self.state().is_some_and(is_due)
    }

    /// Begins a write, which ends with [`Self::saved`].
    pub fn begin_save(&mut self, now: Timestamp) -> Option<ConsumerChange> {
        let holder = self.lease.holder_mut().filter(|_| self.writes.is_idle())?;
        let (generation, epoch) = (holder.generation, holder.epoch);
        let changes = holder.state.take_changes();
        let change = change(&self.record, epoch, &changes, now);
        self.writes.push(Saving { changes, generation, epoch });
        self.writes.begin();
        Some(change)
    }

    /// Takes the end of the transaction.
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
                // Whether they were stored or not, the changes are written again. What is void in a passed epoch may be
                // valid in the next one, if this process holds that too; persistence is just being asked.
                holder.state.restore(changes);
                self.writes.rest();
                Saved::Again { generation }
            }
        })
    }

    /// The pause is over. False if the state was replaced meanwhile.
    pub fn rested(&mut self, generation: u64) -> bool {
        let is_same = self.holder_of(generation).is_some();
        if is_same {
            self.writes.rested();
        }
        is_same
    }

    /// Whether all changes are stored.
    pub fn is_saved(&self) -> bool {
        self.writes.under_way().is_empty() && self.state().is_none_or(|state| !state.is_dirty())
    }
}
