//! The lease of a service, and the state with which its holder begins.

use std::collections::HashSet;

use actix::prelude::{ActorFuture, ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use futures_util::future::OptionFuture;

use super::Client;
use crate::actors::persistence::messages::{LeaseService, ReleaseLease};
use crate::domain::breaker::BreakerSnapshot;
use crate::domain::lease::{Fence, Grant, Lease, Turn};
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
        self.told.adopt(state, snapshot.is_some_and(|s| s.open_until.is_some()));
        self.kept.adopt(stored);
    }

    /// What its writes carry, while it holds the lease.
    pub(super) fn fence(&self) -> Option<Fence> {
        let generation = self.lease.generation()?;
        Some(Fence { lease: self.lease_name.clone(), generation })
    }

    /// Makes sure that no other node delivers to the service. Whoever has not held it goes on from what is stored:
    /// another may have changed it (CL-5).
    pub(super) fn ask_for_lease(&self, ctx: &mut Context<Self>) {
        ctx.spawn(self.lease_asked().map(|(), this, ctx| this.pump(ctx)));
    }

    /// The same; done when the answer is known, with the commands that other nodes have taken.
    pub(super) fn lease_asked(&self) -> impl ActorFuture<Self, Output = ()> + use<> {
        let ask = |service| self.parts.persistence.ask(LeaseService { service, lease: self.lease_name.clone() });
        let asked = OptionFuture::from(self.kept.id().map(ask));
        asked.into_actor(self).map(|answer, this, _| {
            // While the store is away nothing can be settled, so nothing is sent. The lease stays as it was.
            let Some(Ok(Ok(LeasedService { grant, state, commands }))) = answer else { return };
            this.granted(grant, state);
            this.apply_all(commands);
        })
    }

    fn granted(&mut self, grant: Grant, stored: Registered) {
        let turn = self.lease.turn(grant);
        if turn == Turn::Lost || turn != Turn::Kept && self.kept.differs_from(&stored) {
            self.adopt(stored);
        }
        self.lease = Lease::of(grant);
        self.hands_over = matches!(grant, Grant::Kept { is_wanted: true, .. });
        self.observe_state();
        match turn {
            Turn::Kept | Turn::Elsewhere => {}
            Turn::Regained | Turn::Gained | Turn::Lost => {
                log::info!(service = self.name(), is_held = self.lease.is_held(); "lease of a service");
                self.begin_anew();
            }
        }
    }

    /// Hands the lease over to the node that is to have it, once nothing is under way and all is stored.
    pub(super) fn hand_over(&mut self) {
        if !self.hands_over || !self.writes.is_empty() || self.kept.is_changed() {
            return;
        }
        // Whoever is persistence then may be another one: the fence is the same.
        if let Some(fence) = self.fence()
            && self.parts.persistence.tell(ReleaseLease(fence)).is_ok()
        {
            log::info!(service = self.name(); "lease of a service handed over");
            self.hands_over = false;
            self.lease = Lease::Follower;
            self.observe_state();
            self.begin_anew();
        }
    }

    /// The store has what was in hand, and what was to be written of it is another's business.
    fn begin_anew(&mut self) {
        if !self.lease.is_held() {
            self.kept.void();
        }
        self.writes.void();
        drop(self.dispatcher.release());
        let under_way: HashSet<WorkId> = self.under_way().collect();
        self.claims.reset(|id| under_way.contains(&id));
    }
}
