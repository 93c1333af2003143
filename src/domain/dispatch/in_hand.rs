//! Work that was taken and is not in flight: what may go out, lane by lane, and what waits behind others of its key.

use std::collections::{BTreeMap, HashMap};

use bytestring::ByteString;

use crate::domain::event::Timestamp;
use crate::domain::key_order::{Admitted, KeyOrder};
use crate::domain::priority::{Lane, OldestWaits};
use crate::domain::work::WorkId;

/// One unit of work: a delivery to be made, or an ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingWork {
    pub id: WorkId,
    pub lane: Lane,
    /// Ordering key.
    pub key: Option<ByteString>,
    /// Attempts made before: 0 for the first.
    pub attempt: u32,
    /// When it became due.
    pub since: Timestamp,
}

/// What became of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Offered {
    Taken,
    /// Not taken: it is in hand or in flight already.
    Known,
    /// Not taken: the lane has as many in hand as it may, or the dispatcher is draining. Later ones of its key are held
    /// back, in whatever lane, until it is offered again.
    Full,
    /// Not taken: its key has an earlier one that must come first; to be read again from the store after it.
    HeldBack,
}

/// Work of one kind and lane that may go out, the oldest first. Retries apart: they may have to wait for the budget.
#[derive(Debug, Default)]
struct Aged {
    first: BTreeMap<(Timestamp, WorkId), PendingWork>,
    retries: BTreeMap<(Timestamp, WorkId), PendingWork>,
}

impl Aged {
    fn of(&mut self, attempt: u32) -> &mut BTreeMap<(Timestamp, WorkId), PendingWork> {
        if attempt == 0 { &mut self.first } else { &mut self.retries }
    }

    fn oldest(&self, with_retries: bool) -> Option<&PendingWork> {
        let retry = self.retries.values().next().filter(|_| with_retries);
        self.first.values().next().into_iter().chain(retry).min_by_key(|work| (work.since, work.id))
    }

    fn is_empty(&self) -> bool {
        self.first.is_empty() && self.retries.is_empty()
    }

    fn into_values(self) -> impl Iterator<Item = PendingWork> {
        self.first.into_values().chain(self.retries.into_values())
    }
}

/// What may go out of one lane. Deliveries and asks take turns: neither has to wait for all of the other, whichever is
/// older.
#[derive(Debug, Default)]
struct Queue {
    deliveries: Aged,
    asks: Aged,
    is_asks_turn: bool,
}

impl Queue {
    fn of(&mut self, id: WorkId) -> &mut Aged {
        if id.is_ask() { &mut self.asks } else { &mut self.deliveries }
    }

    fn next(&self, with_retries: bool) -> Option<&PendingWork> {
        let (delivery, ask) = (self.deliveries.oldest(with_retries), self.asks.oldest(with_retries));
        if self.is_asks_turn { ask.or(delivery) } else { delivery.or(ask) }
    }

    fn oldest(&self, with_retries: bool) -> Option<Timestamp> {
        let oldest = self.deliveries.oldest(with_retries).into_iter().chain(self.asks.oldest(with_retries));
        oldest.map(|work| work.since).min()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct InHand {
    /// Most deliveries of one lane, besides what is put back. Who asks bounds the asks.
    limit: usize,
    keys: KeyOrder,
    queues: [Queue; Lane::COUNT],
    /// Behind another of their key.
    behind: HashMap<WorkId, PendingWork>,
    lanes: HashMap<WorkId, Lane>,
    /// How many deliveries there are of each.
    counts: [usize; Lane::COUNT],
}

impl InHand {
    /// At most `limit` deliveries of each lane, at least one; of a key at most `behind` that wait behind the first.
    pub fn new(limit: usize, behind: usize) -> Self {
        Self {
            limit: limit.max(1),
            keys: KeyOrder::new(behind),
            queues: Default::default(),
            behind: HashMap::new(),
            lanes: HashMap::new(),
            counts: [0; Lane::COUNT],
        }
    }

    pub fn count(&self, lane: Lane) -> usize {
        self.counts[lane.index()]
    }

    pub fn counts(&self) -> [usize; Lane::COUNT] {
        self.counts
    }

    /// How many more of the lane it takes.
    pub fn room(&self, lane: Lane) -> usize {
        self.limit.saturating_sub(self.count(lane))
    }

    /// Retries of live lanes that may go out.
    pub fn waiting_retries(&self) -> usize {
        Lane::LIVE.map(|lane| self.queues[lane.index()].deliveries.retries.len()).into_iter().sum()
    }

    /// How many keys are in hand or parked.
    pub fn keys(&self) -> usize {
        self.keys.keys()
    }

    /// Takes work that is not in flight, unless it `is_closed`.
    pub fn offer(&mut self, work: PendingWork, is_closed: bool) -> Offered {
        if self.lanes.contains_key(&work.id) {
            return Offered::Known;
        }
        if is_closed || !work.id.is_ask() && self.room(work.lane) == 0 {
            if let Some(key) = work.key.as_ref().filter(|_| !work.id.is_ask()) {
                self.keys.hold(work.id, key);
            }
            return Offered::Full;
        }
        match work.key.as_ref().map_or(Admitted::Ready, |key| self.keys.admit(work.id, key)) {
            Admitted::HeldBack => return Offered::HeldBack,
            Admitted::Ready => self.put_back(work),
            Admitted::Behind => {
                self.count_in(&work);
                self.behind.insert(work.id, work);
            }
        }
        Offered::Taken
    }

    /// Work that was taken out is here again, and may go out.
    pub fn put_back(&mut self, work: PendingWork) {
        self.count_in(&work);
        self.enqueue(work);
    }

    /// Whether there is something that may go out.
    pub fn has_ready(&self) -> bool {
        !self.queues.iter().all(|queue| queue.deliveries.is_empty() && queue.asks.is_empty())
    }

    /// By lane, how long the oldest that may go out has waited.
    pub fn oldest_waits(&self, now: Timestamp, with_retries: bool) -> OldestWaits {
        let oldest = |lane: Lane| self.queues[lane.index()].oldest(with_retries).map(|since| now.since(since));
        Lane::ALL.map(oldest)
    }

    /// Takes out the next of the lane.
    pub fn take(&mut self, lane: Lane, with_retries: bool) -> Option<PendingWork> {
        let queue = &mut self.queues[lane.index()];
        let PendingWork { since, id, attempt, .. } = *queue.next(with_retries)?;
        let work = queue.of(id).of(attempt).remove(&(since, id))?;
        queue.is_asks_turn = !id.is_ask();
        self.count_out(&work);
        Some(work)
    }

    /// What of `key` was in flight is settled: the next may go out.
    pub fn settled(&mut self, key: &ByteString) {
        let next = self.keys.finish(key);
        self.is_ready(next);
    }

    /// Takes out an ask.
    pub fn withdraw(&mut self, ask: &PendingWork) {
        let queue = self.queues[ask.lane.index()].of(ask.id).of(ask.attempt);
        let queued = queue.remove(&(ask.since, ask.id));
        if queued.or_else(|| self.behind.remove(&ask.id)).is_none() {
            return;
        }
        self.count_out(ask);
        if let Some(key) = &ask.key {
            let next = self.keys.leave(ask.id, key);
            self.is_ready(next);
        }
    }

    /// What was behind others of its key may go out.
    fn is_ready(&mut self, next: Option<WorkId>) {
        let next = next.and_then(|next| self.behind.remove(&next));
        next.into_iter().for_each(|next| self.enqueue(next));
    }

    /// What of `key` was in flight comes again: what was behind it is handed back, in the order of ids.
    pub fn failed(&mut self, key: &ByteString) -> Vec<PendingWork> {
        let ids = self.keys.fail(key);
        let followers: Vec<_> = ids.into_iter().filter_map(|id| self.behind.remove(&id)).collect();
        followers.iter().for_each(|work| self.count_out(work));
        followers
    }

    /// Waits no longer for what of `key` failed or was held back.
    pub fn unblock(&mut self, key: &ByteString) {
        self.keys.unblock(key);
    }

    /// Hands back everything, in the order of ids.
    pub fn empty(&mut self, is_in_flight: impl Fn(WorkId) -> bool) -> Vec<PendingWork> {
        let queues = self.queues.iter_mut().map(std::mem::take);
        let queued = queues.flat_map(|queue| queue.deliveries.into_values().chain(queue.asks.into_values()));
        let mut all: Vec<PendingWork> = queued.chain(self.behind.drain().map(|(_, work)| work)).collect();
        all.sort_unstable_by_key(|work| work.id);
        all.iter().for_each(|work| self.count_out(work));
        self.keys.withdraw(is_in_flight);
        all
    }

    fn enqueue(&mut self, work: PendingWork) {
        self.queues[work.lane.index()].of(work.id).of(work.attempt).insert((work.since, work.id), work);
    }

    fn count_in(&mut self, work: &PendingWork) {
        self.lanes.insert(work.id, work.lane);
        self.counts[work.lane.index()] += usize::from(!work.id.is_ask());
    }

    fn count_out(&mut self, work: &PendingWork) {
        self.lanes.remove(&work.id);
        self.counts[work.lane.index()] -= usize::from(!work.id.is_ask());
    }
}
