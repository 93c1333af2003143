//! The lease of a service, and the state with which its holder begins.

use std::collections::HashSet;

use actix::prelude::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};

use super::Client;
use crate::actors::persistence::messages::LeaseService;
use crate::domain::breaker::BreakerSnapshot;
use crate::domain::lease::{Grant, Lease, Turn};
use crate::domain::work::WorkId;
use crate::storage::{LeasedService, Registered};

impl Client {
    /// Begins with the state of the service, if the store knows the service only now. Returns whether that is so.
    pub(super) fn begin_if_registered(&mut self) -> bool {
        let registered = self.parts.slot.registered().filter(|_| self.kept.id().is_none());
        let begins = registered.is_some();
        if let Some(registered) = registered {
            self.adopt(registered);
            self.claims.look_again();
        }
        begins
    }

    /// Continues with the stored state, and drops its own.
    fn adopt(&mut self, stored: Registered) {
        let Registered { paused, breaker, .. } = stored.clone();
        self.parts.slot.keep(paused.clone(), breaker.clone());
        let snapshot: Option<BreakerSnapshot> = breaker.and_then(|json| serde_json::from_str(&json).ok());
        self.dispatcher.replace_breaker(snapshot.map(|s| s.on_clock_ahead(self.clock.lead())), self.clock.now());
        if paused.is_some() {
            self.dispatcher.pause();
        } else {
            self.dispatcher.resume();
        }
        let state = self.dispatcher.breaker().state();
        self.metrics.state(state);
        self.told.adopt(state, snapshot.is_some_and(|s| s.open_until.is_some()));
        self.kept.adopt(stored);
    }

    /// Asks for the lease. A process that did not hold it continues with the stored state, since another process may
    /// have changed it (CL-5).
    pub(super) fn ask_for_lease(&self, ctx: &mut Context<Self>) {
        let Some(id) = self.kept.id() else { return };
        let answer = self.parts.persistence.ask(LeaseService(id));
        ctx.spawn(answer.into_actor(self).map(|answer, this, ctx| {
            // While the store is away nothing can be settled, so nothing is sent. The lease stays as it was.
            let Ok(Ok(LeasedService { grant, state, commands })) = answer else { return };
            this.granted(grant, state);
            this.apply_all(commands);
            this.pump(ctx);
        }));
    }

    fn granted(&mut self, grant: Grant, stored: Registered) {
        let turn = self.lease.turn(grant);
        if turn == Turn::Lost || grant != Grant::Kept && self.kept.differs_from(&stored) {
            self.adopt(stored);
        }
        self.lease = Lease::of(grant);
        if turn == Turn::Lost {
            self.kept.void();
        }
        match turn {
            Turn::Kept | Turn::Elsewhere => {}
            Turn::Regained | Turn::Gained | Turn::Lost => {
                log::debug!(service = self.name(), is_held = self.lease.is_held(); "lease of a service");
                // The deliveries in hand are in the store.
                drop(self.dispatcher.release());
                let under_way: HashSet<WorkId> = self.under_way().collect();
                self.claims.reset(|id| under_way.contains(&id));
            }
        }
    }
}
