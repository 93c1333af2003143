//! What persistence knows of the services: their routes, the numbers of their deliveries, and when schedules are due.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::actors::call_ends::CallEnds;
use crate::actors::clock;
use crate::actors::service_slot::{ServiceSlot, ServiceSlots};
use crate::config::StartFrom;
use crate::domain::call::CallId;
use crate::domain::event::Timestamp;
use crate::domain::lease::Fence;
use crate::domain::priority::Lane;
use crate::domain::routes::{Routes, ServiceId};
use crate::storage::{
    CallSettled, Committed, DeliveryOutcome, NewCall, NewService, Orphan, OrphanAction, OrphansSettled, Outcome,
    Renewed, Settled, StoreError, Write, Writer,
};

/// Most schedules that are appended in one transaction.
const SCHEDULES_AT_ONCE: usize = 500;

/// See the module.
pub struct ServiceRegistry {
    slots: ServiceSlots,
    /// Notified when dead letters of consumers were reopened.
    renewed: Arc<Notify>,
    call_ends: Arc<CallEnds>,
    routes: Option<Routes>,
    /// When the next schedule is due; `None` if nothing is scheduled.
    next_schedule: Option<Timestamp>,
    /// The services whose leases this node holds.
    counted: HashMap<ServiceId, Counted>,
    /// A commit failed, and may be stored all the same: the figures are to be counted anew.
    is_in_doubt: bool,
    has_told_of_orphans: bool,
}

/// The last count of what is to be delivered to a service.
struct Counted {
    /// That of the lease.
    generation: i64,
    /// Other nodes have committed something since.
    is_stale: bool,
    /// Not again before this.
    next: Instant,
}

impl ServiceRegistry {
    pub fn new(slots: ServiceSlots, renewed: Arc<Notify>, call_ends: Arc<CallEnds>) -> Self {
        Self {
            slots,
            renewed,
            call_ends,
            routes: None,
            next_schedule: None,
            counted: HashMap::new(),
            is_in_doubt: false,
            has_told_of_orphans: false,
        }
    }

    /// Where events are delivered; `None` before [`Self::register`].
    pub fn routes(&self) -> Option<&Routes> {
        self.routes.as_ref()
    }

    /// Gives the services their numbers, and lets new ones begin where they want to.
    pub fn register(&mut self, writer: &mut Writer, now: Timestamp) -> Result<(), StoreError> {
        let service = |slot: &Arc<ServiceSlot>| NewService {
            name: slot.name.clone(),
            patterns: slot.selectors.iter().map(|selector| selector.event.clone()).collect(),
            start_from: match slot.start_from {
                StartFrom::Now => None,
                StartFrom::Earliest => Some(1),
                StartFrom::Id(id) => Some(id),
            },
        };
        let services: Vec<_> = self.slots.iter().map(service).collect();
        let registered = if services.is_empty() { Vec::new() } else { writer.register(&services, now)? };
        for (slot, known) in self.slots.iter().zip(registered) {
            slot.register(known);
        }
        self.tell_of_orphans(writer)?;
        self.next_schedule = writer.next_schedule()?;
        self.routes = Some(Routes::new(self.slots.iter().filter_map(|slot| slot.route()).collect()));
        Ok(())
    }

    /// Warns once of open deliveries to services that are not configured.
    fn tell_of_orphans(&mut self, writer: &mut Writer) -> Result<(), StoreError> {
        if !std::mem::replace(&mut self.has_told_of_orphans, true) {
            let configured: Vec<String> = self.slots.iter().map(|slot| slot.name.to_string()).collect();
            for Orphan { name, pending, .. } in writer.orphans(&configured)? {
                let (service, dead, pending) = (name.as_str(), pending.dead, pending.open());
                if pending == 0 {
                    continue;
                }
                log::warn!(service, pending, dead; "deliveries of a service that is not configured: move or cancel them by /admin/deliveries");
            }
        }
        Ok(())
    }

    /// How many schedules may be appended now; 0 if none is due.
    pub fn due_schedules(&self, now: Timestamp) -> usize {
        if self.next_schedule.is_some_and(|due| due <= now) { SCHEDULES_AT_ONCE } else { 0 }
    }

    /// How long deliveries to each service may wait.
    pub fn longest_waits(&self) -> Vec<(ServiceId, Duration)> {
        self.slots.iter().filter_map(|slot| Some((slot.id()?, slot.longest_wait))).collect()
    }

    /// Notes when the schedules in `writes` are due.
    pub fn note(&mut self, writes: &[Write]) {
        let earliest = writes.iter().filter_map(|write| Some(write.as_append()?.schedule?.due_at)).min();
        self.next_schedule = self.next_schedule.into_iter().chain(earliest).min();
    }

    /// Updates the numbers after a commit of `writes`, and wakes the services that have new deliveries. Returns whether
    /// a replay job may continue.
    pub fn committed(&mut self, writes: &[Write], committed: &Committed) -> bool {
        for (service, lanes) in &committed.enqueued {
            let Some(slot) = self.slot(*service) else { continue };
            for lane in Lane::ALL {
                slot.add(lane, i64::from(lanes[lane.index()]));
            }
            slot.wake();
        }
        let mut may_go_on = false;
        for (write, outcome) in writes.iter().zip(&committed.outcomes) {
            match (write, outcome) {
                (Write::Settle(delivery_outcomes), Outcome::Settled { were_all_open }) => {
                    may_go_on |= self.settled(delivery_outcomes, *were_all_open);
                    // Some deliveries were settled before. Which ones is found by counting.
                    self.is_in_doubt |= !were_all_open;
                }
                // Dead letters of consumers are reopened as fast as they are settled.
                (Write::ChangeConsumer(change), _) => may_go_on |= !change.renewed.is_empty(),
                (Write::SettleOrphans { action: OrphanAction::MoveTo(to), .. }, Outcome::OrphansSettled(shifted)) => {
                    self.moved(*to, shifted);
                }
                (Write::StartReplayJob(_), _) => may_go_on = true,
                (Write::MakeCalls(new), Outcome::Made(first)) => self.made(new, *first),
                (Write::SettleCalls(ended), Outcome::Saved)
                    if ended.iter().any(|call| matches!(call.settled, CallSettled::Ended { .. })) =>
                {
                    self.call_ends.set_stored();
                }
                (Write::HurryCalls { .. }, Outcome::Saved) => {
                    self.slots.iter().for_each(|slot| slot.wake_for_calls());
                }
                _ => {}
            }
        }
        may_go_on
    }

    /// Hands calls over to the clients of their services.
    fn made(&self, new: &[NewCall], first: CallId) {
        let now = clock::now();
        for slot in self.slots.iter() {
            let made = (first..).zip(new).filter(|(_, call)| slot.id() == Some(call.service));
            let mut made = made.map(|(id, call)| (id, call.clone())).peekable();
            if made.peek().is_some() {
                slot.hand_calls(made, now);
            }
        }
    }

    /// Subtracts settled deliveries from the open ones. Returns whether a replay job may have room to continue.
    fn settled(&self, delivery_outcomes: &[DeliveryOutcome], is_counted: bool) -> bool {
        /// Half of what replay jobs may have open at a time, so that they neither wait nor make a step for each
        /// delivery.
        const ROOM: i64 = 128;
        let mut has_room = false;
        for DeliveryOutcome { service, lane, settled, .. } in delivery_outcomes {
            let Some(slot) = self.slot(*service).filter(|_| !matches!(settled, Settled::Retry(_))) else { continue };
            if is_counted {
                slot.add(*lane, -1);
                slot.add_dead(i64::from(matches!(settled, Settled::Dead(_))));
            }
            has_room |= *lane == Lane::Replay && slot.pending()[Lane::Replay.index()] <= ROOM;
        }
        has_room
    }

    /// Adds deliveries that were moved from a service that is not configured.
    fn moved(&self, to: ServiceId, OrphansSettled { open, dead, .. }: &OrphansSettled) {
        let Some(slot) = self.slot(to) else { return };
        Lane::ALL.into_iter().for_each(|lane| slot.add(lane, open[lane.index()]));
        slot.add_dead(*dead);
        slot.wake_for_renewed();
    }

    /// Counts what is to be delivered to a service, if this node holds its lease in this generation: anew when it has just
    /// got it and, since other nodes add to it, now and then if it is not alone.
    pub fn count(
        &mut self,
        writer: &mut Writer,
        service: ServiceId,
        held: Option<i64>,
        is_alone: bool,
    ) -> Result<(), StoreError> {
        /// Counting takes a fiftieth of the time at most: the more there is, the longer it takes.
        const SHARE: u32 = 50;
        const INTERVAL: Duration = Duration::from_secs(1);
        let Some(slot) = self.slots.iter().find(|slot| slot.id() == Some(service)) else { return Ok(()) };
        let Some(generation) = held else {
            self.counted.remove(&service);
            slot.follow();
            return Ok(());
        };
        let begin = Instant::now();
        let known = self.counted.get(&service).filter(|known| known.generation == generation);
        if known.is_some_and(|known| is_alone && !known.is_stale || begin < known.next) {
            return Ok(());
        }
        slot.set(&writer.pending(service)?);
        slot.wake_for_renewed();
        slot.wake_for_calls();
        let next = Instant::now() + INTERVAL.max(begin.elapsed() * SHARE);
        self.counted.insert(service, Counted { generation, is_stale: false, next });
        Ok(())
    }

    /// Other nodes have committed something, perhaps deliveries.
    pub fn others_have_committed(&mut self) {
        self.counted.values_mut().for_each(|counted| counted.is_stale = true);
    }

    /// A commit was not confirmed.
    pub fn doubt(&mut self) {
        self.is_in_doubt = true;
    }

    /// The store works: counts what is in doubt.
    pub fn resolve_doubt(&mut self, writer: &mut Writer) -> Result<(), StoreError> {
        if self.is_in_doubt {
            for id in self.counted.keys() {
                let Some(slot) = self.slot(*id) else { continue };
                slot.set(&writer.pending(*id)?);
                slot.wake_for_renewed();
                slot.wake_for_calls();
            }
            self.call_ends.set_stored();
            self.is_in_doubt = false;
        }
        Ok(())
    }

    /// Other processes may have added deliveries.
    pub fn wake_all(&self) {
        self.slots.iter().for_each(|slot| slot.wake_for_renewed());
    }

    /// Other nodes may have scheduled something.
    pub fn look_at_schedules(&mut self, writer: &mut Writer) -> Result<(), StoreError> {
        self.next_schedule = writer.next_schedule()?;
        Ok(())
    }

    /// One small step of each job; true when more is due.
    pub fn step_jobs(&mut self, writer: &mut Writer, fence: &Fence, now: Timestamp) -> Result<bool, StoreError> {
        let Some(routes) = &self.routes else { return Ok(false) };
        let steps = writer.step_replay_jobs(fence, routes, now)?;
        for (service, Renewed { open, dead }) in steps.iter().filter(|(_, renewed)| renewed.open > 0) {
            let Some(slot) = self.slot(*service) else {
                self.renewed.notify_one();
                continue;
            };
            slot.add(Lane::Replay, *open);
            slot.add_dead(-dead);
            slot.wake_for_renewed();
        }
        Ok(!steps.is_empty())
    }

    fn slot(&self, service: ServiceId) -> Option<&ServiceSlot> {
        self.slots.iter().find(|slot| slot.id() == Some(service)).map(|slot| &**slot)
    }
}
