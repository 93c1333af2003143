//! Leases of services and of durable subscriptions. They are no writes of a group: where several processes share a store,
//! a lease is a lock of the writer's session, which no transaction takes or gives up.

use actix::prelude::{Context, Handler};

use super::Persistence;
use super::messages::{AppendFailure, HoldDurables, HoldService, ReleaseDurable};
use crate::storage::{Held, HeldDurable, StoreError, Writer};

impl Persistence {
    /// Does `work` on the writer at once, outside of any group.
    fn directly<T>(&mut self, work: impl FnOnce(&mut Writer) -> Result<T, StoreError>) -> Result<T, AppendFailure> {
        let _operation = self.parts.health.begin();
        let writer = self.watch.writer()?;
        work(writer).map_err(|error| self.watch.judge(error))
    }
}

impl Handler<HoldService> for Persistence {
    type Result = Result<Held, AppendFailure>;

    fn handle(&mut self, HoldService(service): HoldService, _: &mut Context<Self>) -> Self::Result {
        self.directly(|writer| writer.hold(service))
    }
}

impl Handler<HoldDurables> for Persistence {
    type Result = Result<Vec<HeldDurable>, AppendFailure>;

    fn handle(&mut self, HoldDurables(known): HoldDurables, _: &mut Context<Self>) -> Self::Result {
        // What an earlier machine of one has sent is stored before its marks are read for the next one.
        self.flush();
        self.directly(|writer| writer.hold_durables(&known))
    }
}

impl Handler<ReleaseDurable> for Persistence {
    type Result = ();

    fn handle(&mut self, ReleaseDurable(service): ReleaseDurable, _: &mut Context<Self>) -> Self::Result {
        // If it fails, the connection is given up, and the lease with it.
        let _ = self.directly(|writer| writer.release(service));
    }
}
