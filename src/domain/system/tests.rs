use proptest::prelude::*;

use super::*;

const NOON: Timestamp = Timestamp(1_690_891_200_000_000);

fn running() -> System {
    System { state: SystemState::Running, since: Timestamp(0), reason: None, transition: None, change: None }
}

fn at(ms: u64) -> Timestamp {
    NOON.plus(Duration::from_millis(ms))
}

fn put(transition: &str, to: SystemState, barrier: &[&str]) -> Put {
    Put {
        transition: transition.to_owned(),
        recovery: format!("{transition}r"),
        to,
        reason: Some("an upgrade".to_owned()),
        barrier: barrier.iter().map(|service| (*service).to_owned()).collect(),
        timeout: Duration::from_millis(100),
        on_timeout: OnTimeout::Revert,
    }
}

fn acknowledged(transition: &str, service: &str) -> Input {
    Input::Acknowledged { transition: transition.to_owned(), service: service.to_owned() }
}

#[test]
fn a_change_is_made_when_all_have_acknowledged_it() {
    let mut system = running();
    let told = system.apply(Input::Put(put("t1", SystemState::Maintenance, &["a", "b"])), at(0)).expect("begun");
    assert_eq!((told.len(), system.state), (1, SystemState::Running), "the old state holds");
    assert_eq!(system.apply(acknowledged("t1", "b"), at(1)), Ok(Vec::new()));
    assert_eq!(system.apply(acknowledged("t1", "b"), at(2)), Ok(Vec::new()), "again");
    assert_eq!(system.apply(acknowledged("t0", "a"), at(2)), Ok(Vec::new()), "of another one");
    assert_eq!(system.change.as_ref().expect("under way").waiting_for().collect::<Vec<_>>(), ["a"]);
    let told = system.apply(acknowledged("t1", "a"), at(3)).expect("told");
    let [Told { what: Step::Changed { missing }, from, to, barrier, .. }] = &told[..] else { panic!("{told:?}") };
    assert_eq!((*from, *to, missing.len(), barrier.len()), (SystemState::Running, SystemState::Maintenance, 0, 2));
    assert_eq!(
        (system.state, system.since, system.transition.as_deref()),
        (SystemState::Maintenance, at(3), Some("t1"))
    );
    let late = Input::Vetoed { transition: "t1".to_owned(), service: "a".to_owned(), status: 409 };
    assert_eq!(system.apply(late, at(4)), Ok(Vec::new()), "too late");
}

#[test]
fn without_a_barrier_it_is_made_at_once_and_to_the_same_state_nothing_is() {
    let mut system = running();
    assert_eq!(system.apply(Input::Put(put("t1", SystemState::Running, &["a"])), at(0)), Ok(Vec::new()));
    let told = system.apply(Input::Put(put("t2", SystemState::Draining, &[])), at(0)).expect("made");
    assert!(matches!(&told[..], [Told { what: Step::Changing { .. }, .. }, Told { what: Step::Changed { .. }, .. }]));
    assert_eq!(system.state, SystemState::Draining);
    let ended = system.apply(Input::Drained { transition: "t3".to_owned() }, at(9)).expect("told");
    assert_eq!((ended.len(), system.state, system.since), (1, SystemState::Running, at(9)));
    let by_hand = Input::Put(put("t4", SystemState::Degraded, &[]));
    assert_eq!(system.apply(by_hand, at(10)), Err(Refusal::ByItself));
}

#[test]
fn a_degraded_system_is_running_before_it_is_changed() {
    let mut system = running();
    let degraded = |transition: &str| Input::Degraded { transition: transition.to_owned(), reason: "b".to_owned() };
    assert_eq!(system.apply(degraded("d1"), at(0)).expect("told").len(), 1);
    assert_eq!(system.state, SystemState::Degraded);
    let told = system.apply(Input::Put(put("t1", SystemState::Maintenance, &["a"])), at(1)).expect("begun");
    let steps: Vec<_> = told.iter().map(|told| (told.from, told.to)).collect();
    use SystemState::{Degraded, Maintenance, Running};
    assert_eq!(steps, [(Degraded, Running), (Running, Maintenance)]);
    assert_eq!(system.apply(degraded("d2"), at(2)), Ok(Vec::new()), "not while it changes");
    assert_eq!(system.seen(true), Running);
    system.apply(Input::TimePassed { transition: "t1".to_owned() }, at(101)).expect("reverted");
    assert_eq!((system.state, system.seen(true), system.seen(false)), (Running, Degraded, Running));
}

#[test]
fn what_a_delivery_says_of_a_change() {
    use DeliveryState::{Dead, Delivered, Retrying, Waiting};
    assert_eq!(answer(Delivered, None, Some(204)), Some(Answer::Acknowledged));
    assert_eq!(answer(Dead, Some("rejected"), Some(409)), Some(Answer::Vetoed(409)));
    assert_eq!(answer(Dead, Some("rejected"), Some(302)), None, "a redirect is no veto");
    assert_eq!(answer(Dead, Some("exhausted"), Some(429)), None);
    assert_eq!(answer(Dead, Some("exhausted"), Some(503)), None);
    assert_eq!(answer(Dead, Some("cancelled"), None), None);
    assert_eq!(answer(Retrying, Some("answered 410"), Some(410)), Some(Answer::Vetoed(410)));
    for status in [404, 408, 425, 429, 500, 503] {
        assert_eq!(answer(Retrying, Some("failed"), Some(status)), None, "{status}");
    }
    assert_eq!(answer(Waiting, None, None), None);
}

#[derive(Debug, Clone)]
enum Move {
    Put {
        to: SystemState,
        barrier: Vec<&'static str>,
        proceeds: bool,
    },
    Acknowledge(&'static str),
    Veto(&'static str),
    Wait(u64),
    TimePassed,
    Degraded,
    Recovered,
    Drained,
    /// One of an earlier transition comes late.
    Late(&'static str),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let service = || prop::sample::select(vec!["a", "b", "c"]);
    let one = prop_oneof![
        3 => (prop::sample::select(SystemState::ALL.to_vec()), prop::sample::subsequence(vec!["a", "b", "c"], 0..=3), any::<bool>())
            .prop_map(|(to, barrier, proceeds)| Move::Put { to, barrier, proceeds }),
        6 => service().prop_map(Move::Acknowledge),
        1 => service().prop_map(Move::Veto),
        2 => (0..80_u64).prop_map(Move::Wait),
        3 => Just(Move::TimePassed),
        2 => Just(Move::Degraded),
        2 => Just(Move::Recovered),
        1 => Just(Move::Drained),
        2 => service().prop_map(Move::Late),
    ];
    prop::collection::vec(one, 1..60)
}

proptest! {
    /// Whatever happens in whatever order: each change that began ends once or is the one under way, the old state holds
    /// until then, and the states form one chain in what is told.
    #[test]
    fn a_change_ends_exactly_once(moves in moves()) {
        let (mut system, mut now, mut number) = (running(), 0, 0);
        let mut told: Vec<Told> = Vec::new();
        for step in moves {
            let before = system.clone();
            let current = system.change.as_ref().map_or("none".to_owned(), |change| change.transition.clone());
            number += 1;
            let new = format!("t{number}");
            let input = match step.clone() {
                Move::Put { to, barrier, proceeds } => {
                    let on_timeout = if proceeds { OnTimeout::Proceed } else { OnTimeout::Revert };
                    Input::Put(Put { on_timeout, ..put(&new, to, &barrier) })
                }
                Move::Acknowledge(service) => acknowledged(&current, service),
                Move::Veto(service) => Input::Vetoed { transition: current, service: service.to_owned(), status: 409 },
                Move::Wait(ms) => {
                    now += ms;
                    continue;
                }
                Move::TimePassed => Input::TimePassed { transition: current },
                Move::Degraded => Input::Degraded { transition: new, reason: "b".to_owned() },
                Move::Recovered => Input::Recovered { transition: new },
                Move::Drained => Input::Drained { transition: new },
                Move::Late(service) => acknowledged("t0", service),
            };
            match system.apply(input, at(now)) {
                Err(refusal) => {
                    prop_assert_eq!(&system, &before, "a refusal changes nothing");
                    let Move::Put { to, .. } = step else { panic!("only a put is refused") };
                    let is_changing = before.change.is_some();
                    prop_assert_eq!(matches!(refusal, Refusal::Changing { .. }), is_changing);
                    prop_assert!(is_changing || to == SystemState::Degraded);
                }
                Ok(steps) => {
                    if before.change.is_some() && system.change.is_some() {
                        prop_assert_eq!((before.state, before.since), (system.state, system.since), "it holds");
                    }
                    told.extend(steps);
                }
            }
            if let Some(change) = &system.change {
                prop_assert!(change.waiting_for().next().is_some(), "it waits for somebody");
                prop_assert!(system.state != SystemState::Degraded);
            }
        }
        let (mut state, mut open): (_, Option<&Told>) = (SystemState::Running, None);
        for told in &told {
            prop_assert_eq!(told.from, state);
            if told.from == SystemState::Degraded || told.to == SystemState::Degraded {
                prop_assert!(told.from == SystemState::Running || told.to == SystemState::Running);
                prop_assert!(open.is_none());
            }
            match (&told.what, open) {
                (Step::Changing { .. }, None) => open = Some(told),
                (Step::Changing { .. }, Some(_)) => panic!("a second one has begun"),
                (_, Some(begun)) => {
                    prop_assert_eq!((&begun.transition, begun.to, &begun.barrier), (&told.transition, told.to, &told.barrier));
                    open = None;
                    if matches!(told.what, Step::Changed { .. }) {
                        state = told.to;
                    }
                }
                (Step::Changed { .. }, None) => {
                    prop_assert!(told.barrier.is_empty());
                    state = told.to;
                }
                (Step::Reverted(_), None) => panic!("nothing was under way"),
            }
        }
        prop_assert_eq!(system.state, state);
        let under_way = system.change.as_ref().map(|change| &change.transition);
        prop_assert_eq!(under_way, open.map(|told| &told.transition));
    }
}
