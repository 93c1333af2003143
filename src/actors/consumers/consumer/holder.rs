//! What a consumer has only while this node holds its lease.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::domain::consumer::{Changes, ConsumerState, HeldBy};
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::filter::Filter;
use crate::storage::Claimed;

/// How long members may have to settle something before they are told that they have to.
const HELD_UP_QUIETLY: Duration = Duration::from_secs(2);

/// The machine, and what it waits for.
#[derive(Debug)]
pub struct Holder {
    pub(super) state: ConsumerState<Event>,
    /// Voids what was written with an earlier one.
    pub(super) epoch: i64,
    /// Distinguishes the machine from those before it on this node.
    pub(super) generation: u64,
    /// A page of the log is being read.
    pub(super) is_reading: bool,
    /// While the store is asked for events made anew: dead ones, and ones made anew, whose end was stored meanwhile.
    claiming: Option<BTreeSet<EventId>>,
    held_up: Option<HeldUp>,
}

/// Members have to settle something before they get more.
#[derive(Debug, Clone, Copy)]
struct HeldUp {
    by: HeldBy,
    since: Timestamp,
    /// Deliveries and acknowledgements so far: with another one it is a new case.
    progress: u64,
    is_told: bool,
}

impl Holder {
    pub fn new(state: ConsumerState<Event>, epoch: i64, generation: u64) -> Self {
        Self { state, epoch, generation, is_reading: false, claiming: None, held_up: None }
    }

    /// Takes those of `events` for which there is room; all of its events up to `through` are among them.
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

    /// The store is asked for events made anew. False if it is being asked.
    pub fn begin_claim(&mut self) -> bool {
        let begins = self.claiming.is_none();
        self.claiming.get_or_insert_default();
        begins
    }

    /// The store has answered. What has ended meanwhile, or `is_ending`, may be among it.
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

    /// Sees whether members have to settle something before they get more; whether it is time to tell them. `has_more`:
    /// as for [`ConsumerState::held_by`].
    pub fn see_held_up(&mut self, has_more: bool, progress: u64, now: Timestamp) -> Option<HeldBy> {
        let by = self.state.held_by(has_more);
        let known = self.held_up.filter(|known| Some(known.by) == by && known.progress == progress);
        self.held_up = by.map(|by| known.unwrap_or(HeldUp { by, since: now, progress, is_told: false }));
        let held_up = self.held_up.as_mut().filter(|held| !held.is_told && now.since(held.since) >= HELD_UP_QUIETLY)?;
        held_up.is_told = true;
        Some(held_up.by)
    }

    /// The bound that keeps members from getting more, as last seen.
    pub fn held_by(&self) -> Option<HeldBy> {
        self.held_up.map(|held_up| held_up.by)
    }
}
