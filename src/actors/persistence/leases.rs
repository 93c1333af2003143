//! Leases of services and consumers. They belong to no transaction: where several processes share a store, a lease is a
//! lock of the writer's database session.

use actix::prelude::{Context, Handler};

use super::Persistence;
use super::messages::{AppendFailure, LeaseConsumers, LeaseService, ReleaseConsumer};
use crate::storage::{LeasedConsumer, LeasedService, StoreError, Writer};

impl Persistence {
    /// Does `work` on the writer at once, outside of any group.
    fn directly<T>(&mut self, work: impl FnOnce(&mut Writer) -> Result<T, StoreError>) -> Result<T, AppendFailure> {
        let _operation = self.parts.health.begin();
        let writer = self.watch.writer()?;
        work(writer).map_err(|error| self.watch.judge(error))
    }
}

impl Handler<LeaseService> for Persistence {
    type Result = Result<LeasedService, AppendFailure>;

    fn handle(&mut self, LeaseService(service): LeaseService, _: &mut Context<Self>) -> Self::Result {
        self.directly(|writer| writer.lease_service(service))
    }
}

impl Handler<LeaseConsumers> for Persistence {
    type Result = Result<Vec<LeasedConsumer>, AppendFailure>;

    fn handle(&mut self, LeaseConsumers(known): LeaseConsumers, _: &mut Context<Self>) -> Self::Result {
        // What the earlier state of a consumer has sent is stored before its marks are read for the next one.
        self.flush();
        self.directly(|writer| writer.lease_consumers(&known))
    }
}

impl Handler<ReleaseConsumer> for Persistence {
    type Result = ();

    fn handle(&mut self, ReleaseConsumer(service): ReleaseConsumer, _: &mut Context<Self>) -> Self::Result {
        // If this fails, the connection is closed, and the lease ends with it.
        let _ = self.directly(|writer| writer.release_consumer(service));
    }
}
