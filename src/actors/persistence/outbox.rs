//! The outbox at the writer: routes, figures of services, schedules and jobs.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::{ActorFutureExt as _, AsyncContext as _, Context, Handler};
use tokio::sync::Notify;

use super::Persistence;
use super::messages::{
    AlterDurable, Alteration, AppendFailure, CancelJob, CancelSchedule, HoldDurables, HoldService, OpenDurable,
    ReleaseDurable, Revoke, SettleDeliveries, SettleOrphans, StartJob,
};
use crate::actors::clock::now;
use crate::actors::service_slot::{ServiceSlot, ServiceSlots};
use crate::config::StartFrom;
use crate::domain::event::Timestamp;
use crate::domain::priority::Lane;
use crate::domain::routes::{Routes, ServiceId};
use crate::storage::{
    Committed, Group, Held, HeldDurable, NewService, Orphan, Renewed, Settled, Settling, Shifted, StoreError, Writer,
};

/// Schedules appended in one transaction.
const SCHEDULES_AT_ONCE: usize = 500;

/// What persistence knows of services and of what is due.
pub struct Outbox {
    slots: ServiceSlots,
    /// Told of dead letters of durable subscriptions that were made anew.
    durables: Arc<Notify>,
    routes: Option<Routes>,
    /// Nothing is due before this; `None`: nothing is scheduled.
    next_schedule: Option<Timestamp>,
    /// A commit failed, and may be stored all the same: the figures are to be counted anew.
    is_in_doubt: bool,
    has_told_of_orphans: bool,
}

/// What a group settles for good: service, lane, whether it is dead.
type SettledForGood = Vec<(ServiceId, Lane, bool)>;

impl Outbox {
    pub fn new(slots: ServiceSlots, durables: Arc<Notify>) -> Self {
        Self { slots, durables, routes: None, next_schedule: None, is_in_doubt: false, has_told_of_orphans: false }
    }

    /// Where events go; `None` before [`Self::register`].
    pub fn routes(&self) -> Option<&Routes> {
        self.routes.as_ref()
    }

    /// Gives the services their numbers, counts what waits for them, and lets new ones begin where they want to.
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
            slot.set(&writer.pending(known.id)?);
            slot.register(known);
        }
        self.tell_of_orphans(writer)?;
        self.next_schedule = writer.next_schedule()?;
        self.routes = Some(Routes::new(self.slots.iter().filter_map(|slot| slot.route()).collect()));
        Ok(())
    }

    /// Warns of open deliveries that nobody makes, once.
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

    /// How many schedules may be appended now: none if none is due.
    pub fn due_schedules(&self, now: Timestamp) -> usize {
        if self.next_schedule.is_some_and(|due| due <= now) { SCHEDULES_AT_ONCE } else { 0 }
    }

    /// How long deliveries to each service may wait.
    pub fn longest_waits(&self) -> Vec<(ServiceId, Duration)> {
        self.slots.iter().filter_map(|slot| Some((slot.id()?, slot.longest_wait))).collect()
    }

    /// Remembers when what `group` schedules is due.
    pub fn note(&mut self, group: &Group) {
        let earliest = group.appends.iter().filter_map(|append| Some(append.schedule?.due_at)).min();
        self.next_schedule = self.next_schedule.into_iter().chain(earliest).min();
    }

    /// What is no longer open once `group` is committed.
    pub fn settled(&self, group: &Group) -> SettledForGood {
        let renewed = group.durables.iter().flat_map(|change| &change.renewed);
        let for_good = group.settlements.iter().chain(renewed).filter(|s| !matches!(s.settled, Settled::Retry(_)));
        for_good.map(|s| (s.service, s.lane, matches!(s.settled, Settled::Dead(_)))).collect()
    }

    /// Keeps the figures, and wakes the services that have something new. Whether a job may have room to go on.
    pub fn committed(&mut self, committed: &Committed, settled: &SettledForGood) -> bool {
        /// Half of what jobs may have open at a time: so they need not wait, nor step for each delivery.
        const ROOM: i64 = 128;
        for (service, lanes) in &committed.enqueued {
            let Some(slot) = self.slot(*service) else { continue };
            for lane in Lane::ALL {
                slot.add(lane, i64::from(lanes[lane.index()]));
            }
            slot.wake();
        }
        let mut has_room = false;
        for (service, lane, is_dead) in settled {
            let Some(slot) = self.slot(*service) else {
                // A durable subscription: its dead letters are made anew as fast as they are settled.
                has_room |= *lane == Lane::Replay;
                continue;
            };
            if committed.has_settled_all {
                slot.add(*lane, -1);
                slot.add_dead(i64::from(*is_dead));
            }
            has_room |= *lane == Lane::Replay && slot.pending()[Lane::Replay.index()] <= ROOM;
        }
        // Else some were settled before, by a transaction that was not confirmed or by another process.
        self.is_in_doubt |= !committed.has_settled_all;
        has_room
    }

    /// A commit was not confirmed.
    pub fn doubt(&mut self) {
        self.is_in_doubt = true;
    }

    /// What was appended because it was due is scheduled no more.
    pub fn took_schedules(&mut self, writer: &mut Writer) -> Result<(), StoreError> {
        self.next_schedule = writer.next_schedule()?;
        Ok(())
    }

    /// The store works: counts what is in doubt.
    pub fn resolve_doubt(&mut self, writer: &mut Writer) -> Result<(), StoreError> {
        if self.is_in_doubt {
            for slot in self.slots.iter() {
                let Some(id) = slot.id() else { continue };
                slot.set(&writer.pending(id)?);
                slot.wake_for_renewed();
            }
            self.is_in_doubt = false;
        }
        Ok(())
    }

    /// Other processes may have added something.
    pub fn wake_all(&self) {
        self.slots.iter().for_each(|slot| slot.wake_for_renewed());
    }

    /// One small step of each job; true when more is due.
    pub fn housekeeping(&mut self, writer: &mut Writer, now: Timestamp) -> Result<bool, StoreError> {
        self.next_schedule = writer.next_schedule()?;
        let Some(routes) = &self.routes else { return Ok(false) };
        let steps = writer.step_jobs(routes, now)?;
        for (service, Renewed { open, dead }) in steps.iter().filter(|(_, renewed)| renewed.open > 0) {
            let Some(slot) = self.slot(*service) else {
                self.durables.notify_one();
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

impl Persistence {
    /// Does `work` on the writer at once, outside of any group.
    fn directly<T>(&mut self, work: impl FnOnce(&mut Writer) -> Result<T, StoreError>) -> Result<T, AppendFailure> {
        let _operation = self.parts.health.begin();
        let writer = self.watch.writer()?;
        work(writer).map_err(|error| self.watch.judge(error))
    }
}

impl Handler<SettleDeliveries> for Persistence {
    type Result = ();

    fn handle(&mut self, message: SettleDeliveries, ctx: &mut Context<Self>) {
        self.waiting.settle(message);
        self.join(ctx);
    }
}

impl Handler<CancelSchedule> for Persistence {
    type Result = Result<bool, AppendFailure>;

    fn handle(&mut self, CancelSchedule(id): CancelSchedule, _: &mut Context<Self>) -> Self::Result {
        self.directly(|writer| writer.cancel_schedule(id))
    }
}

impl Handler<Revoke> for Persistence {
    type Result = Result<bool, AppendFailure>;

    fn handle(&mut self, Revoke { who, is_revoked }: Revoke, _: &mut Context<Self>) -> Self::Result {
        self.directly(|writer| writer.revoke(&who, is_revoked, now()))
    }
}

impl Handler<HoldService> for Persistence {
    type Result = Result<Held, AppendFailure>;

    fn handle(&mut self, HoldService(service): HoldService, _: &mut Context<Self>) -> Self::Result {
        self.directly(|writer| writer.hold(service))
    }
}

impl Handler<OpenDurable> for Persistence {
    type Result = Result<Option<HeldDurable>, AppendFailure>;

    fn handle(&mut self, OpenDurable { new, max }: OpenDurable, _: &mut Context<Self>) -> Self::Result {
        // What an earlier machine of it has sent is stored before its marks are read for the next one.
        self.flush();
        self.directly(|writer| match writer.open_durable(&new, max, now())? {
            Some(record) => writer.hold_durable(record.service),
            None => Ok(None),
        })
    }
}

impl Handler<HoldDurables> for Persistence {
    type Result = Result<Vec<HeldDurable>, AppendFailure>;

    fn handle(&mut self, HoldDurables(known): HoldDurables, _: &mut Context<Self>) -> Self::Result {
        self.flush();
        self.directly(|writer| writer.hold_durables(&known))
    }
}

impl Handler<ReleaseDurable> for Persistence {
    type Result = ();

    fn handle(&mut self, ReleaseDurable(service): ReleaseDurable, _: &mut Context<Self>) -> Self::Result {
        // If it fails the connection is given up, and the lease with it.
        let _ = self.directly(|writer| writer.release(service));
    }
}

impl Handler<AlterDurable> for Persistence {
    type Result = Result<bool, AppendFailure>;

    fn handle(&mut self, AlterDurable { name, alteration }: AlterDurable, _: &mut Context<Self>) -> Self::Result {
        self.directly(|writer| match &alteration {
            Alteration::Policy(policy) => writer.set_durable_policy(&name, policy),
            Alteration::Seek(floor) => writer.seek_durable(&name, *floor),
            Alteration::Delete => writer.delete_durable(&name),
        })
    }
}

impl Handler<SettleOrphans> for Persistence {
    type Result = Result<Shifted, AppendFailure>;

    fn handle(&mut self, SettleOrphans { from, settling }: SettleOrphans, _: &mut Context<Self>) -> Self::Result {
        let shifted = self.directly(|writer| writer.settle_orphans(from, settling, now()))?;
        if let Settling::MoveTo(to) = settling
            && let Some(slot) = self.outbox.slot(to)
        {
            Lane::ALL.into_iter().for_each(|lane| slot.add(lane, shifted.open[lane.index()]));
            slot.add_dead(shifted.dead);
            slot.wake_for_renewed();
        }
        Ok(shifted)
    }
}

impl Handler<StartJob> for Persistence {
    type Result = Result<i64, AppendFailure>;

    fn handle(&mut self, StartJob(job): StartJob, ctx: &mut Context<Self>) -> Self::Result {
        let id = self.directly(|writer| writer.create_job(&job, now()))?;
        self.next_housekeeping = std::time::Instant::now();
        ctx.spawn(actix::fut::ready(()).map(|(), this: &mut Self, _| this.flush()));
        Ok(id)
    }
}

impl Handler<CancelJob> for Persistence {
    type Result = Result<bool, AppendFailure>;

    fn handle(&mut self, CancelJob(id): CancelJob, _: &mut Context<Self>) -> Self::Result {
        self.directly(|writer| writer.cancel_job(id, now()))
    }
}
