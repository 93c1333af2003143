//! What a consumer has only while this node holds its lease.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::domain::consumer::{Changes, ConsumerState, HeldBy};
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::filter::Filter;
use crate::storage::Claimed;

/// How long members may be held up before they are told to acknowledge something.
const HELD_UP_QUIETLY: Duration = Duration::from_secs(2);

/// The state of the consumer, and the reads under way for it.
#[derive(Debug)]
pub struct Holder {
    pub(super) state: ConsumerState<Event>,
    /// The fencing epoch. Writes of an earlier epoch are void.
    pub(super) epoch: i64,
    /// Tells this state from earlier ones of the consumer on this node.
    pub(super) generation: u64,
    /// A page of the log is being read.
    pub(super) is_reading: bool,
    /// While the store is asked for reopened dead letters: those whose end was stored meanwhile.
    claiming: Option<BTreeSet<EventId>>,
    held_up: Option<HeldUp>,
}

/// Members have to acknowledge something before they get more.
#[derive(Debug, Clone, Copy)]
struct HeldUp {
    by: HeldBy,
    since: Timestamp,
    /// Deliveries and acknowledgements so far. Another number is another case.
    progress: u64,
    is_told: bool,
}

impl Holder {
    pub fn new(state: ConsumerState<Event>, epoch: i64, generation: u64) -> Self {
        Self { state, epoch, generation, is_reading: false, claiming: None, held_up: None }
    }

    /// Takes those of `events` for which there is room. They are all of its events up to `through`.
    pub fn take(&mut self, filter: Option<&Filter>, events: impl Iterator<Item = Event>, through: EventId) {
        for event in events {
            if filter.is_some_and(|filter| !filter.matches(&event.payload)) {
                continue;
            }
            if !self.state.has_room() {
                return;
            }
            let bytes = event.memory();
            self.state.take(event.id, event, bytes);
        }
        self.state.advance(through);
    }

    /// The store is asked for reopened dead letters. False if it is being asked already.
    pub fn begin_claim(&mut self) -> bool {
        let begins = self.claiming.is_none();
        self.claiming.get_or_insert_default();
        begins
    }

    /// Takes the answer of the store. An event that has ended meanwhile, or that `is_ending`, may be in it and is left
    /// out.
    pub fn end_claim(&mut self, claimed: Vec<Claimed>, is_ending: impl Fn(EventId) -> bool) {
        let ended = self.claiming.take().unwrap_or_default();
        for Claimed { event, attempts, .. } in claimed {
            let (id, bytes) = (event.id, event.memory());
            if !ended.contains(&id) && !is_ending(id) {
                self.state.renew(id, event, bytes, attempts);
            }
        }
    }

    /// These changes are stored.
    pub fn confirm(&mut self, changes: &Changes<Event>) {
        self.state.confirm(changes.revision);
        if let Some(ended) = &mut self.claiming {
            let renewed = changes.renewed.iter().map(|(id, _)| *id);
            ended.extend(renewed.chain(changes.dead.iter().map(|dead| dead.id)));
        }
    }

    /// Notes whether members are held up, and returns by what if it is time to tell them. `has_more`: see
    /// [`ConsumerState::held_by`].
    pub fn see_held_up(&mut self, has_more: bool, progress: u64, now: Timestamp) -> Option<HeldBy> {
        let by = self.state.held_by(has_more);
        let known = self.held_up.filter(|known| Some(known.by) == by && known.progress == progress);
        self.held_up = by.map(|by| known.unwrap_or(HeldUp { by, since: now, progress, is_told: false }));
        let held_up = self.held_up.as_mut().filter(|held| !held.is_told && now.since(held.since) >= HELD_UP_QUIETLY)?;
        held_up.is_told = true;
        Some(held_up.by)
    }

    /// The bound that holds up the members, as of the last look.
    pub fn held_by(&self) -> Option<HeldBy> {
        self.held_up.map(|held_up| held_up.by)
    }
}
