use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::domain::breaker::{BreakerState, Window};
use crate::domain::delivery::DeadReason;
use crate::domain::event::EventId;

const SECOND: Duration = Duration::from_secs(1);

/// A policy whose limits are so small that tests meet all of them.
pub(crate) const POLICY: DispatchPolicy = DispatchPolicy {
    concurrency: 3,
    in_hand: 6,
    behind: 2,
    rate: None,
    retries: RetryBudgetPolicy { percent: 20, minimum: RateLimit::per_second(1, 2) },
    lanes: LanePolicy { weights: [16, 4, 1], replay_every: 64, age_limit: Duration::from_secs(30), aged_every: 4 },
    breaker: BreakerPolicy {
        window: Window::Calls(10),
        minimum_calls: 10,
        failure_rate: 50,
        slow_call_duration: Duration::from_secs(10),
        slow_call_rate: 0,
        consecutive_failures: 3,
        open_base: Duration::from_secs(2),
        open_cap: Duration::from_secs(8),
        stable_after: Duration::from_secs(60),
        probes: 1,
        probe_timeout: Duration::from_secs(20),
        slow_start: Duration::from_secs(4),
    },
};

const RETRY: Verdict = Verdict::Retry { retry_after: None };

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000_000)
}

fn job(id: EventId) -> PendingWork {
    PendingWork { id: WorkId::Delivery(id), lane: Lane::Normal, key: None, attempt: 0, since: at(0) }
}

fn event(id: WorkId) -> EventId {
    match id {
        WorkId::Delivery(id) => id,
        WorkId::Ask(number) => -(number as EventId),
    }
}

fn ask(number: u64) -> PendingWork {
    PendingWork { id: WorkId::Ask(number), ..job(0) }
}

fn keyed(id: EventId, key: &'static str) -> PendingWork {
    PendingWork { key: Some(ByteString::from_static(key)), ..job(id) }
}

fn loaded(policy: DispatchPolicy, jobs: impl IntoIterator<Item = PendingWork>) -> Dispatcher {
    let mut dispatcher = Dispatcher::new(policy, None, at(0));
    for job in jobs {
        assert_eq!(dispatcher.offer(job), Offered::Taken);
    }
    dispatcher
}

/// Sends what may go at `now`; the ids, and why there are no more.
fn send(dispatcher: &mut Dispatcher, now: Timestamp) -> (Vec<EventId>, BlockedBy, Option<Timestamp>) {
    let mut sent = Vec::new();
    loop {
        match dispatcher.next(now, 0.0) {
            Next::Send(work) => sent.push(event(work.id)),
            Next::Turned(_) => {}
            Next::Wait { until, why } => return (sent, why, until),
        }
    }
}

fn finish(dispatcher: &mut Dispatcher, id: EventId, verdict: Verdict, now: Timestamp) -> Finished {
    dispatcher.finished(WorkId::Delivery(id), verdict, Duration::ZERO, now, 0.0).expect("in flight")
}

#[test]
fn no_more_are_in_flight_than_may_be() {
    let mut dispatcher = loaded(POLICY, (1..=5).map(job));
    assert_eq!(send(&mut dispatcher, at(0)), (vec![1, 2, 3], BlockedBy::Concurrency, None));
    finish(&mut dispatcher, 2, Verdict::Delivered, at(0));
    assert_eq!(send(&mut dispatcher, at(0)), (vec![4], BlockedBy::Concurrency, None));
    assert_eq!((dispatcher.wants(Lane::Normal), dispatcher.wants(Lane::Low), dispatcher.has_room()), (2, 3, 5));
}

#[test]
fn what_is_put_off_costs_nothing_and_begins_gently() {
    let retry = PendingWork { attempt: 2, ..keyed(1, "a") };
    let mut dispatcher = loaded(POLICY, [retry.clone(), keyed(2, "a"), job(3), job(4), job(5)]);
    assert_eq!(send(&mut dispatcher, at(0)).0, [1, 3, 4]);
    assert!(
        dispatcher.put_off(WorkId::Delivery(3), at(4), BlockedBy::RetryAfter)
            && dispatcher.put_off(WorkId::Delivery(1), at(2), BlockedBy::RetryAfter)
    );
    assert!(!dispatcher.put_off(WorkId::Delivery(1), at(9), BlockedBy::RetryAfter), "it is not in flight any more");
    finish(&mut dispatcher, 4, Verdict::Delivered, at(1));
    assert_eq!(send(&mut dispatcher, at(1)), (vec![], BlockedBy::RetryAfter, Some(at(4))));
    assert_eq!(dispatcher.rests(at(3)), Some((at(4), BlockedBy::RetryAfter)));
    let figures = dispatcher.breaker().figures(at(1));
    assert_eq!((figures.window.calls, figures.consecutive), (1, 0), "only what was delivered");
    assert_eq!(send(&mut dispatcher, at(4)), (vec![1], BlockedBy::Concurrency, Some(at(6))), "one first, as it was");
    assert_eq!(send(&mut dispatcher, at(6)), (vec![3], BlockedBy::Concurrency, Some(at(8))));
    assert_eq!(send(&mut dispatcher, at(8)).0, [5]);
}

#[test]
fn a_probe_that_is_put_off_is_made_again() {
    let mut dispatcher = loaded(POLICY, (1..=4).map(job));
    assert_eq!(send(&mut dispatcher, at(0)).0, [1, 2, 3]);
    for id in 1..=3 {
        finish(&mut dispatcher, id, RETRY, at(0));
    }
    assert_eq!(send(&mut dispatcher, at(2)).0, [4], "half open");
    assert!(dispatcher.put_off(WorkId::Delivery(4), at(5), BlockedBy::RetryAfter));
    assert_eq!(send(&mut dispatcher, at(4)), (vec![], BlockedBy::RetryAfter, Some(at(5))));
    assert_eq!(send(&mut dispatcher, at(5)).0, [4]);
    let closed = finish(&mut dispatcher, 4, Verdict::Delivered, at(5)).transition.expect("a transition");
    assert_eq!(closed.to, BreakerState::Closed);
}

#[test]
fn a_failing_key_gives_back_its_followers_and_holds_back_nobody_else() {
    let mut dispatcher = loaded(POLICY, [keyed(1, "a"), keyed(2, "a"), keyed(3, "b"), keyed(4, "a"), keyed(5, "b")]);
    assert_eq!(dispatcher.offer(keyed(6, "a")), Offered::HeldBack);
    assert_eq!(send(&mut dispatcher, at(0)), (vec![1, 3], BlockedBy::Empty, None));
    let failed = finish(&mut dispatcher, 1, RETRY, at(0));
    assert_eq!(failed.released, [keyed(2, "a"), keyed(4, "a")]);
    finish(&mut dispatcher, 3, Verdict::Dead(DeadReason::Rejected), at(0));
    assert_eq!(send(&mut dispatcher, at(0)), (vec![5], BlockedBy::Empty, None));
    assert_eq!(dispatcher.offer(keyed(2, "a")), Offered::HeldBack);
    assert_eq!(dispatcher.offer(PendingWork { attempt: 1, ..keyed(1, "a") }), Offered::Taken);
    assert_eq!(dispatcher.offer(keyed(2, "a")), Offered::Taken);
    assert_eq!(dispatcher.offer(keyed(2, "a")), Offered::Known);
}

#[test]
fn retries_wait_for_their_budget_and_first_attempts_pass_them() {
    let retries = (1..=4).map(|id| PendingWork { attempt: 1, ..job(id) });
    let mut dispatcher = loaded(DispatchPolicy { concurrency: 9, ..POLICY }, retries.chain([job(5)]));
    assert_eq!(send(&mut dispatcher, at(0)), (vec![1, 2, 5], BlockedBy::Budget, Some(at(1))));
    assert!(dispatcher.cancelled(WorkId::Delivery(2)));
    assert_eq!(send(&mut dispatcher, at(0)), (vec![2], BlockedBy::Budget, Some(at(1))));
    assert_eq!(send(&mut dispatcher, at(1)).0, [3]);
}

#[test]
fn retries_that_wait_for_their_budget_leave_room_for_first_attempts() {
    let retries = (1..=3).map(|id| PendingWork { attempt: 1, ..job(id) });
    let mut dispatcher = loaded(DispatchPolicy { in_hand: 6, ..POLICY }, retries);
    assert_eq!((dispatcher.has_room(), dispatcher.has_room_for_retries()), (3, 0));
    assert_eq!(send(&mut dispatcher, at(0)), (vec![1, 2], BlockedBy::Budget, Some(at(1))));
    assert_eq!((dispatcher.wants(Lane::Normal), dispatcher.has_room_for_retries()), (2, 2));
    dispatcher.pause();
    assert_eq!((dispatcher.has_room(), dispatcher.has_room_for_retries()), (0, 0));
}

#[test]
fn the_rate_is_kept() {
    let rate = Some(RateLimit { tokens: 1, per: SECOND * 2, burst: 1 });
    let mut dispatcher = loaded(DispatchPolicy { rate, ..POLICY }, (1..=2).map(job));
    assert_eq!(send(&mut dispatcher, at(0)), (vec![1], BlockedBy::Rate, Some(at(2))));
    assert_eq!(send(&mut dispatcher, at(2)), (vec![2], BlockedBy::Empty, None));
}

#[test]
fn a_service_comes_back_by_one_probe_and_then_slowly() {
    let mut dispatcher = loaded(POLICY, (1..=6).map(job));
    send(&mut dispatcher, at(0));
    let turned = [1, 2, 3].map(|id| finish(&mut dispatcher, id, RETRY, at(0)).transition.is_some());
    assert_eq!(turned, [false, false, true]);
    assert_eq!(send(&mut dispatcher, at(0)), (vec![], BlockedBy::Breaker, Some(at(2))));
    assert_eq!(send(&mut dispatcher, at(2)), (vec![4], BlockedBy::Breaker, Some(at(22))));
    assert!(dispatcher.cancelled(WorkId::Delivery(4)));
    assert_eq!(send(&mut dispatcher, at(2)), (vec![4], BlockedBy::Breaker, Some(at(22))));
    let closed = finish(&mut dispatcher, 4, Verdict::Gone, at(2)).transition;
    assert_eq!(closed.map(|t| t.to), Some(BreakerState::Closed));
    assert_eq!(send(&mut dispatcher, at(2)), (vec![5], BlockedBy::Concurrency, Some(at(4))));
    assert_eq!(send(&mut dispatcher, at(4)), (vec![6], BlockedBy::Empty, None));
}

#[test]
fn pause_and_drain_stop_everything_new() {
    let mut dispatcher = loaded(POLICY, [keyed(1, "a"), keyed(2, "a"), job(3)]);
    dispatcher.pause();
    assert_eq!((send(&mut dispatcher, at(0)), dispatcher.wants(Lane::High)), ((vec![], BlockedBy::Paused, None), 0));
    dispatcher.resume();
    assert!(matches!(dispatcher.next(at(0), 0.0), Next::Send(PendingWork { id: WorkId::Delivery(1), .. })));
    dispatcher.drain();
    assert_eq!(send(&mut dispatcher, at(0)), (vec![], BlockedBy::Draining, None));
    assert_eq!(dispatcher.offer(job(4)), Offered::Full);
    assert_eq!(dispatcher.release(), [keyed(2, "a"), job(3)]);
    finish(&mut dispatcher, 1, Verdict::Delivered, at(0));
    let figures = dispatcher.figures(at(0));
    assert_eq!((figures.in_flight, figures.in_hand, figures.keys), (0, [0; Lane::COUNT], 0));
}

#[test]
fn asks_and_deliveries_take_turns_whichever_is_older() {
    let newer = |number| PendingWork { since: at(9), ..ask(number) };
    let policy = DispatchPolicy { concurrency: 9, ..POLICY };
    let mut dispatcher = loaded(policy, (1..=4).map(job).chain((1..=3).map(newer)));
    assert_eq!(send(&mut dispatcher, at(9)).0, [1, -1, 2, -2, 3, -3, 4]);
}

#[test]
fn an_ask_goes_after_the_deliveries_of_its_key_that_are_in_hand_and_holds_back_none() {
    let keyed_ask = |number| PendingWork { key: Some(ByteString::from_static("a")), ..ask(number) };
    let mut dispatcher = loaded(POLICY, [keyed(1, "a"), keyed(2, "a"), keyed_ask(1), keyed(3, "a")]);
    assert_eq!(dispatcher.offer(keyed_ask(2)), Offered::HeldBack, "one of a key at a time");
    for expected in [1, 2, -1, 3] {
        let next = send(&mut dispatcher, at(0)).0;
        assert_eq!(next, [expected]);
        let id = if expected < 0 { WorkId::Ask(1) } else { WorkId::Delivery(expected) };
        let verdict = if expected < 0 { RETRY } else { Verdict::Delivered };
        assert_eq!(dispatcher.finished(id, verdict, Duration::ZERO, at(0), 0.0).expect("in flight").released, []);
    }
    assert_eq!(dispatcher.offer(keyed(4, "a")), Offered::Taken);
    assert_eq!(dispatcher.offer(keyed_ask(2)), Offered::Taken);
    send(&mut dispatcher, at(0));
    assert_eq!(finish(&mut dispatcher, 4, RETRY, at(0)).released, [keyed_ask(2)]);
    assert_eq!(dispatcher.offer(keyed_ask(2)), Offered::HeldBack, "4 comes again first");
}

#[test]
fn an_ask_that_nobody_waits_for_leaves() {
    let keyed_ask = |number, key| PendingWork { key: Some(ByteString::from_static(key)), ..ask(number) };
    let mut dispatcher = loaded(POLICY, [keyed_ask(1, "a"), keyed(1, "a"), keyed(2, "b"), keyed_ask(2, "b"), ask(3)]);
    for work in [keyed_ask(1, "a"), keyed_ask(2, "b"), ask(3)] {
        dispatcher.withdraw(&work);
    }
    assert_eq!(send(&mut dispatcher, at(0)).0, [1, 2]);
    dispatcher.withdraw(&keyed_ask(1, "a"));
    finish(&mut dispatcher, 1, Verdict::Delivered, at(0));
    finish(&mut dispatcher, 2, Verdict::Delivered, at(0));
    assert_eq!(dispatcher.figures(at(0)).keys, 0);
}

#[derive(Debug, Clone)]
enum Step {
    /// A new event in the store, with one of three keys or none.
    Publish(Lane, Option<u8>),
    /// Somebody asks, with one of the keys or none.
    Ask(Lane, Option<u8>),
    /// Nobody waits any more for one of those that are in hand.
    Withdraw(usize),
    /// Offers the oldest outside of one key.
    Offer(Option<u8>),
    Next,
    Finish(usize, Verdict),
    Cancel(usize),
    Wait(i64),
    Operator(u8),
    HandBack,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || prop::option::weighted(0.7, 0..3u8);
    let verdict = prop_oneof![
        4 => Just(Verdict::Delivered),
        3 => Just(RETRY),
        1 => Just(Verdict::Dead(DeadReason::Rejected)),
        1 => Just(Verdict::Gone),
    ];
    prop_oneof![
        6 => (prop::sample::select(&Lane::ALL[..]), key()).prop_map(|(lane, key)| Step::Publish(lane, key)),
        2 => (prop::sample::select(&Lane::ALL[..]), key()).prop_map(|(lane, key)| Step::Ask(lane, key)),
        1 => any::<usize>().prop_map(Step::Withdraw),
        8 => key().prop_map(Step::Offer),
        10 => Just(Step::Next),
        6 => (any::<usize>(), verdict).prop_map(|(k, verdict)| Step::Finish(k, verdict)),
        1 => any::<usize>().prop_map(Step::Cancel),
        4 => (0..3_000_000i64).prop_map(Step::Wait),
        1 => (0..5u8).prop_map(Step::Operator),
        1 => Just(Step::HandBack),
    ]
}

/// A store that knows of each open delivery where it is.
#[derive(Default)]
struct Model {
    all: BTreeMap<WorkId, PendingWork>,
    outside: BTreeSet<WorkId>,
    in_hand: BTreeSet<WorkId>,
    in_flight: BTreeSet<WorkId>,
    /// For each ask, the deliveries of its key that were in hand or in flight when it came.
    before: BTreeMap<WorkId, BTreeSet<WorkId>>,
}

impl Model {
    fn key(&self, id: WorkId) -> Option<ByteString> {
        self.all[&id].key.clone()
    }

    /// Moves `id` from one place, where it must be, to another.
    fn take(from: &mut BTreeSet<WorkId>, to: &mut BTreeSet<WorkId>, id: WorkId) -> Result<(), TestCaseError> {
        prop_assert!(from.remove(&id), "{:?} is not where it was (DP-2)", id);
        to.insert(id);
        Ok(())
    }

    fn sent(&mut self, work: &PendingWork, dispatcher: &Dispatcher, now: Timestamp) -> Result<(), TestCaseError> {
        prop_assert_eq!(Some(work), self.all.get(&work.id));
        if work.key.is_some() {
            prop_assert!(self.in_flight.iter().all(|id| self.key(*id) != work.key), "DP-3: two of a key");
            let of_key: Vec<WorkId> =
                self.in_hand.iter().copied().filter(|id| *id != work.id && self.key(*id) == work.key).collect();
            if let Some(before) = self.before.get(&work.id) {
                prop_assert!(!of_key.iter().any(|id| before.contains(id)), "KO-4: they go before it");
            } else {
                let earlier = of_key.iter().find(|id| !id.is_ask() && **id < work.id);
                prop_assert_eq!(earlier, None, "DP-3: order within the key");
                let passed = of_key.iter().find(|id| id.is_ask() && self.before[id].last() < Some(&work.id));
                prop_assert_eq!(passed, None, "KO-4: it goes before what comes later");
            }
        }
        Self::take(&mut self.in_hand, &mut self.in_flight, work.id)?;
        let figures = dispatcher.figures(now);
        prop_assert!(self.in_flight.len() <= figures.concurrency.min(POLICY.concurrency), "DP-3: concurrency");
        prop_assert!(!figures.paused && !figures.draining, "DP-4");
        let state = figures.breaker.state;
        prop_assert!(!matches!(state, BreakerState::Open | BreakerState::ForcedOpen), "DP-4");
        Ok(())
    }

    fn finished(&mut self, finished: &Finished, verdict: Verdict) -> Result<(), TestCaseError> {
        let id = finished.work.id;
        Self::take(&mut self.in_flight, &mut self.outside, id)?;
        if id.is_ask() {
            prop_assert!(finished.released.is_empty());
        }
        if matches!(verdict, Verdict::Delivered | Verdict::Dead(_)) {
            self.outside.remove(&id);
            prop_assert!(finished.released.is_empty());
        } else {
            self.all.entry(id).and_modify(|work| work.attempt += 1);
        }
        for follower in &finished.released {
            prop_assert_eq!(&follower.key, &finished.work.key);
            Self::take(&mut self.in_hand, &mut self.outside, follower.id)?;
        }
        Ok(())
    }

    /// It is in hand from now on.
    fn taken(&mut self, id: WorkId) -> Result<(), TestCaseError> {
        if id.is_ask() {
            self.before.insert(id, self.deliveries_of(&self.key(id)).collect());
        }
        Self::take(&mut self.outside, &mut self.in_hand, id)
    }

    /// Those in hand or in flight.
    fn deliveries_of(&self, key: &Option<ByteString>) -> impl Iterator<Item = WorkId> {
        let all = self.in_hand.iter().chain(&self.in_flight).copied();
        all.filter(move |id| !id.is_ask() && key.is_some() && self.key(*id) == *key)
    }

    /// Why an offer may be refused.
    fn held_back(&self, id: WorkId, key: &Option<ByteString>) -> Result<(), TestCaseError> {
        let is_of_key = |id: &&WorkId| self.key(**id) == *key;
        let in_line = self.in_hand.iter().chain(&self.in_flight);
        let has_ask = in_line.filter(is_of_key).any(|id| id.is_ask());
        if id.is_ask() {
            prop_assert!(has_ask || self.outside.iter().filter(is_of_key).any(|id| !id.is_ask()));
            return Ok(());
        }
        let count = self.deliveries_of(key).count();
        prop_assert!(count == POLICY.behind + 1 || has_ask && count == POLICY.behind);
        Ok(())
    }
}

fn nth(ids: &BTreeSet<WorkId>, k: usize) -> Option<WorkId> {
    ids.iter().nth(k.checked_rem(ids.len())?).copied()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    /// DP-1 to DP-4 over any sequence; and at the end all is delivered, in order within each key.
    #[test]
    fn nothing_is_lost_doubled_or_out_of_order(
        steps in prop::collection::vec(step(), 0..200), limited in any::<bool>(), jitter in 0.0..1.0f64,
    ) {
        let rate = limited.then_some(RateLimit::per_second(3, 2));
        let mut dispatcher = Dispatcher::new(DispatchPolicy { rate, ..POLICY }, None, at(0));
        let mut model = Model::default();
        let mut now = at(0);
        for step in steps {
            match step {
                Step::Publish(lane, key) => {
                    let id = WorkId::Delivery(model.all.len() as EventId + 1);
                    let key = key.map(|key| ByteString::from(key.to_string()));
                    model.all.insert(id, PendingWork { id, lane, key, attempt: 0, since: now });
                    model.outside.insert(id);
                }
                Step::Ask(lane, key) => {
                    let id = WorkId::Ask(model.all.len() as u64 + 1);
                    let key = key.map(|key| ByteString::from(key.to_string()));
                    model.all.insert(id, PendingWork { id, lane, key, attempt: 0, since: now });
                    model.outside.insert(id);
                }
                Step::Withdraw(k) => {
                    let asks: BTreeSet<WorkId> = model.in_hand.iter().copied().filter(|id| id.is_ask()).collect();
                    let Some(id) = nth(&asks, k) else { continue };
                    dispatcher.withdraw(&model.all[&id]);
                    model.in_hand.remove(&id);
                }
                Step::Offer(key) => {
                    let key = key.map(|key| ByteString::from(key.to_string()));
                    let Some(id) = model.outside.iter().copied().find(|id| model.key(*id) == key) else { continue };
                    let (work, wanted) = (model.all[&id].clone(), dispatcher.wants(model.all[&id].lane));
                    match dispatcher.offer(work) {
                        Offered::Taken => model.taken(id)?,
                        Offered::Full => prop_assert!(wanted == 0 && !id.is_ask()),
                        Offered::HeldBack => model.held_back(id, &key)?,
                        Offered::Known => prop_assert!(false, "it is outside"),
                    }
                }
                Step::Next => {
                    let before = format!("{dispatcher:?}");
                    match dispatcher.next(now, jitter) {
                        Next::Send(work) => model.sent(&work, &dispatcher, now)?,
                        Next::Turned(transition) => prop_assert_ne!(transition.from, transition.to),
                        Next::Wait { until, .. } => {
                            prop_assert!(until.is_none_or(|until| until > now));
                            prop_assert_eq!(format!("{dispatcher:?}"), before, "DP-1");
                        }
                    }
                }
                Step::Finish(k, verdict) => {
                    let Some(id) = nth(&model.in_flight, k) else { continue };
                    let finished = dispatcher.finished(id, verdict, Duration::ZERO, now, jitter);
                    model.finished(&finished.expect("in flight"), verdict)?;
                    prop_assert_eq!(dispatcher.finished(id, verdict, Duration::ZERO, now, jitter), None);
                }
                Step::Cancel(k) => {
                    let Some(id) = nth(&model.in_flight, k) else { continue };
                    prop_assert!(dispatcher.cancelled(id));
                    Model::take(&mut model.in_flight, &mut model.in_hand, id)?;
                }
                Step::Wait(us) => now.0 += us,
                Step::Operator(command) => match command {
                    0 => dispatcher.pause(),
                    1 => dispatcher.resume(),
                    2 => drop(dispatcher.force_open()),
                    3 => drop(dispatcher.force_close()),
                    _ => drop(dispatcher.reset()),
                },
                Step::HandBack => {
                    let ids: Vec<WorkId> = dispatcher.release().into_iter().map(|work| work.id).collect();
                    prop_assert_eq!(ids, model.in_hand.iter().copied().collect::<Vec<_>>());
                    model.outside.append(&mut model.in_hand);
                }
            }
            let figures = dispatcher.figures(now);
            let deliveries = model.in_hand.iter().filter(|id| !id.is_ask()).count();
            prop_assert_eq!(figures.in_hand.iter().sum::<usize>(), deliveries);
            prop_assert_eq!(dispatcher.in_flight().collect::<BTreeSet<_>>(), model.in_flight.clone());
        }

        dispatcher.resume();
        dispatcher.reset();
        for _ in 0..10_000 {
            while let Some(id) = nth(&model.in_flight, 0) {
                let finished = dispatcher.finished(id, Verdict::Delivered, Duration::ZERO, now, jitter);
                model.finished(&finished.expect("in flight"), Verdict::Delivered)?;
            }
            for id in model.outside.clone() {
                if dispatcher.offer(model.all[&id].clone()) == Offered::Taken {
                    model.taken(id)?;
                }
            }
            match dispatcher.next(now, jitter) {
                Next::Send(work) => model.sent(&work, &dispatcher, now)?,
                Next::Turned(_) => prop_assert!(false, "the breaker was reset"),
                Next::Wait { until: Some(until), .. } => now = until,
                Next::Wait { until: None, why } => {
                    prop_assert_eq!(why, BlockedBy::Empty);
                    break;
                }
            }
        }
        prop_assert!(model.outside.is_empty() && model.in_hand.is_empty() && model.in_flight.is_empty());
    }
}
