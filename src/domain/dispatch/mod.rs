//! What one service is sent next: breaker, limits, priorities and ordering keys together.
//!
//! A unit of work, such as the delivery of an event, is offered, waits in its lane (or behind an earlier one of its
//! key), goes out, and ends with a verdict.
//! All conditions are looked at before any is charged, so a refusal costs nothing anywhere (DP-1).
//!
//! - DP-2: what was taken is in hand or in flight until it is released, once.
//! - DP-3: no more in flight than the concurrency allows; of a key one at most.
//! - DP-4: nothing goes out while paused, draining, or when the breaker permits none.

mod in_hand;

use std::collections::HashMap;
use std::time::Duration;

use bytestring::ByteString;

use self::in_hand::InHand;
pub use self::in_hand::{Offered, PendingWork};
use super::breaker::{
    Breaker, BreakerFigures, BreakerPolicy, BreakerSnapshot, BreakerState, CallResult, Permit, Transition,
};
use super::delivery::Verdict;
use super::event::Timestamp;
use super::priority::{Lane, LanePolicy, PriorityScheduler};
use super::rate::{RateLimit, TokenBucket};
use super::retry::{RetryBudget, RetryBudgetPolicy};
use super::slow_start::SlowStart;
use super::work::WorkId;

/// The limits of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DispatchPolicy {
    /// Deliveries in flight at once; at least one.
    pub concurrency: usize,
    /// Deliveries in hand of each lane, besides those in flight, and those cancelled; at least one. Half of them, at
    /// most, are read in the order of the lane.
    pub in_hand: usize,
    /// Deliveries in hand of one key behind the one that goes first.
    pub behind: usize,
    pub rate: Option<RateLimit>,
    pub retries: RetryBudgetPolicy,
    pub lanes: LanePolicy,
    pub breaker: BreakerPolicy,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Send it, and report the end by [`Dispatcher::finished`] or [`Dispatcher::cancelled`].
    Send(PendingWork),
    /// The breaker changed with time: tell it, and ask again.
    Turned(Transition),
    /// Nothing, until something happens or it is `until`.
    Wait { until: Option<Timestamp>, why: BlockedBy },
}

/// Why nothing is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockedBy {
    Draining,
    Paused,
    Empty,
    Breaker,
    Concurrency,
    Rate,
    /// Only retries wait, and the retry budget is spent.
    Budget,
    /// The service has asked for time.
    RetryAfter,
    /// This machine has no room for another connection.
    Resources,
}

impl BlockedBy {
    /// The name on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Paused => "paused",
            Self::Empty => "empty",
            Self::Breaker => "breaker",
            Self::Concurrency => "concurrency",
            Self::Rate => "rate",
            Self::Budget => "budget",
            Self::RetryAfter => "retry_after",
            Self::Resources => "resources",
        }
    }
}

/// A delivery that is no longer in flight.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished {
    pub work: PendingWork,
    /// Those of its key that were behind it, in the order of ids; to be offered again after it, deliveries as read
    /// again from the store.
    pub released: Vec<PendingWork>,
    pub transition: Option<Transition>,
}

/// What operators see of a dispatcher.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DispatchFigures {
    pub breaker: BreakerFigures,
    pub in_flight: usize,
    /// What may be in flight now.
    pub concurrency: usize,
    /// Deliveries by lane, in the order of [`Lane::ALL`]; those behind others of their key included.
    pub in_hand: [usize; Lane::COUNT],
    pub keys: usize,
    pub paused: bool,
    pub draining: bool,
}

/// The deliveries of one service in hand and in flight.
#[derive(Debug)]
pub struct Dispatcher {
    policy: DispatchPolicy,
    breaker: Breaker,
    bucket: Option<TokenBucket>,
    budget: RetryBudget,
    scheduler: PriorityScheduler,
    in_hand: InHand,
    in_flight: HashMap<WorkId, (PendingWork, Permit)>,
    /// The last rest that was imposed from outside: until when, and why. Afterwards it begins gently.
    rest: Option<(Timestamp, BlockedBy)>,
    paused: bool,
    draining: bool,
}

impl Dispatcher {
    /// With nothing in hand; the breaker as it was kept.
    pub fn new(policy: DispatchPolicy, breaker: Option<BreakerSnapshot>, now: Timestamp) -> Self {
        Self {
            breaker: match breaker {
                Some(snapshot) => Breaker::restore(snapshot, policy.breaker, now),
                None => Breaker::new(policy.breaker),
            },
            bucket: policy.rate.map(|limit| TokenBucket::new(limit, now)),
            budget: RetryBudget::new(policy.retries, now),
            scheduler: PriorityScheduler::new(policy.lanes),
            in_hand: InHand::new(policy.in_hand, policy.behind),
            in_flight: HashMap::new(),
            rest: None,
            paused: false,
            draining: false,
            policy,
        }
    }

    /// How many to take in hand that wait in the order of a lane: none as long as enough of it are in hand, and never
    /// more than half of what may be. The rest is for what comes out of that order; see [`Self::has_room`].
    pub fn wants(&self, lane: Lane) -> usize {
        let half = self.policy.in_hand.div_ceil(2).max(1);
        let count = self.in_hand.count(lane);
        if self.is_stopped() || count > half / 2 { 0 } else { half - count }
    }

    /// How many more it would take in hand, of whatever live lane. (Of replays, few are open at a time.)
    pub fn has_room(&self) -> usize {
        let rooms = Lane::LIVE.map(|lane| self.in_hand.room(lane));
        if self.is_stopped() { 0 } else { rooms.into_iter().min().unwrap_or(0) }
    }

    /// How many retries it would take in hand: never so many that first attempts have no room while the retry budget
    /// is spent.
    pub fn has_room_for_retries(&self) -> usize {
        self.has_room().min((self.policy.in_hand / 2).max(1).saturating_sub(self.in_hand.waiting_retries()))
    }

    fn is_stopped(&self) -> bool {
        self.paused || self.draining
    }

    /// How many more would go out at once at `now`, if nothing is in hand.
    pub fn free(&self, now: Timestamp) -> usize {
        let is_held_up = self.is_stopped()
            || self.in_hand.has_ready()
            || self.bucket.is_some()
            || self.breaker.state() != BreakerState::Closed
            || self.rests(now).is_some();
        if is_held_up { 0 } else { self.concurrency(now).saturating_sub(self.in_flight.len()) }
    }

    /// Takes a delivery in hand. While paused too: it may have been claimed before.
    pub fn offer(&mut self, work: PendingWork) -> Offered {
        if self.in_flight.contains_key(&work.id) { Offered::Known } else { self.in_hand.offer(work, self.draining) }
    }

    /// Decides what to do at `now`. `jitter` is in `[0, 1)`.
    pub fn next(&mut self, now: Timestamp, jitter: f64) -> Next {
        if let Some(transition) = self.breaker.tick(now, jitter) {
            return Next::Turned(transition);
        }
        match self.take_turn(now) {
            Ok(work) => Next::Send(work),
            Err((why, until)) => Next::Wait { until: until.into_iter().chain(self.breaker.due()).min(), why },
        }
    }

    fn take_turn(&mut self, now: Timestamp) -> Result<PendingWork, (BlockedBy, Option<Timestamp>)> {
        if self.draining {
            return Err((BlockedBy::Draining, None));
        }
        if self.paused {
            return Err((BlockedBy::Paused, None));
        }
        if !self.in_hand.has_ready() {
            return Err((BlockedBy::Empty, None));
        }
        self.breaker.check().map_err(|refusal| (BlockedBy::Breaker, refusal.retry_at))?;
        if let Some((until, why)) = self.rests(now) {
            return Err((why, Some(until)));
        }
        if self.in_flight.len() >= self.concurrency(now) {
            return Err((BlockedBy::Concurrency, self.grows_at(now)));
        }
        if let Some(bucket) = &self.bucket {
            bucket.check(now).map_err(|at| (BlockedBy::Rate, Some(at)))?;
        }
        let retries = self.budget.check(now);
        let oldest = self.in_hand.oldest_waits(now, retries.is_ok());
        let lane = self.scheduler.choose(&oldest).ok_or((BlockedBy::Budget, retries.err()))?;

        // Nothing is refused from here on: charge them all.
        let permit = self.breaker.acquire(now).map_err(|refusal| (BlockedBy::Breaker, refusal.retry_at))?;
        self.scheduler.served(lane, &oldest);
        let work = self.in_hand.take(lane, retries.is_ok()).expect("invariant: a chosen lane has work");
        if let Some(bucket) = &mut self.bucket {
            bucket.try_take(now).expect("invariant: a token was there");
        }
        if work.attempt > 0 {
            self.budget.try_take(now).expect("invariant: the budget allows retries, or none is taken");
        }
        self.in_flight.insert(work.id, (work.clone(), permit));
        Ok(work)
    }

    /// An attempt ended with `verdict` after `took`. None if no such delivery is in flight.
    ///
    /// A delivery that is to be tried again leaves, and parks its key: until it is offered again, or [`Self::unblock`],
    /// later ones of the key are held back. An ask parks nothing.
    pub fn finished(
        &mut self,
        id: WorkId,
        verdict: Verdict,
        took: Duration,
        now: Timestamp,
        jitter: f64,
    ) -> Option<Finished> {
        let (work, permit) = self.in_flight.remove(&id)?;
        let transition = if verdict.was_sent() {
            self.breaker.record(permit, CallResult { failed: verdict.is_failure(), took }, now, jitter)
        } else {
            self.breaker.release(permit);
            None
        };
        if work.attempt == 0 {
            self.budget.on_first_attempt();
        }
        let released = match (&work.key, verdict) {
            (None, _) => Vec::new(),
            (Some(key), _) if id.is_ask() => {
                self.in_hand.settled(key);
                Vec::new()
            }
            (Some(key), Verdict::Delivered | Verdict::Dead(_)) => {
                self.in_hand.settled(key);
                Vec::new()
            }
            (Some(key), Verdict::Retry { .. } | Verdict::NotYet | Verdict::PutOff(_) | Verdict::Gone) => {
                self.in_hand.failed(key)
            }
        };
        Some(Finished { work, released, transition })
    }

    /// An attempt ended, and how is another's business: the delivery leaves, and counts for nothing.
    pub fn abandoned(&mut self, id: WorkId) {
        let Some((work, permit)) = self.in_flight.remove(&id) else { return };
        self.breaker.release(permit);
        work.key.iter().for_each(|key| self.in_hand.settled(key));
    }

    /// An attempt came to nothing and says nothing of the service: the delivery is in hand again, as if it had never
    /// gone out, but for its token of the rate. Whether there was such a delivery.
    pub fn cancelled(&mut self, id: WorkId) -> bool {
        let Some((work, permit)) = self.in_flight.remove(&id) else { return false };
        self.breaker.release(permit);
        if work.attempt > 0 {
            self.budget.refund();
        }
        self.in_hand.put_back(work);
        true
    }

    /// As [`Self::cancelled`]; besides, nothing more is sent before `until`, for the reason `why`, and little at first
    /// afterwards. Whether there was such a delivery.
    pub fn put_off(&mut self, id: WorkId, until: Timestamp, why: BlockedBy) -> bool {
        let was_in_flight = self.cancelled(id);
        if was_in_flight && self.rest.is_none_or(|(earlier, _)| earlier < until) {
            self.rest = Some((until, why));
        }
        was_in_flight
    }

    /// An ask leaves, unless it is in flight: nobody waits for it any more.
    pub fn withdraw(&mut self, ask: &PendingWork) {
        if !self.in_flight.contains_key(&ask.id) {
            self.in_hand.withdraw(ask);
        }
    }

    /// Until when, and why, it rests at `now` because something outside of it says so.
    pub fn rests(&self, now: Timestamp) -> Option<(Timestamp, BlockedBy)> {
        self.rest.filter(|(until, _)| now < *until)
    }

    /// Releases all that is in hand and not in flight, in the order of ids.
    pub fn release(&mut self) -> Vec<PendingWork> {
        let in_flight = &self.in_flight;
        self.in_hand.empty(|id| in_flight.contains_key(&id))
    }

    /// Waits no longer for what of `key` failed or was held back.
    pub fn unblock(&mut self, key: &ByteString) {
        self.in_hand.unblock(key);
    }

    /// Sends nothing more until [`Self::resume`]; what is in flight ends as it will.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Sends again.
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// Takes and sends nothing more, for good.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Opens the breaker until an operator says otherwise.
    pub fn force_open(&mut self) -> Option<Transition> {
        self.breaker.force_open()
    }

    /// Closes the breaker until an operator says otherwise.
    pub fn force_close(&mut self) -> Option<Transition> {
        self.breaker.force_close()
    }

    /// The breaker begins anew, closed; a rest ends.
    pub fn reset(&mut self) -> Option<Transition> {
        self.rest = None;
        self.breaker.reset()
    }

    /// Goes on with the breaker that another kept.
    pub fn replace_breaker(&mut self, breaker: Option<BreakerSnapshot>, now: Timestamp) {
        self.breaker.replace(breaker, now);
    }

    /// The breaker, to be looked at and kept.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Whether an operator has paused it.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The ids in flight, in no order.
    pub fn in_flight(&self) -> impl Iterator<Item = WorkId> {
        self.in_flight.keys().copied()
    }

    /// The figures at `now`.
    pub fn figures(&self, now: Timestamp) -> DispatchFigures {
        DispatchFigures {
            breaker: self.breaker.figures(now),
            in_flight: self.in_flight.len(),
            concurrency: self.concurrency(now),
            in_hand: self.in_hand.counts(),
            keys: self.in_hand.keys(),
            paused: self.paused,
            draining: self.draining,
        }
    }

    fn concurrency(&self, now: Timestamp) -> usize {
        let max = self.policy.concurrency.max(1);
        let after_rest = self.rest.map_or(max, |(until, _)| self.slow_start(until).allowed(now, max));
        self.breaker.concurrency(now, max).min(after_rest)
    }

    /// When the concurrency will be more than it is at `now`, as far as only time keeps it from growing.
    fn grows_at(&self, now: Timestamp) -> Option<Timestamp> {
        let max = self.policy.concurrency.max(1);
        let after_rest = self.rest.and_then(|(until, _)| self.slow_start(until).grows_at(now, max));
        self.breaker.grows_at(now, max).into_iter().chain(after_rest).min()
    }

    fn slow_start(&self, since: Timestamp) -> SlowStart {
        SlowStart { since, takes: self.policy.breaker.slow_start }
    }
}

#[cfg(test)]
pub(crate) mod tests;
