//! Saves of instances against a model of them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use proptest::{prop_assert, prop_assert_eq};

use super::sagas::{id, made, save, started};
use super::{at, on_both, run};
use crate::domain::saga::State;
use crate::storage::{Reader, SagaFilter, SagaRecord, SagaStanding, SagaTransition, Writer};

/// One step that is asked for.
#[derive(Debug, Clone)]
struct Ask {
    instance: u8,
    /// It is made though it is there, or goes on though it is not.
    is_wrong: bool,
    is_stale: bool,
    state: State,
    holds: bool,
    due: bool,
    entries: u8,
}

fn saves() -> impl Strategy<Value = Vec<Vec<Ask>>> {
    let ask = (0..6u8, 0..10u8, any::<[bool; 2]>(), select(&State::ALL[..]), 0..3u8);
    let ask = ask.prop_map(|(instance, odds, [holds, due], state, entries)| Ask {
        instance,
        is_wrong: odds == 0,
        is_stale: odds == 1,
        state,
        holds: holds && state.is_live() && state != State::Queued,
        due,
        entries,
    });
    vec(vec(ask, 1..4), 1..12)
}

type Instances = BTreeMap<String, (String, SagaStanding)>;

/// The step that is asked for, and whether it fits what is there.
fn step(model: &mut Instances, case: u64, ask: &Ask) -> (SagaTransition, bool) {
    let n = case * 10 + u64::from(ask.instance);
    let known = model.get(&id(n)).map(|(_, standing)| standing.length);
    let mut step = made(n, &format!("{case}/{}", ask.instance % 3), ask.state);
    if known.is_none() == ask.is_wrong {
        step.new = None;
    }
    step.from = known.unwrap_or_default() + u32::from(ask.is_stale);
    step.entries = vec![started(0); usize::from(ask.entries)];
    step.standing.length = step.from + u32::from(ask.entries);
    step.standing.holds = ask.holds;
    step.standing.due_at = ask.due.then_some(at(7));
    let fits = !ask.is_stale && !ask.is_wrong;
    model.insert(id(n), (format!("{case}/{}", ask.instance % 3), step.standing.clone()));
    (step, fits)
}

fn check_case(writer: &mut Writer, reader: &Reader, case: u64, saves: &[Vec<Ask>]) -> Result<(), TestCaseError> {
    let mut model = Instances::new();
    for asks in saves {
        let mut after = model.clone();
        let steps: Vec<(SagaTransition, bool)> = asks.iter().map(|ask| step(&mut after, case, ask)).collect();
        let holders: Vec<&String> = after.values().filter(|(_, standing)| standing.holds).map(|(of, _)| of).collect();
        let are_one = holders.iter().collect::<BTreeSet<_>>().len() == holders.len();
        let fits = are_one && steps.iter().all(|(_, fits)| *fits);
        let steps: Vec<SagaTransition> = steps.into_iter().map(|(step, _)| step).collect();
        prop_assert_eq!(save(writer, &steps), fits, "{:?}", steps);
        if fits {
            model = after;
        }
        let stored = run(reader.list_sagas(SagaFilter::default(), None, 10_000)).expect("read");
        let mut counts: BTreeMap<(String, i16), u64> = BTreeMap::new();
        for SagaRecord { saga, standing } in &stored {
            *counts.entry((saga.origin.saga.clone(), standing.state as i16)).or_default() += 1;
        }
        let told = run(reader.saga_counts()).expect("read").into_iter();
        prop_assert_eq!(
            told.map(|(saga, state, count)| ((saga, state as i16), count)).collect::<BTreeMap<_, _>>(),
            counts
        );
        let mut queues: BTreeMap<&str, SagaRecord> = BTreeMap::new();
        for record in stored.iter().filter(|record| model.contains_key(&record.saga.origin.id)) {
            let (of, expected) = &model[&record.saga.origin.id];
            let is_queued = expected.state == State::Queued;
            let due_at = if is_queued { record.standing.due_at } else { expected.due_at };
            prop_assert_eq!(&record.standing, &SagaStanding { due_at, ..expected.clone() });
            if is_queued {
                queues.insert(of, record.clone());
            }
        }
        let is_held = |of: &str| model.values().any(|(held, standing)| held == of && standing.holds);
        for (of, first) in queues {
            prop_assert!(is_held(of) || first.standing.due_at.is_some(), "nobody begins with {of}: {first:?}");
        }
    }
    Ok(())
}

#[test]
fn saves_are_those_of_the_model() {
    on_both(|store| {
        let (writer, reader) = (std::cell::RefCell::new(store.writer()), store.reader());
        let case = std::cell::Cell::new(1);
        let cases = if store._dir.is_some() { 64 } else { 24 };
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&saves(), |saves| {
            case.set(case.get() + 1);
            check_case(&mut writer.borrow_mut(), &reader, case.get(), &saves)
        });
        outcome.unwrap_or_else(|failure| panic!("{failure}"));
    });
}
