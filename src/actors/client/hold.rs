//! Who delivers to a service, and the state it begins with.

use std::collections::HashSet;

use actix::prelude::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};

use super::Client;
use crate::actors::persistence::messages::HoldService;
use crate::domain::breaker::{BreakerSnapshot, BreakerState};
use crate::domain::work::WorkId;
use crate::storage::{Held, Hold, Registered};

impl Client {
    /// Whether it has begun just now.
    pub(super) fn begin_if_registered(&mut self) -> bool {
        let registered = self.parts.slot.registered().filter(|_| self.id.is_none());
        let begins = registered.is_some();
        registered.into_iter().for_each(|registered| self.begin(registered));
        begins
    }

    /// Begins with what the store has kept of the service.
    fn begin(&mut self, registered: Registered) {
        self.id = Some(registered.id);
        self.adopt(registered);
        self.claims.look_again();
    }

    /// Goes on from the state that is stored; nothing of its own is left.
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
        self.metrics.state(self.dispatcher.breaker().state());
        self.recovering = snapshot.is_some_and(|s| s.open_until.is_some());
        self.told = match self.dispatcher.breaker().state() {
            BreakerState::Open | BreakerState::ForcedOpen => BreakerState::Open,
            BreakerState::HalfOpen => BreakerState::HalfOpen,
            BreakerState::Closed | BreakerState::ForcedClosed => BreakerState::Closed,
        };
        self.pause = paused;
        self.stored = Some(stored);
    }

    /// Makes sure that no other process delivers to the service. Whoever has not held it goes on from what is stored:
    /// another may have changed it (CL-5).
    pub(super) fn hold(&self, ctx: &mut Context<Self>) {
        let Some(id) = self.id else { return };
        let answer = self.hold.send(HoldService(id));
        ctx.spawn(answer.into_actor(self).map(|answer, this, ctx| {
            // While the store is away nothing can be settled, and so nothing goes out; the hold itself is as it was.
            let Ok(Ok(Held { hold, state, commands })) = answer else { return };
            let is_held = hold != Hold::Elsewhere;
            let is_lost = this.is_held && !is_held;
            if is_lost || hold != Hold::Kept && this.stored.as_ref() != Some(&state) {
                this.adopt(state);
            }
            this.is_hold_in_doubt = false;
            if is_lost {
                // What it would have told or kept is for another to find out; who waits for it is told that it is not.
                this.is_changed = false;
                this.obeyed.clear();
            }
            if this.is_held != is_held || hold == Hold::Taken {
                log::debug!(service = this.name(), is_held; "hold on a service");
                this.is_held = is_held;
                let handed_back = this.dispatcher.hand_back();
                drop(handed_back);
                let under_way: HashSet<WorkId> = this.under_way().collect();
                this.claims.reset(|id| under_way.contains(&id));
            }
            this.obey_all(commands);
            this.pump(ctx);
        }));
    }
}
