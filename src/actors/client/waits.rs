//! Why a client sends nothing just now, and until when.

use std::time::Duration;

use actix::prelude::{AsyncContext as _, Context, SpawnHandle};

use super::{Client, MAX_UNSETTLED};
use crate::actors::clock;
use crate::domain::dispatch::BlockedBy;
use crate::domain::event::Timestamp;

/// See the module.
#[derive(Debug)]
pub(super) struct Waits {
    /// Why nothing is sent, as of the last look.
    why: BlockedBy,
    /// When to look again if nothing else happens.
    until: Option<Timestamp>,
    timer: Option<SpawnHandle>,
}

impl Default for Waits {
    fn default() -> Self {
        Self { why: BlockedBy::Empty, until: None, timer: None }
    }
}

impl Waits {
    /// Nothing is sent for this reason. Returns whether it is another reason than before.
    pub(super) fn see(&mut self, why: BlockedBy, until: Option<Timestamp>) -> bool {
        self.until = until;
        std::mem::replace(&mut self.why, why) != why
    }
}

impl Client {
    /// Sets the timer for `until`, or none.
    pub(super) fn set_timer(&mut self, until: Option<Timestamp>, ctx: &mut Context<Self>) {
        if let Some(timer) = self.waits.timer.take() {
            ctx.cancel_future(timer);
        }
        let wait = until.map(|until| until.since(self.clock.now()).max(Duration::from_millis(1)));
        self.waits.timer = wait.map(|wait| ctx.run_later(wait, Self::pump));
    }

    /// Why nothing is sent just now, and the time of day of the next attempt if only time decides that.
    pub(super) fn waiting(&self, now: Timestamp) -> (&'static str, Option<Timestamp>) {
        let is_open = self.parts.slot.pending_total() > 0;
        if self.kept.id().is_none() {
            return ("starting", None);
        }
        if !self.lease.is_held() {
            return ("another_node", None);
        }
        if !self.rounds.can_read() || self.writes.unsettled() >= MAX_UNSETTLED {
            return ("store", None);
        }
        let until = self.waits.until.map(|until| self.clock.time_of_day(until.max(now)));
        match self.waits.why {
            BlockedBy::Empty if !is_open => (BlockedBy::Empty.as_str(), None),
            // Nothing is in hand, so the open deliveries are in flight or wait for their retry.
            BlockedBy::Empty => match self.rounds.next_due() {
                Some(due) => {
                    let open_until = self.dispatcher.breaker().figures(now).open_until;
                    let breaker = open_until.map(|until| (until, BlockedBy::Breaker));
                    let held = breaker.into_iter().chain(self.dispatcher.rests(now)).max_by_key(|(until, _)| *until);
                    let held = held.map(|(until, why)| (self.clock.time_of_day(until), why));
                    match held.filter(|(until, _)| *until > due) {
                        Some((until, why)) => (why.as_str(), Some(until.max(clock::now()))),
                        None => ("retry", Some(due.max(clock::now()))),
                    }
                }
                None if self.under_way().next().is_some() => ("answer", None),
                None => ("store", None),
            },
            why => (why.as_str(), until),
        }
    }
}
