//! What a client has read from the outbox, and what it reads next.
//!
//! Claiming writes nothing. So this remembers, in memory, which open deliveries are known: in hand, in flight, or sent
//! and not yet settled in the store. A crash forgets it, and they are claimed again.
//!
//! - CL-1: a delivery that is known is not taken a second time. A page read from the store may be older than a
//!   delivery outcome that has arrived since; what was settled while a page was being read is not taken from it.
//! - CL-2: of an ordering key, a delivery is taken only if the open one before it is known. If that is not so, the key
//!   is parked: it is read from the store in the order of its ids, once nothing of it is known.
//! - CL-3: whatever is parked is read, or comes with the one before it that is due: nothing waits for ever.

use std::collections::{HashMap, HashSet, VecDeque};

use bytestring::ByteString;

use crate::domain::dispatch::{Dispatcher, Offered, PendingWork};
use crate::domain::event::{EventId, Timestamp};
use crate::domain::priority::Lane;
use crate::domain::work::WorkId;
use crate::storage::{Claim, Claimed};

/// Lanes that are read in the order of ids.
const LIVE: [Lane; 3] = [Lane::High, Lane::Normal, Lane::Low];
/// What can be read: parked keys, what is due, and each of these lanes. They take turns.
const KINDS: usize = 2 + LIVE.len();
/// Most rows of one read.
const MAX_ROWS: usize = 256;
/// Bytes of events in hand beyond which nothing more is read.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Keys that may be parked. With more, what has a key is passed over, until half of them are through.
const MAX_PARKED: usize = if cfg!(test) { 3 } else { 50_000 };

/// See the module.
#[derive(Debug, Default)]
pub struct Claims {
    /// What is known, with its event.
    known: HashMap<WorkId, Claimed>,
    bytes: usize,
    /// Of what is known, how many have each key.
    keys: HashMap<ByteString, usize>,
    /// With whether it is in `unread`.
    parked: HashMap<ByteString, bool>,
    /// Parked keys that are to be read.
    unread: VecDeque<ByteString>,
    /// By lane: everything up to here was looked at, and whether there may be more.
    waiting: [(EventId, bool); LIVE.len()],
    /// By lane: the first that was passed over because too many keys were parked.
    passed_over: [Option<EventId>; LIVE.len()],
    due: Round,
    reading: Option<Read>,
    /// What is read now is from before a reset.
    is_stale: bool,
    /// Settled since the read began, and whether it is still open.
    settled_meanwhile: HashMap<WorkId, bool>,
    /// Known, and made anew in the store before their delivery outcome has arrived here.
    renewed: HashSet<WorkId>,
    /// The kind whose turn it is.
    turn: usize,
    moment: Moment,
}

/// The time, as the store has it and as the dispatcher counts it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment {
    /// The time of day.
    pub now: Timestamp,
    /// By how many microseconds the dispatcher's clock is ahead of it.
    pub lead: i64,
}

impl Moment {
    /// On the dispatcher's clock; nothing stored is from later than now.
    fn on_dispatchers_clock(self, stored: Timestamp) -> Timestamp {
        Timestamp(stored.min(self.now).0.saturating_add(self.lead))
    }
}

/// A walk through what is due, from the longest due on.
#[derive(Debug, Default)]
struct Round {
    /// Where it stands; `None` between rounds.
    at: Option<(Timestamp, EventId)>,
    /// Something became due that it may have passed.
    once_more: bool,
}

/// A read under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub claim: Claim,
    pub max_rows: usize,
}

impl Claims {
    /// There may be something new in every lane.
    pub fn look_for_new(&mut self) {
        for (_, more) in &mut self.waiting {
            *more = true;
        }
    }

    /// There may be something new in every lane, and something due.
    pub fn look_again(&mut self) {
        self.look_for_new();
        self.begin_round();
    }

    /// Something is due.
    pub fn begin_round(&mut self) {
        match self.due.at {
            None => self.due.at = Some(Default::default()),
            Some(_) => self.due.once_more = true,
        }
    }

    /// What to read now, if anything; to be answered by [`Self::take`] or [`Self::failed`].
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
        // What arrives from now on may be missing in the answer.
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

    /// Keys and what is due may be of any lane: to them belongs the room that lanes leave.
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

    /// Nothing could be read; it will be tried again.
    pub fn failed(&mut self) {
        if let Some(Read { claim: Claim::Waiting { lane, .. }, .. }) = self.reading.take() {
            self.waiting[lane.index()].1 = true;
        }
        self.is_stale = false;
    }

    /// Hands what was read to the dispatcher, as far as it may be taken. When a round through what is due ended: until
    /// when that was.
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

    /// Whether the round has ended.
    fn take_due(&mut self, rows: Vec<Claimed>, is_whole: bool, dispatcher: &mut Dispatcher) -> bool {
        let mut is_over = is_whole;
        for row in rows {
            let (id, place) = (row.work_id(), (row.due_at.unwrap_or_default(), row.event.id));
            if self.known.get(&id).is_some_and(|known| known.attempts < row.attempts) {
                self.renewed.insert(id);
            }
            if self.offer(row, dispatcher) == Offered::Full {
                // Not at once again: that it is full may last.
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

    /// The open deliveries of a parked key, from the first.
    fn take_key(&mut self, key: &ByteString, rows: Vec<Claimed>, is_whole: bool, dispatcher: &mut Dispatcher) {
        self.unread.pop_front();
        self.parked.insert(key.clone(), false);
        let (mut is_through, mut is_due_later) = (is_whole, false);
        for (at, row) in rows.into_iter().enumerate() {
            // One that is due later is taken when it is due; those behind it wait for it.
            if row.due_at.is_some_and(|due| due > self.moment.now) && !self.is_seen(row.work_id()) {
                (is_through, is_due_later) = (false, true);
                break;
            }
            if at == 0 && !self.is_seen(row.work_id()) {
                // It is the first: whatever the dispatcher waits for has ended elsewhere.
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
            // One that was settled to be tried again comes first, but is not in hand.
            let goes_first = |id| self.known.contains_key(&id) || self.settled_meanwhile.get(&id) == Some(&false);
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

    /// Known, or settled after the page was read.
    fn is_seen(&self, id: WorkId) -> bool {
        self.known.contains_key(&id) || self.settled_meanwhile.contains_key(&id)
    }

    /// Of `key`, the store has more than is known.
    fn park(&mut self, key: ByteString) {
        if !self.parked.contains_key(&key) {
            self.parked.insert(key.clone(), false);
            self.read_when_idle(&key);
        }
    }

    /// A parked key is read as soon as nothing of it is known any more.
    fn read_when_idle(&mut self, key: &ByteString) {
        if let Some(is_queued @ false) = self.parked.get_mut(key)
            && !self.keys.contains_key(key)
        {
            *is_queued = true;
            self.unread.push_back(key.clone());
        }
    }

    /// What is known of a delivery.
    pub fn get(&self, id: WorkId) -> Option<&Claimed> {
        self.known.get(&id)
    }

    /// It was taken back, untried: its key is read again from the store, in order.
    pub fn release(&mut self, id: WorkId) {
        if let Some(row) = self.remove(id)
            && let Some(key) = row.event.key
        {
            self.park(key);
        }
    }

    /// How it ended is in the store; `is_open` if it is to be tried again.
    pub fn settled(&mut self, id: WorkId, is_open: bool) {
        if self.reading.is_some() {
            self.settled_meanwhile.insert(id, is_open);
        }
        if self.renewed.remove(&id) {
            self.begin_round();
        }
        let Some(key) = self.remove(id).and_then(|row| row.event.key) else { return };
        // One that is tried again goes on with its key when it is due.
        if !is_open {
            self.read_when_idle(&key);
        }
    }

    /// Begins anew with the store, knowing only what `is_under_way`.
    pub fn reset(&mut self, is_under_way: impl Fn(WorkId) -> bool) {
        let ids: Vec<WorkId> = self.known.keys().copied().filter(|id| !is_under_way(*id)).collect();
        for id in ids {
            self.remove(id);
        }
        let Self { known, bytes, keys, reading, .. } = std::mem::take(self);
        *self = Self { known, bytes, keys, is_stale: reading.is_some(), reading, ..Self::default() };
        self.look_again();
    }

    /// Of what is known, how many deliveries and bytes.
    pub fn figures(&self) -> (usize, usize) {
        (self.known.len(), self.bytes)
    }

    /// How many keys are parked.
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
