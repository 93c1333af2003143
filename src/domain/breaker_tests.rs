use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

const POLICY: BreakerPolicy = BreakerPolicy {
    window: Window::Calls(10),
    minimum_calls: 4,
    failure_rate: 50,
    slow_call_duration: SECOND,
    slow_call_rate: 80,
    consecutive_failures: 5,
    open_base: Duration::from_secs(2),
    open_cap: Duration::from_secs(9),
    stable_after: Duration::from_secs(60),
    probes: 2,
    probe_timeout: Duration::from_secs(3),
    slow_start: Duration::from_secs(10),
};

const GOOD: CallResult = CallResult { failed: false, took: Duration::ZERO };
const BAD: CallResult = CallResult { failed: true, took: Duration::ZERO };
const SLOW: CallResult = CallResult { failed: false, took: SECOND };

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000_000)
}

/// Calls once and says where that led.
fn call(breaker: &mut Breaker, result: CallResult, now: Timestamp) -> Option<BreakerState> {
    let permit = breaker.acquire(now).expect("permitted");
    breaker.record(permit, result, now, 0.0).map(|transition| transition.to)
}

fn trip(breaker: &mut Breaker, now: Timestamp) {
    while call(breaker, BAD, now).is_none() {}
    assert_eq!(breaker.state(), BreakerState::Open);
}

/// Through half open to closed, at the time it is due.
fn recover(breaker: &mut Breaker) -> Timestamp {
    let due = breaker.due().expect("open");
    assert_eq!(breaker.tick(due, 0.0).map(|t| t.to), Some(BreakerState::HalfOpen));
    assert_eq!([(); 2].map(|()| call(breaker, GOOD, due)), [None, Some(BreakerState::Closed)]);
    due
}

#[test]
fn it_opens_by_rate_by_slowness_and_by_failures_in_a_row() {
    let open = Some(BreakerState::Open);
    let cases: [(&[CallResult], usize); 3] = [
        (&[GOOD, GOOD, BAD, BAD], 4),
        (&[SLOW, SLOW, SLOW, GOOD, SLOW], 5),
        (&[GOOD, GOOD, GOOD, GOOD, GOOD, GOOD, GOOD, BAD, BAD, BAD, BAD, BAD], 12),
    ];
    for (calls, opens_at) in cases {
        let mut breaker = Breaker::new(POLICY);
        let opened = calls.iter().position(|result| call(&mut breaker, *result, at(0)) == open);
        assert_eq!(opened, Some(opens_at - 1));
    }
}

#[test]
fn the_open_time_doubles_until_it_was_stable() {
    let mut breaker = Breaker::new(POLICY);
    let mut now = at(0);
    let mut spans = Vec::new();
    for _ in 0..4 {
        trip(&mut breaker, now);
        let closed = recover(&mut breaker);
        spans.push(closed.since(now).as_secs());
        now = closed;
    }
    now = now.plus(POLICY.stable_after);
    trip(&mut breaker, now);
    spans.push(recover(&mut breaker).since(now).as_secs());
    assert_eq!(spans, [2, 4, 8, 9, 2]);
}

#[test]
fn a_failed_slow_or_silent_probe_opens_it_again() {
    let probe: [fn(&mut Breaker, Timestamp) -> Option<BreakerState>; 3] = [
        |breaker, now| call(breaker, BAD, now),
        |breaker, now| [(); 2].map(|()| call(breaker, SLOW, now))[1],
        |breaker, now| {
            let _lost = breaker.acquire(now);
            breaker.tick(now.plus(POLICY.probe_timeout), 0.0).map(|transition| transition.to)
        },
    ];
    for probe in probe {
        let mut breaker = Breaker::new(POLICY);
        trip(&mut breaker, at(0));
        breaker.tick(at(2), 0.0);
        assert_eq!(probe(&mut breaker, at(2)), Some(BreakerState::Open));
        assert_eq!(breaker.figures(at(2)).openings, 2);
    }
}

#[test]
fn a_released_probe_costs_nothing() {
    let mut breaker = Breaker::new(POLICY);
    trip(&mut breaker, at(0));
    breaker.tick(at(2), 0.0);
    let first = breaker.acquire(at(2)).expect("first probe");
    let _second = breaker.acquire(at(2)).expect("second probe");
    assert_eq!(breaker.acquire(at(2)), Err(NotPermitted { retry_at: Some(at(5)) }));
    breaker.release(first);
    assert!(breaker.acquire(at(2)).is_ok());
}

#[test]
fn after_closing_concurrency_grows_step_by_step() {
    let mut breaker = Breaker::new(POLICY);
    assert_eq!(breaker.concurrency(at(0), 11), 11);
    trip(&mut breaker, at(0));
    let mut now = recover(&mut breaker);
    let mut allowed = vec![breaker.concurrency(now, 11)];
    while let Some(next) = breaker.grows_at(now, 11) {
        assert_eq!(breaker.concurrency(Timestamp(next.0 - 1), 11), breaker.concurrency(now, 11));
        now = next;
        allowed.push(breaker.concurrency(now, 11));
    }
    assert_eq!(allowed, (1..=11).collect::<Vec<_>>());
    assert_eq!(now, at(12));
}

#[test]
fn operators_have_the_last_word() {
    let mut breaker = Breaker::new(POLICY);
    let early = breaker.acquire(at(0)).expect("closed");
    let states = |t: Option<Transition>| t.map(|t| (t.from.as_str(), t.to.as_str()));
    assert_eq!(states(breaker.force_open()), Some(("closed", "forced_open")));
    assert_eq!(breaker.force_open(), None);
    assert_eq!(breaker.acquire(at(0)), Err(NotPermitted { retry_at: None }));
    assert_eq!(states(breaker.force_close()), Some(("forced_open", "forced_closed")));
    assert_eq!([(); 20].map(|()| call(&mut breaker, BAD, at(0))), [None; 20]);
    assert_eq!(states(breaker.reset()), Some(("forced_closed", "closed")));
    assert_eq!(breaker.record(early, BAD, at(0), 0.0), None);
    assert_eq!(breaker.figures(at(0)).window, Counts::default());
    assert_eq!(breaker.reset(), None);
}

#[test]
fn a_restart_keeps_what_counts() {
    let through_text = |breaker: &Breaker| -> BreakerSnapshot {
        let text = serde_json::to_string(&breaker.snapshot()).expect("numbers and names");
        serde_json::from_str(&text).expect("what was written")
    };
    let mut breaker = Breaker::new(POLICY);
    trip(&mut breaker, at(0));
    let mut restored = Breaker::restore(through_text(&breaker), POLICY, at(1));
    assert_eq!((restored.snapshot(), restored.due()), (breaker.snapshot(), Some(at(2))));

    restored.tick(at(2), 0.0);
    let half_open = Breaker::restore(through_text(&restored), POLICY, at(2));
    assert_eq!((half_open.state(), half_open.due()), (BreakerState::Open, Some(at(2))));

    let with_clock_set_back = Breaker::restore(breaker.snapshot(), POLICY, at(-1_000));
    assert_eq!(with_clock_set_back.due(), Some(Timestamp(-1_000_000_000 + 11_250_000)));

    // Closed in the future, by a clock that was wrong: slow start begins now, and ends.
    let closed = BreakerSnapshot { state: BreakerState::Closed, closed_at: Some(at(1_000_000)), ..breaker.snapshot() };
    let restored = Breaker::restore(closed, POLICY, at(0));
    let slow_start = i64::try_from(POLICY.slow_start.as_secs()).expect("a few");
    assert_eq!((restored.concurrency(at(0), 8), restored.concurrency(at(slow_start), 8)), (1, 8));

    breaker.force_open();
    assert_eq!(Breaker::restore(through_text(&breaker), POLICY, at(3)).state(), BreakerState::ForcedOpen);
}

#[derive(Debug, Clone)]
enum Step {
    Wait(i64),
    Tick,
    Acquire,
    /// The result of one of the calls under way.
    Record(usize, bool, bool),
    Release(usize),
    ForceOpen,
    ForceClose,
    Reset,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_000_000i64).prop_map(Step::Wait),
        4 => Just(Step::Tick),
        8 => Just(Step::Acquire),
        8 => (any::<usize>(), any::<bool>(), any::<bool>()).prop_map(|(k, failed, slow)| Step::Record(k, failed, slow)),
        1 => any::<usize>().prop_map(Step::Release),
        1 => prop_oneof![Just(Step::ForceOpen), Just(Step::ForceClose), Just(Step::Restart)],
        1 => Just(Step::Reset),
    ]
}

fn policy() -> impl Strategy<Value = BreakerPolicy> {
    let window = prop_oneof![
        (1..12u32).prop_map(Window::Calls),
        (1..20_000_000u64).prop_map(|us| Window::Time(Duration::from_micros(us)))
    ];
    (window, 0..8u32, 0..=100u32, 0..=100u32, 0..6u32, 1..4u32, (0..5u64, 0..20u64)).prop_map(
        |(window, minimum_calls, failure_rate, slow_call_rate, consecutive_failures, probes, (base, cap))| {
            BreakerPolicy {
                window,
                minimum_calls,
                failure_rate,
                slow_call_rate,
                consecutive_failures,
                probes,
                open_base: SECOND * base as u32,
                open_cap: SECOND * cap as u32,
                ..POLICY
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    /// CB-1 to CB-5 over any sequence of calls, results, times, commands and restarts.
    #[test]
    fn the_invariants_hold(
        policy in policy(), steps in prop::collection::vec(step(), 0..150), jitter in 0.0..1.0f64,
    ) {
        let mut breaker = Breaker::new(policy);
        let mut now = at(1_000);
        // Permits under way, each with the number of transitions before it.
        let mut calls: Vec<(Permit, u32)> = Vec::new();
        let mut transitions = 0;
        for step in steps {
            let before = (breaker.state(), breaker.figures(now));
            let mut operator = false;
            let transition = match step {
                Step::Wait(us) => {
                    now.0 += us;
                    None
                }
                Step::Tick => breaker.tick(now, jitter),
                Step::Acquire => {
                    let permitted = breaker.acquire(now);
                    match before.0 {
                        BreakerState::Closed | BreakerState::ForcedClosed => prop_assert!(permitted.is_ok()),
                        BreakerState::Open => prop_assert_eq!(
                            &permitted, &Err(NotPermitted { retry_at: before.1.open_until }), "CB-1"),
                        BreakerState::ForcedOpen => prop_assert_eq!(
                            &permitted, &Err(NotPermitted { retry_at: None }), "CB-1"),
                        BreakerState::HalfOpen => {
                            let probes = calls.iter().filter(|(_, epoch)| *epoch == transitions).count();
                            prop_assert_eq!(permitted.is_ok(), probes < policy.probes as usize, "CB-2");
                        }
                    }
                    calls.extend(permitted.map(|permit| (permit, transitions)));
                    None
                }
                Step::Record(k, failed, slow) if !calls.is_empty() => {
                    let (permit, epoch) = calls.swap_remove(k % calls.len());
                    let took = if slow { policy.slow_call_duration } else { Duration::ZERO };
                    let transition = breaker.record(permit, CallResult { failed, took }, now, jitter);
                    if epoch != transitions {
                        prop_assert_eq!(transition, None, "CB-3");
                        prop_assert_eq!(breaker.figures(now), before.1, "CB-3");
                    }
                    transition
                }
                Step::Release(k) if !calls.is_empty() => {
                    let (permit, _) = calls.swap_remove(k % calls.len());
                    breaker.release(permit);
                    None
                }
                Step::Record(..) | Step::Release(_) => None,
                Step::ForceOpen => { operator = true; breaker.force_open() }
                Step::ForceClose => { operator = true; breaker.force_close() }
                Step::Reset => { operator = true; breaker.reset() }
                Step::Restart => {
                    breaker = Breaker::restore(breaker.snapshot(), policy, now);
                    calls.clear();
                    let expected =
                        if before.0 == BreakerState::HalfOpen { BreakerState::Open } else { before.0 };
                    prop_assert_eq!(breaker.state(), expected);
                    if before.0 == BreakerState::Open {
                        prop_assert_eq!(breaker.due(), before.1.open_until);
                    }
                    continue;
                }
            };
            let figures = breaker.figures(now);
            prop_assert!(figures.probes_in_flight <= policy.probes as usize, "CB-2");
            match transition {
                Some(transition) => {
                    transitions += 1;
                    prop_assert_eq!((transition.from, transition.to), (before.0, figures.state));
                    let forced = matches!(before.0, BreakerState::ForcedOpen | BreakerState::ForcedClosed);
                    prop_assert!(operator || !forced, "CB-4");
                    if let Some(until) = figures.open_until {
                        let span = until.since(now);
                        let longest = policy.open_cap.max(policy.open_base).mul_f64(1.25);
                        prop_assert!(policy.open_base <= span && span <= longest, "CB-5: {:?}", span);
                    }
                }
                None => prop_assert_eq!(figures.state, before.0),
            }
            prop_assert!(breaker.concurrency(now, 7) <= 7 && breaker.concurrency(now, 7) >= 1);
        }
    }

    /// A closed breaker opens exactly when the last calls, kept as a plain list, say so.
    #[test]
    fn it_opens_when_a_plain_list_says_so(
        limit in 1..12u32, minimum in 0..15u32, failure_rate in 0..=100u32, slow_rate in 0..=100u32, row in 0..6usize,
        calls in prop::collection::vec((any::<bool>(), any::<bool>()), 0..40),
    ) {
        let policy = BreakerPolicy {
            window: Window::Calls(limit), minimum_calls: minimum, failure_rate, slow_call_rate: slow_rate,
            consecutive_failures: row as u32, ..POLICY
        };
        let mut breaker = Breaker::new(policy);
        for (n, (failed, slow)) in calls.iter().enumerate() {
            let took = if *slow { policy.slow_call_duration } else { Duration::ZERO };
            let opened = call(&mut breaker, CallResult { failed: *failed, took }, at(0)).is_some();

            let so_far = &calls[..=n];
            let recent = &so_far[so_far.len().saturating_sub(limit as usize)..];
            let percent = |count: usize| 100 * count as u32;
            let over = |count: usize, rate: u32| rate > 0 && percent(count) >= rate * recent.len() as u32;
            let judged = recent.len() as u32 >= minimum.min(limit);
            let expected = judged && (over(recent.iter().filter(|call| call.0).count(), failure_rate)
                    || over(recent.iter().filter(|call| call.1).count(), slow_rate))
                || row > 0 && so_far.iter().rev().take_while(|call| call.0).count() >= row;
            prop_assert_eq!(opened, expected, "call {}", n);
            if opened {
                break;
            }
        }
    }
}
