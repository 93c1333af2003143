//! Memberships and leases: what nodes ask for outside of any group, and what persistence itself holds.

use actix::prelude::{Context, Handler};

use super::Persistence;
use super::messages::{
    AppendFailure, BeatMembership, LeaseConsumers, LeaseFollower, LeaseService, LeaveNodes, ReleaseLease,
};
use crate::actors::clock;
use crate::actors::cluster::Cluster;
use crate::domain::lease::{Fence, Grant, LeaseName};
use crate::domain::placement::Placement;
use crate::storage::{BeatAnswer, LeasedConsumer, LeasedFollower, LeasedService, Seeker, StoreError, Writer};

/// What persistence does for all nodes while it has the lease.
#[derive(Debug)]
pub struct Duties {
    /// Appends what is due.
    pub schedules: Duty,
    /// Goes on with replays and redrives.
    pub jobs: Duty,
    /// Removes what is no longer kept.
    pub retention: Duty,
}

/// One of them.
#[derive(Debug)]
pub struct Duty {
    lease: LeaseName,
    fence: Option<Fence>,
    /// The generation of this node's membership to which the lease was granted.
    term: i64,
}

impl Duty {
    fn of(lease: LeaseName) -> Self {
        Self { lease, fence: None, term: 0 }
    }

    /// What its writes carry; none if another node does it.
    pub fn fence(&self, cluster: &Cluster) -> Option<&Fence> {
        self.fence.as_ref().filter(|_| cluster.may_act_in(self.term))
    }
}

impl Default for Duties {
    fn default() -> Self {
        Self {
            schedules: Duty::of(LeaseName::schedules()),
            jobs: Duty::of(LeaseName::jobs()),
            retention: Duty::of(LeaseName::retention()),
        }
    }
}

impl Duties {
    /// Asks for the leases. Nothing is under way between two commits: what another node is to have is released at once.
    pub fn ask(&mut self, writer: &mut Writer, seeker: Seeker<'_>) -> Result<(), StoreError> {
        let mut duties = [&mut self.schedules, &mut self.jobs, &mut self.retention];
        let names = duties.each_ref().map(|duty| duty.lease.clone());
        let term = seeker.term.map_or(0, |term| term.generation);
        let grants = writer.lease(&names, seeker)?;
        for (duty, grant) in duties.iter_mut().zip(grants) {
            let held = grant.generation().map(|generation| Fence { lease: duty.lease.clone(), generation });
            let is_wanted = matches!(grant, Grant::Kept { is_wanted: true, .. });
            if let Some(fence) = held.as_ref().filter(|_| is_wanted) {
                writer.release(fence)?;
            }
            duty.fence = held.filter(|_| !is_wanted);
            duty.term = term;
        }
        Ok(())
    }
}

/// Who asks, on behalf of this node.
pub fn seeker<'a>(cluster: &'a Cluster, placement: &'a mut Placement) -> Seeker<'a> {
    Seeker { node: cluster.name(), term: cluster.view().term, placement, now: clock::steady() }
}

impl Persistence {
    /// Does `work` on the writer at once, outside of any group.
    fn directly<T>(&mut self, work: impl FnOnce(&mut Writer) -> Result<T, StoreError>) -> Result<T, AppendFailure> {
        let _operation = self.parts.health.begin();
        let writer = self.watch.writer()?;
        work(writer).map_err(|error| self.watch.judge(error))
    }

    /// The same for what asks for leases.
    fn seek<T>(
        &mut self,
        work: impl FnOnce(&mut Writer, Seeker<'_>) -> Result<T, StoreError>,
    ) -> Result<T, AppendFailure> {
        let cluster = self.parts.cluster.clone();
        let mut placement = std::mem::take(&mut self.placement);
        let done = self.directly(|writer| work(writer, seeker(&cluster, &mut placement)));
        self.placement = placement;
        done
    }
}

impl Handler<BeatMembership> for Persistence {
    type Result = Result<BeatAnswer, AppendFailure>;

    fn handle(&mut self, BeatMembership { status, beat }: BeatMembership, _: &mut Context<Self>) -> Self::Result {
        self.directly(|writer| writer.beat(&status, beat))
    }
}

impl Handler<LeaveNodes> for Persistence {
    type Result = ();

    fn handle(&mut self, LeaveNodes { name, generation }: LeaveNodes, _: &mut Context<Self>) -> Self::Result {
        // What they had asked for is stored before anybody else acts.
        self.flush();
        // If it fails, the membership ends by itself.
        let _ = self.directly(|writer| writer.leave(&name, generation));
    }
}

impl Handler<LeaseService> for Persistence {
    type Result = Result<LeasedService, AppendFailure>;

    fn handle(&mut self, LeaseService { service, lease }: LeaseService, _: &mut Context<Self>) -> Self::Result {
        let leased = self.seek(|writer, seeker| writer.lease_service(service, &lease, seeker))?;
        let is_alone = !self.parts.cluster.has_others();
        self.at_writer(|registry, writer| registry.count(writer, service, leased.grant.generation(), is_alone));
        Ok(leased)
    }
}

impl Handler<LeaseConsumers> for Persistence {
    type Result = Result<Vec<LeasedConsumer>, AppendFailure>;

    fn handle(&mut self, LeaseConsumers(known): LeaseConsumers, _: &mut Context<Self>) -> Self::Result {
        // What the earlier state of a consumer has sent is stored before its marks are read for the next one.
        self.flush();
        self.seek(|writer, seeker| writer.lease_consumers(&known, seeker))
    }
}

impl Handler<LeaseFollower> for Persistence {
    type Result = Result<LeasedFollower, AppendFailure>;

    fn handle(&mut self, LeaseFollower { lease, position }: LeaseFollower, _: &mut Context<Self>) -> Self::Result {
        // What it has sent before is stored before its position is read.
        self.flush();
        self.seek(|writer, seeker| writer.lease_follower(&lease, &position, seeker))
    }
}

impl Handler<ReleaseLease> for Persistence {
    type Result = ();

    fn handle(&mut self, ReleaseLease(fence): ReleaseLease, _: &mut Context<Self>) -> Self::Result {
        // What its holder has sent before is stored before another acts.
        self.flush();
        // If it fails, the lease ends with the membership.
        let _ = self.directly(|writer| writer.release(&fence));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::cluster::View;
    use crate::domain::event::Timestamp;
    use crate::domain::membership::Term;

    #[test]
    fn a_duty_is_done_only_in_the_membership_to_which_it_was_granted() {
        let cluster = Cluster::new("one");
        let member = |generation| {
            let term = Some(Term { generation, valid_until: Timestamp(i64::MAX), since: Timestamp(0) });
            cluster.set(View { term, nodes: Vec::new() });
        };
        let lease = LeaseName::retention();
        let duty = Duty { fence: Some(Fence { lease: lease.clone(), generation: 3 }), lease, term: 7 };
        member(7);
        assert!(duty.fence(&cluster).is_some());
        // Another node may have taken it before this one became a member again.
        member(8);
        assert!(duty.fence(&cluster).is_none());
    }
}
