//! What a client has read from the outbox, and what it reads next.
//!
//! Claiming writes nothing to the store. So the client remembers in memory which open deliveries it knows: those in
//! hand, those in flight, and those that were sent and are not settled in the store yet. After a crash they are claimed
//! again.
//!
//! - CL-1: a known delivery is not taken a second time. A page may be older than an outcome that was stored since; what
//!   was settled while the page was being read is not taken from it.
//! - CL-2: a delivery with an ordering key is taken only if the open delivery before it of the same key is known.
//!   Otherwise the key is parked: it is read from the store in the order of ids once nothing of it is known any more.
//! - CL-3: each parked key is read, or goes on with its first delivery when that is due. Nothing waits for ever.

use std::collections::{HashMap, HashSet, VecDeque};

use bytestring::ByteString;

use crate::domain::dispatch::{Dispatcher, Offered, PendingWork};
use crate::domain::event::{EventId, Timestamp};
use crate::domain::priority::Lane;
use crate::domain::work::WorkId;
use crate::storage::{Claim, Claimed};

/// The lanes that are read in the order of ids.
const LIVE: [Lane; 3] = [Lane::High, Lane::Normal, Lane::Low];
/// The kinds of reads, which take turns: parked keys, due deliveries, and each of these lanes.
const KINDS: usize = 2 + LIVE.len();
/// Most rows of one read.
const MAX_ROWS: usize = 256;
/// Bytes of known events beyond which nothing more is read.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Most parked keys. Beyond it, deliveries with a key are passed over until half of the parked keys were read.
const MAX_PARKED: usize = if cfg!(test) { 3 } else { 50_000 };

/// See the module.
#[derive(Debug, Default)]
pub struct Claims {
    /// The known deliveries with their events.
    known: HashMap<WorkId, Claimed>,
    bytes: usize,
    /// How many known deliveries each key has.
    keys: HashMap<ByteString, usize>,
    /// Each with whether it is in `unread`.
    parked: HashMap<ByteString, bool>,
    /// The parked keys to be read, in this order.
    unread: VecDeque<ByteString>,
    /// For each lane, the id up to which it was read, and whether there may be more.
    waiting: [(EventId, bool); LIVE.len()],
    /// For each lane, the first delivery that was passed over because too many keys were parked.
    passed_over: [Option<EventId>; LIVE.len()],
    due: Round,
    reading: Option<Read>,
    /// The read under way began before a reset, so its result is dropped.
    is_stale: bool,
    /// What was settled since the read under way began.
    settled_meanwhile: HashMap<WorkId, SettledMeanwhile>,
    /// Known deliveries that the store has reopened before the outcome of their attempt arrived here.
    renewed: HashSet<WorkId>,
    /// The kind of read whose turn it is.
    turn: usize,
    moment: Moment,
}

/// A delivery that is not known any more.
#[derive(Debug, Clone, Copy)]
struct SettledMeanwhile {
    is_open: bool,
    /// Attempts before the one that was settled. A page that has more is newer than that.
    attempts: u32,
}

/// One moment on two clocks: that of the store and that of the dispatcher.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment {
    /// The time of day.
    pub now: Timestamp,
    /// By how many microseconds the dispatcher's clock is ahead of the time of day.
    pub lead: i64,
}

impl Moment {
    /// A stored time on the dispatcher's clock; it counts as no later than now.
    fn on_dispatchers_clock(self, stored: Timestamp) -> Timestamp {
        Timestamp(stored.min(self.now).0.saturating_add(self.lead))
    }
}

/// A round through the due deliveries, beginning with the one that has been due longest.
#[derive(Debug, Default)]
struct Round {
    /// Where the round has come to; `None` between rounds.
    at: Option<(Timestamp, EventId)>,
    /// A delivery became due that the round may have passed, so another round follows.
    once_more: bool,
}

/// A read of one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub claim: Claim,
    pub max_rows: usize,
}

impl Claims {
    /// There may be new deliveries in every lane.
    pub fn look_for_new(&mut self) {
        for (_, more) in &mut self.waiting {
            *more = true;
        }
    }

    /// There may be new and due deliveries.
    pub fn look_again(&mut self) {
        self.look_for_new();
        self.begin_round();
    }

    /// There may be due deliveries.
    pub fn begin_round(&mut self) {
        match self.due.at {
            None => self.due.at = Some(Default::default()),
            Some(_) => self.due.once_more = true,
        }
    }

    /// The next read, if one is to be made; it ends with [`Self::take`] or [`Self::failed`].
    pub fn next_read(&mut self, dispatcher: &Dispatcher, now: Timestamp) -> Option<Read> {
        if self.reading.is_some() || self.bytes >= MAX_BYTES {
            return None;
        }
        self.return_to_passed_over();
        let found = (0..KINDS)
            .map(|n| (self.turn + n) % KINDS)
            .find_map(|kind| Some((kind, self.read_of(kind, dispatcher, now)?)));
        let (kind, read) = found?;
        self.turn = kind + 1;
        // What is committed from now on may be missing in the page.
        match &read.claim {
            Claim::Waiting { lane, .. } => self.waiting[lane.index()].1 = false,
            Claim::Due { after, .. } if *after == Default::default() => self.due.once_more = false,
            Claim::Due { .. } | Claim::Key { .. } => {}
        }
        self.settled_meanwhile.clear();
        Some(self.reading.insert(read).clone())
    }

    fn return_to_passed_over(&mut self) {
        if self.parked.len() > MAX_PARKED / 2 {
            return;
        }
        for (waiting, passed_over) in self.waiting.iter_mut().zip(&mut self.passed_over) {
            if let Some(first) = passed_over.take() {
                *waiting = (first - 1, true);
            }
        }
    }

    /// Parked keys and due deliveries may be of any lane, so they use whatever room there is.
    fn read_of(&self, kind: usize, dispatcher: &Dispatcher, now: Timestamp) -> Option<Read> {
        let (claim, room) = match kind {
            0 => (Claim::Key { key: self.unread.front()?.clone() }, dispatcher.has_room()),
            1 => (Claim::Due { now, after: self.due.at? }, dispatcher.has_room_for_retries()),
            lane => {
                let lane = LIVE[lane - 2];
                let (after, _) = Some(self.waiting[lane.index()]).filter(|(_, more)| *more)?;
                (Claim::Waiting { lane, after }, dispatcher.wants(lane))
            }
        };
        (room > 0).then(|| Read { claim, max_rows: room.min(MAX_ROWS) })
    }

    /// The read failed; it will be tried again.
    pub fn failed(&mut self) {
        if let Some(Read { claim: Claim::Waiting { lane, .. }, .. }) = self.reading.take() {
            self.waiting[lane.index()].1 = true;
        }
        self.is_stale = false;
    }

    /// Offers the rows of a page to the dispatcher. When this ends a round through the due deliveries, returns the time
    /// at which the round was read.
    pub fn take(
        &mut self,
        rows: Vec<Claimed>,
        is_whole: bool,
        dispatcher: &mut Dispatcher,
        moment: Moment,
    ) -> Option<Timestamp> {
        self.moment = moment;
        let Read { claim, .. } = self.reading.take()?;
        if std::mem::take(&mut self.is_stale) {
            return None;
        }
        match claim {
            Claim::Waiting { lane, .. } => {
                self.take_lane(lane, rows, is_whole, dispatcher);
                None
            }
            Claim::Due { now, .. } => self.take_due(rows, is_whole, dispatcher).then_some(now),
            Claim::Key { key } => {
                self.take_key(&key, rows, is_whole, dispatcher);
                None
            }
        }
    }

    fn take_lane(&mut self, lane: Lane, rows: Vec<Claimed>, is_whole: bool, dispatcher: &mut Dispatcher) {
        let at = lane.index();
        for row in rows {
            let id = row.event.id;
            if row.event.key.is_some() && self.parked.len() >= MAX_PARKED {
                self.passed_over[at].get_or_insert(id);
                self.waiting[at].0 = id;
                continue;
            }
            if self.offer(row, dispatcher) == Offered::Full {
                self.waiting[at].1 = true;
                return;
            }
            self.waiting[at].0 = id;
        }
        self.waiting[at].1 |= !is_whole;
    }

    /// Returns whether the round has ended.
    fn take_due(&mut self, rows: Vec<Claimed>, is_whole: bool, dispatcher: &mut Dispatcher) -> bool {
        let mut is_over = is_whole;
        for row in rows {
            let (id, place) = (row.work_id(), (row.due_at.unwrap_or_default(), row.event.id));
            if self.known.get(&id).is_some_and(|known| known.attempts < row.attempts) {
                self.renewed.insert(id);
            }
            // It was reopened before the page was read. The page is not believed: another round reads it again.
            let is_reopened = |settled: &SettledMeanwhile| !settled.is_open && settled.attempts < row.attempts;
            self.due.once_more |= self.settled_meanwhile.get(&id).is_some_and(is_reopened);
            if self.offer(row, dispatcher) == Offered::Full {
                // The round is not repeated at once, since the dispatcher may stay full.
                is_over = true;
                break;
            }
            self.due.at = Some(place);
        }
        if is_over {
            self.due.at = std::mem::take(&mut self.due.once_more).then(Default::default);
        }
        is_over && self.due.at.is_none()
    }

    /// Takes the open deliveries of a parked key, from the first on.
    fn take_key(&mut self, key: &ByteString, rows: Vec<Claimed>, is_whole: bool, dispatcher: &mut Dispatcher) {
        self.unread.pop_front();
        self.parked.insert(key.clone(), false);
        let (mut is_through, mut is_due_later) = (is_whole, false);
        for (at, row) in rows.into_iter().enumerate() {
            // A delivery that is due later is taken when it is due. Those behind it wait for it.
            if row.due_at.is_some_and(|due| due > self.moment.now) && !self.is_seen(row.work_id()) {
                (is_through, is_due_later) = (false, true);
                break;
            }
            if at == 0 && !self.is_seen(row.work_id()) {
                // It is the first of its key, so whatever the dispatcher waits for has ended elsewhere.
                dispatcher.unblock(key);
            }
            if matches!(self.offer(row, dispatcher), Offered::HeldBack | Offered::Full) {
                is_through = false;
                break;
            }
        }
        if is_through {
            self.parked.remove(key);
        } else if !is_due_later {
            self.read_when_idle(key);
        }
    }

    fn offer(&mut self, row: Claimed, dispatcher: &mut Dispatcher) -> Offered {
        let id = row.work_id();
        if self.is_seen(id) {
            return Offered::Known;
        }
        if let Some(key) = &row.event.key {
            // A delivery that was settled to be tried again goes first, but is not known any more.
            let goes_first = |id| {
                self.known.contains_key(&id) || self.settled_meanwhile.get(&id).is_some_and(|settled| !settled.is_open)
            };
            if !row.behind.map(WorkId::Delivery).is_none_or(goes_first) {
                self.park(key.clone());
                return Offered::HeldBack;
            }
        }
        let work = PendingWork {
            id,
            lane: row.lane,
            key: row.event.key.clone(),
            attempt: row.attempts.saturating_sub(row.spent),
            since: self.moment.on_dispatchers_clock(row.due_at.unwrap_or(row.event.created_at)),
        };
        let offered = dispatcher.offer(work);
        match (&offered, &row.event.key) {
            (Offered::Taken, key) => {
                if let Some(key) = key {
                    *self.keys.entry(key.clone()).or_default() += 1;
                }
                self.bytes += row.event.memory();
                self.known.insert(id, row);
            }
            (Offered::HeldBack, Some(key)) => {
                self.park(key.clone());
                self.read_when_idle(key);
            }
            _ => {}
        }
        offered
    }

    /// Whether it is known, or was settled after the page was read.
    fn is_seen(&self, id: WorkId) -> bool {
        self.known.contains_key(&id) || self.settled_meanwhile.contains_key(&id)
    }

    /// The store has deliveries of `key` that are not known here.
    fn park(&mut self, key: ByteString) {
        if !self.parked.contains_key(&key) {
            self.parked.insert(key.clone(), false);
            self.read_when_idle(&key);
        }
    }

    /// Queues a parked key to be read, if none of its deliveries is known any more.
    fn read_when_idle(&mut self, key: &ByteString) {
        if let Some(is_queued @ false) = self.parked.get_mut(key)
            && !self.keys.contains_key(key)
        {
            *is_queued = true;
            self.unread.push_back(key.clone());
        }
    }

    /// A known delivery.
    pub fn get(&self, id: WorkId) -> Option<&Claimed> {
        self.known.get(&id)
    }

    /// The dispatcher has released it untried. Its key is read from the store again, in order.
    pub fn release(&mut self, id: WorkId) {
        if let Some(row) = self.remove(id)
            && let Some(key) = row.event.key
        {
            self.park(key);
        }
    }

    /// Its outcome is in the store. `is_open`: it is to be tried again.
    pub fn settled(&mut self, id: WorkId, is_open: bool) {
        if self.reading.is_some() {
            let attempts = self.known.get(&id).map_or(u32::MAX, |known| known.attempts);
            self.settled_meanwhile.insert(id, SettledMeanwhile { is_open, attempts });
        }
        if self.renewed.remove(&id) {
            self.begin_round();
        }
        let Some(key) = self.remove(id).and_then(|row| row.event.key) else { return };
        // A delivery that is tried again continues its key when it is due.
        if !is_open {
            self.read_when_idle(&key);
        }
    }

    /// Begins anew from the store, and knows only what `is_under_way`.
    pub fn reset(&mut self, is_under_way: impl Fn(WorkId) -> bool) {
        let ids: Vec<WorkId> = self.known.keys().copied().filter(|id| !is_under_way(*id)).collect();
        for id in ids {
            self.remove(id);
        }
        let Self { known, bytes, keys, reading, .. } = std::mem::take(self);
        *self = Self { known, bytes, keys, is_stale: reading.is_some(), reading, ..Self::default() };
        self.look_again();
    }

    /// How many deliveries and bytes are known.
    pub fn figures(&self) -> (usize, usize) {
        (self.known.len(), self.bytes)
    }

    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    fn remove(&mut self, id: WorkId) -> Option<Claimed> {
        let row = self.known.remove(&id)?;
        self.bytes -= row.event.memory();
        if let Some(key) = &row.event.key
            && let Some(count) = self.keys.get_mut(key)
        {
            *count -= 1;
            if *count == 0 {
                self.keys.remove(key);
            }
        }
        Some(row)
    }
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
