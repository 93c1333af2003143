//! The lease of a service, and the state with which its holder begins.

use std::collections::HashSet;
use std::time::Duration;

use actix::prelude::{ActorFuture, ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use futures_util::future::OptionFuture;

use super::Client;
use crate::actors::persistence::messages::{LeaseService, ReleaseLease};
use crate::actors::service_slot::Holding;
use crate::domain::breaker::BreakerSnapshot;
use crate::domain::event::Timestamp;
use crate::domain::lease::{Fence, Grant, Lease, Turn};
use crate::domain::work::WorkId;
use crate::storage::{LeasedService, Registered};

/// How long nothing is sent, so that what is under way ends and the lease can be handed over.
const SILENCE: Duration = Duration::from_secs(2);
/// How long it goes on sending, if that was not enough.
const NEXT_TRY: Duration = Duration::from_secs(30);

/// Whether another node is to have the lease, and waits for it.
#[derive(Debug, Default)]
pub(super) enum HandingOver {
    #[default]
    No,
    /// Nothing is sent since then.
    Since(Timestamp),
    /// The service answers too slowly: not before then.
    NotBefore(Timestamp),
}

impl HandingOver {
    /// Another node asks for the lease, or none does.
    fn asked(&mut self, is_wanted: bool, now: Timestamp) {
        match self {
            _ if !is_wanted => *self = Self::No,
            Self::No => *self = Self::Since(now),
            Self::Since(since) if now >= since.plus(SILENCE) => *self = Self::NotBefore(now.plus(NEXT_TRY)),
            Self::NotBefore(then) if now >= *then => *self = Self::Since(now),
            Self::Since(_) | Self::NotBefore(_) => {}
        }
    }

    /// Whether nothing is sent. A slow answer holds up the service for a bounded time.
    pub(super) fn is_silent(&self, now: Timestamp) -> bool {
        matches!(self, Self::Since(since) if now < since.plus(SILENCE))
    }
}

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

    /// Others of this node work for the service while it has the lease.
    fn show_lease(&self) {
        self.parts.slot.set_holding(self.fence().map(|fence| Holding { fence, term: self.term }));
    }

    /// Makes sure that no other node delivers to the service. Whoever has not held it goes on from what is stored:
    /// another may have changed it (CL-5).
    pub(super) fn ask_for_lease(&self, ctx: &mut Context<Self>) {
        ctx.spawn(self.lease_asked().map(|(), this, ctx| this.pump(ctx)));
    }

    /// The same; done when the answer is known, with the commands that other nodes have taken.
    pub(super) fn lease_asked(&self) -> impl ActorFuture<Self, Output = ()> + use<> {
        let ask = |service| self.parts.persistence.ask(LeaseService { service, lease: self.lease_name.clone() });
        let term = self.parts.cluster.generation();
        let asked = OptionFuture::from(self.kept.id().map(ask));
        asked.into_actor(self).map(move |answer, this, _| {
            // While the store is away nothing can be settled, so nothing is sent. The lease stays as it was.
            let Some(Ok(Ok(LeasedService { grant, state, commands }))) = answer else { return };
            this.term = term;
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
        self.show_lease();
        let is_wanted = matches!(grant, Grant::Kept { is_wanted: true, .. });
        self.handing_over.asked(is_wanted, self.clock.now());
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
        // A node that ends hands over what is done, whatever another service of it still waits for.
        let is_asked = matches!(self.handing_over, HandingOver::Since(_)) || !self.drained.is_empty();
        if !is_asked || !self.writes.is_empty() || self.kept.is_changed() {
            return;
        }
        // Whoever is persistence then may be another one: the fence is the same.
        if let Some(fence) = self.fence()
            && self.parts.persistence.tell(ReleaseLease(fence)).is_ok()
        {
            log::info!(service = self.name(); "lease of a service handed over");
            self.handing_over = HandingOver::No;
            self.lease = Lease::Follower;
            self.show_lease();
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
        let released = self.dispatcher.release();
        self.give_back(released);
        let under_way: HashSet<WorkId> = self.under_way().collect();
        self.claims.reset(|id| under_way.contains(&id));
        self.asks.give_up_calls(&mut self.dispatcher);
        self.parts.slot.take_handed();
        self.calls.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_over_holds_up_a_service_for_a_bounded_time() {
        let at = |seconds: u64| Timestamp(0).plus(Duration::from_secs(seconds));
        let mut handing_over = HandingOver::default();
        let mut silent = Vec::new();
        for second in 0..40 {
            handing_over.asked(true, at(second));
            silent.extend(handing_over.is_silent(at(second)).then_some(second));
        }
        assert_eq!(silent, [0, 1, 32, 33]);
        handing_over.asked(false, at(33));
        assert!(!handing_over.is_silent(at(33)));
    }
}
