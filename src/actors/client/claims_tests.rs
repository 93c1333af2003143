//! Claims and dispatcher against a model of the store, along any interleaving of commits, late pages, attempts,
//! delivery outcomes, restarts, pauses and redrives.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::domain::breaker::BreakerPolicy;
use crate::domain::delivery::{DeadReason, DeliveryState, Verdict};
use crate::domain::dispatch::{DispatchPolicy, Next, tests};
use crate::domain::event::Event;
use crate::domain::priority::LanePolicy;
use crate::domain::retry::RetryBudgetPolicy;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Every limit is met, but the breaker never opens.
const POLICY: DispatchPolicy = DispatchPolicy {
    retries: RetryBudgetPolicy { percent: 100, ..tests::POLICY.retries },
    lanes: LanePolicy { age_limit: SECOND, ..tests::POLICY.lanes },
    breaker: BreakerPolicy { failure_rate: 0, consecutive_failures: 0, ..tests::POLICY.breaker },
    ..tests::POLICY
};

/// A delivery in the store.
#[derive(Debug, Clone)]
struct Row {
    lane: Lane,
    key: Option<ByteString>,
    state: DeliveryState,
    due: Timestamp,
    attempts: u32,
    spent: u32,
    /// Since when it is open once more: it goes before later ones of its key only if it was known in time.
    is_renewed: bool,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Delivered,
    RetryIn(i64),
    Rejected,
    Exhausted,
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Lane, Option<u8>, usize),
    BeginRead,
    Snapshot,
    TakePage,
    /// What comes back while a page is read: one is sent, ends, and is settled.
    TakeLatePage(usize, End),
    FailRead,
    Send,
    End(usize, End),
    CancelAttempt(usize),
    Settle,
    Acknowledge,
    Restart,
    /// Another process may have delivered meanwhile.
    Reset,
    Pause,
    Resume,
    Redrive(usize),
    Wait(i64),
    LookAgain,
}

fn step() -> impl Strategy<Value = Step> {
    let end = || {
        prop_oneof![
            4 => Just(End::Delivered),
            3 => (0..4i64).prop_map(End::RetryIn),
            1 => Just(End::Rejected),
            1 => Just(End::Exhausted),
        ]
    };
    prop_oneof![
        6 => (prop::sample::select(&LIVE[..]), prop::option::weighted(0.8, 0..3u8), 1..4usize)
            .prop_map(|(lane, key, count)| Step::Commit(lane, key, count)),
        8 => Just(Step::BeginRead),
        8 => Just(Step::Snapshot),
        8 => Just(Step::TakePage),
        4 => (0..4usize, end()).prop_map(|(at, end)| Step::TakeLatePage(at, end)),
        1 => Just(Step::FailRead),
        10 => Just(Step::Send),
        8 => (0..8usize, end()).prop_map(|(at, end)| Step::End(at, end)),
        1 => (0..8usize).prop_map(Step::CancelAttempt),
        6 => Just(Step::Settle),
        6 => Just(Step::Acknowledge),
        1 => Just(Step::Restart),
        1 => Just(Step::Reset),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        2 => (0..8usize).prop_map(Step::Redrive),
        4 => (0..3i64).prop_map(Step::Wait),
        1 => Just(Step::LookAgain),
    ]
}

/// The store, the client's machines, and what is between them.
struct Model {
    rows: BTreeMap<EventId, Row>,
    now: Timestamp,
    claims: Claims,
    dispatcher: Dispatcher,
    read: Option<Read>,
    page: Option<(Vec<Claimed>, bool)>,
    sent: BTreeSet<EventId>,
    /// Ended, and how; then in the store; then acknowledged.
    ended: Vec<(EventId, End)>,
    settling: Vec<(EventId, End)>,
    next_round: Option<Timestamp>,
    reads: usize,
}

impl Model {
    fn new() -> Self {
        let now = Timestamp(1_000_000);
        let mut claims = Claims::default();
        claims.look_again();
        Self {
            rows: BTreeMap::new(),
            now,
            claims,
            dispatcher: Dispatcher::new(POLICY, None, now),
            read: None,
            page: None,
            sent: BTreeSet::new(),
            ended: Vec::new(),
            settling: Vec::new(),
            next_round: None,
            reads: 0,
        }
    }

    fn commit(&mut self, lane: Lane, key: Option<u8>, count: usize) {
        for _ in 0..count {
            let row = Row {
                lane,
                key: key.map(|key| key.to_string().into()),
                state: DeliveryState::Waiting,
                due: Timestamp(0),
                attempts: 0,
                spent: 0,
                is_renewed: false,
            };
            self.rows.insert(self.rows.len() as EventId + 1, row);
        }
        self.claims.look_for_new();
    }

    fn begin_read(&mut self) -> bool {
        let Some(read) = self.claims.next_read(&self.dispatcher, self.now) else { return false };
        assert!(self.read.is_none(), "one read at a time");
        self.reads += 1;
        self.read = Some(read);
        true
    }

    fn snapshot(&mut self) {
        let Some(Read { claim, max_rows }) = &self.read else { return };
        if self.page.is_some() {
            return;
        }
        let open = || self.rows.iter().filter(|(_, row)| row.state.is_open());
        let mut ids: Vec<EventId> = match claim {
            Claim::Waiting { lane, after } => {
                let of_lane = |row: &Row| row.lane == *lane && row.state == DeliveryState::Waiting;
                open().filter(|(id, row)| **id > *after && of_lane(row)).map(|(id, _)| *id).collect()
            }
            Claim::Due { now, after } => {
                let retrying = open().filter(|(_, row)| row.state == DeliveryState::Retrying && row.due <= *now);
                let mut due: Vec<_> = retrying.map(|(id, row)| (row.due, *id)).filter(|at| at > after).collect();
                due.sort_unstable();
                due.into_iter().map(|(_, id)| id).collect()
            }
            Claim::Key { key } => open().filter(|(_, row)| row.key.as_ref() == Some(key)).map(|(id, _)| *id).collect(),
        };
        ids.truncate(*max_rows);
        let is_whole = ids.len() < *max_rows;
        self.page = Some((ids.into_iter().map(|id| self.claimed(id)).collect(), is_whole));
    }

    fn claimed(&self, id: EventId) -> Claimed {
        let row = &self.rows[&id];
        let before = self.rows.range(..id).rev();
        let behind = before.filter(|(_, other)| other.state.is_open() && other.key == row.key).map(|(id, _)| *id);
        Claimed {
            event: Event { created_at: Timestamp(id), key: row.key.clone(), ..Event::plain(id, "a", "{}") },
            lane: row.lane,
            attempts: row.attempts,
            spent: row.spent,
            due_at: (row.due.0 != 0).then_some(row.due),
            behind: behind.take(1).next().filter(|_| row.key.is_some()),
        }
    }

    fn take_page(&mut self) {
        let Some((rows, is_whole)) = self.page.take() else { return };
        self.read = None;
        if let Some(through) = self.claims.take(rows, is_whole, &mut self.dispatcher, Moment { now: self.now, lead: 0 })
        {
            let later = |row: &&Row| row.state == DeliveryState::Retrying && row.due > through;
            let next = self.rows.values().filter(later).map(|row| row.due).min();
            next.into_iter().for_each(|due| self.begin_round_at(due));
        }
    }

    fn fail_read(&mut self) {
        if self.read.take().is_some() {
            self.page = None;
            self.claims.failed();
        }
    }

    fn begin_round_at(&mut self, due: Timestamp) {
        self.next_round = self.next_round.into_iter().chain([due]).min();
    }

    fn wait(&mut self, seconds: i64) {
        self.now.0 += seconds * 1_000_000;
        if self.next_round.is_some_and(|due| due <= self.now) {
            self.next_round = None;
            self.claims.begin_round();
        }
    }

    /// Under way: sent, or ended and not acknowledged.
    fn under_way(&self) -> BTreeSet<EventId> {
        let unsettled = self.ended.iter().chain(&self.settling).map(|(id, _)| *id);
        self.sent.iter().copied().chain(unsettled).collect()
    }

    /// Sends one; checks that it may be.
    fn send(&mut self) -> Result<bool, TestCaseError> {
        let Next::Send(work) = self.dispatcher.next(self.now, 0.5) else { return Ok(false) };
        let WorkId::Delivery(id) = work.id else { unreachable!("nothing is asked") };
        let known = self.claims.get(work.id).map(|claimed| claimed.attempts);
        let row = &self.rows[&id];
        prop_assert!(row.state.is_open(), "{} is sent, and is {:?}", id, row.state);
        prop_assert_eq!(known, Some(row.attempts), "{} is sent as the store has it", id);
        prop_assert!(row.due <= self.now, "{} is sent before it is due", id);
        prop_assert!(!self.under_way().contains(&id), "{} is sent twice at once", id);
        if let Some(key) = &row.key {
            let same = |other: &&EventId| self.rows[other].key.as_ref() == Some(key);
            prop_assert_eq!(self.sent.iter().find(same), None, "with {} of key {}", id, key);
            // What has ended and is not in the store yet counts as what it is going to be.
            let ends = |id: &EventId| self.ended.iter().chain(&self.settling).rev().find(|(ended, _)| ended == id);
            let is_over = |id: &EventId| ends(id).is_some_and(|(_, end)| !matches!(end, End::RetryIn(_)));
            let earlier = self.rows.range(..id).map(|(id, _)| id).filter(same);
            let passed =
                earlier.filter(|id| self.rows[id].state.is_open() && !self.rows[id].is_renewed).find(|id| !is_over(id));
            prop_assert_eq!(passed, None, "{} passes it, of key {}", id, key);
        }
        self.sent.insert(id);
        Ok(true)
    }

    /// What the client does when an attempt ended.
    fn end(&mut self, at: usize, end: End) {
        let Some(&id) = self.sent.iter().nth(at) else { return };
        self.sent.remove(&id);
        let verdict = match end {
            End::Delivered => Verdict::Delivered,
            End::RetryIn(_) | End::Exhausted => Verdict::Retry { retry_after: None },
            End::Rejected => Verdict::Dead(DeadReason::Rejected),
        };
        let finished =
            self.dispatcher.finished(WorkId::Delivery(id), verdict, SECOND, self.now, 0.5).expect("it is in flight");
        if let (End::Exhausted, Some(key)) = (end, &finished.work.key) {
            self.dispatcher.unblock(key);
        }
        finished.released.iter().for_each(|work| self.claims.release(work.id));
        let end = match end {
            End::RetryIn(seconds) => End::RetryIn(self.now.0 + seconds * 1_000_000),
            end => end,
        };
        self.ended.push((id, end));
    }

    fn settle(&mut self) {
        if !self.settling.is_empty() {
            return;
        }
        self.settling = std::mem::take(&mut self.ended);
        for (id, end) in &self.settling {
            let row = self.rows.get_mut(id).expect("a row");
            assert!(row.state.is_open());
            row.attempts += 1;
            row.is_renewed &= matches!(end, End::RetryIn(_));
            (row.state, row.due) = match end {
                End::Delivered => (DeliveryState::Delivered, Timestamp(0)),
                End::RetryIn(due) => (DeliveryState::Retrying, Timestamp(*due)),
                End::Rejected | End::Exhausted => (DeliveryState::Dead, Timestamp(0)),
            };
        }
    }

    fn acknowledge(&mut self) {
        for (id, end) in std::mem::take(&mut self.settling) {
            self.claims.settled(WorkId::Delivery(id), matches!(end, End::RetryIn(_)));
            if let End::RetryIn(due) = end {
                self.begin_round_at(Timestamp(due));
            }
        }
    }

    fn restart(&mut self) {
        // What was written but not acknowledged is written.
        let rows = std::mem::take(&mut self.rows);
        *self = Self { rows, now: self.now, reads: self.reads, ..Self::new() };
    }

    fn reset(&mut self) {
        self.dispatcher.release();
        let under_way = self.under_way();
        self.claims.reset(|id| matches!(id, WorkId::Delivery(id) if under_way.contains(&id)));
    }

    fn redrive(&mut self, at: usize) {
        let now = self.now;
        let dead = self.rows.values_mut().filter(|row| row.state == DeliveryState::Dead).nth(at);
        let Some(row) = dead else { return };
        (row.state, row.lane, row.due, row.spent) = (DeliveryState::Retrying, Lane::Replay, now, row.attempts);
        row.is_renewed = true;
        self.claims.begin_round();
    }

    fn apply(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Commit(lane, key, count) => self.commit(lane, key, count),
            Step::BeginRead => drop(self.begin_read()),
            Step::Snapshot => self.snapshot(),
            Step::TakePage => self.take_page(),
            Step::TakeLatePage(at, end) => {
                self.begin_read();
                self.snapshot();
                self.send()?;
                self.end(at, end);
                self.settle();
                self.acknowledge();
                self.take_page();
            }
            Step::FailRead => self.fail_read(),
            Step::Send => drop(self.send()?),
            Step::End(at, end) => self.end(at, end),
            Step::CancelAttempt(at) => {
                if let Some(id) = self.sent.iter().copied().nth(at) {
                    self.sent.remove(&id);
                    assert!(self.dispatcher.cancelled(WorkId::Delivery(id)));
                }
            }
            Step::Settle => self.settle(),
            Step::Acknowledge => self.acknowledge(),
            Step::Restart => self.restart(),
            Step::Reset => self.reset(),
            Step::Pause => self.dispatcher.pause(),
            Step::Resume => self.dispatcher.resume(),
            Step::Redrive(at) => self.redrive(at),
            Step::Wait(seconds) => self.wait(seconds),
            Step::LookAgain => self.claims.look_again(),
        }
        Ok(())
    }

    /// From here on the service takes everything; nobody looks without a reason.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        self.dispatcher.resume();
        let open = |model: &Self| model.rows.values().filter(|row| row.state.is_open()).count();
        let most_reads = self.reads + 40 + 12 * open(self);
        let mut idle = 0;
        while open(self) > 0 || !self.ended.is_empty() || !self.settling.is_empty() {
            let before = (self.reads, self.sent.len(), open(self), self.ended.len(), self.settling.len());
            self.begin_read();
            self.snapshot();
            self.take_page();
            while self.send()? {}
            while !self.sent.is_empty() {
                self.end(0, End::Delivered);
            }
            self.settle();
            self.acknowledge();
            let after = (self.reads, self.sent.len(), open(self), self.ended.len(), self.settling.len());
            prop_assert!(self.reads <= most_reads, "{} reads, and {} are open", self.reads, open(self));
            idle = if before == after { idle + 1 } else { 0 };
            prop_assert!(idle < 10, "stuck with {:?}\n{:#?}", self.claims, self.dispatcher);
            self.wait(i64::from(before == after));
        }
        prop_assert_eq!(self.claims.figures(), (0, 0));
        prop_assert!(self.rows.values().all(|row| !row.state.is_open()));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// CL-1, CL-2, CL-3, and that nothing is lost or delivered again.
    #[test]
    fn everything_is_delivered_in_order_and_once(steps in prop::collection::vec(step(), 0..200)) {
        let mut model = Model::new();
        for step in steps {
            model.apply(step)?;
        }
        model.drain()?;
    }
}

/// A page that is older than the failure it tells nothing of lets nobody pass.
#[test]
fn a_late_page_does_not_free_a_failing_key() {
    let mut model = Model::new();
    let mut run = |steps: &[Step]| steps.iter().for_each(|step| model.apply(step.clone()).expect("in order"));
    let read = [Step::BeginRead, Step::Snapshot, Step::TakePage];
    run(&[Step::Commit(Lane::Low, Some(0), 1), Step::Commit(Lane::High, Some(0), 2)]);
    (0..4).for_each(|_| run(&read));
    run(&[Step::Send, Step::BeginRead, Step::Snapshot, Step::End(0, End::RetryIn(1)), Step::TakePage, Step::Send]);
    run(&[Step::Settle, Step::Acknowledge, Step::Send]);
    model.drain().expect("in order");
}
