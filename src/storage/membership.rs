//! What a node asks of the store as one of several: its membership, and its leases. None of it is a write of a group: a
//! membership that is renewed late is lost, and a lease is taken in a transaction of its own.

use crate::domain::lease::{Fence, Grant, LeaseName};
use crate::domain::membership::Beat;
use crate::domain::routes::ServiceId;

use super::consumers::{self, KnownConsumer, LeasedConsumer};
use super::error::StoreError;
use super::followers::{self, LeasedFollower};
use super::leases::{self, Seeker};
use super::nodes::{self, BeatAnswer, NodeStatus};
use super::outbox::{self, LeasedService};
use super::writer::Writer;

impl Writer {
    /// Joins, or renews a membership, and learns of the others.
    pub fn beat(&mut self, status: &NodeStatus, beat: Beat) -> Result<BeatAnswer, StoreError> {
        self.with(|connection| nodes::beat(connection, status, beat))
    }

    /// The node is no member of this generation any more: what it holds is free.
    pub fn leave(&mut self, name: &str, generation: i64) -> Result<(), StoreError> {
        self.with(|connection| nodes::leave(connection, name, generation))
    }

    /// Asks for leases; one answer for each, in order.
    pub fn lease(&mut self, names: &[LeaseName], seeker: Seeker<'_>) -> Result<Vec<Grant>, StoreError> {
        self.with(|connection| leases::lease(connection, names, seeker))
    }

    /// Asks for the lease of a service, and reads its state.
    pub fn lease_service(
        &mut self,
        service: ServiceId,
        lease: &LeaseName,
        seeker: Seeker<'_>,
    ) -> Result<LeasedService, StoreError> {
        self.with(|connection| {
            let grants = leases::lease(connection, std::slice::from_ref(lease), seeker)?;
            outbox::leased(connection, service, grants[0])
        })
    }

    /// Asks for the leases of consumers. Those that were deleted are left out of the answer.
    pub fn lease_consumers(
        &mut self,
        known: &[KnownConsumer],
        seeker: Seeker<'_>,
    ) -> Result<Vec<LeasedConsumer>, StoreError> {
        self.with(|connection| {
            let names: Vec<LeaseName> = known.iter().map(|known| known.lease.clone()).collect();
            let term = seeker.term.map_or(0, |term| term.generation);
            let grants = leases::lease(connection, &names, seeker)?;
            consumers::leased(connection, known, &grants, term)
        })
    }

    /// Asks for the lease of the follower of a log, whose position has this name, and reads that.
    pub fn lease_follower(
        &mut self,
        lease: &LeaseName,
        name: &str,
        seeker: Seeker<'_>,
    ) -> Result<LeasedFollower, StoreError> {
        self.with(|connection| {
            let grant = leases::lease(connection, std::slice::from_ref(lease), seeker)?[0];
            Ok(LeasedFollower { grant, position: followers::position(connection, name)? })
        })
    }

    /// Has another node take a lease that this one holds, and writes nothing for any more.
    pub fn release(&mut self, fence: &Fence) -> Result<(), StoreError> {
        self.with(|connection| leases::release(connection, fence))
    }
}
