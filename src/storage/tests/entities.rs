//! Entities against a model: every batch is decided as its requests would be one after another.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use proptest::{prop_assert, prop_assert_eq};
use smallvec::SmallVec;

use super::{NOON, Store, event, idempotency, on_both, run};
use crate::domain::entity::{Buckets, Change, EntityId, EntityKey, EntityType, Mark, Op, Precondition};
use crate::domain::event::{Append, AppendOutcome, EventId, NewEvent};
use crate::storage::{AsOf, DigestQuery, EntityQuery, Outcome, Writer};

/// One change that is asked for.
#[derive(Debug, Clone)]
struct Ask {
    key: u8,
    op: Op,
    /// The version that is expected, as the number of changes before it that it is: 0 is the newest.
    expects: Option<Expects>,
    with_event: bool,
    idempotency: Option<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Expects {
    Absent,
    Current,
    Stale,
}

fn asks() -> impl Strategy<Value = Vec<Vec<Vec<Ask>>>> {
    let op = prop_oneof![3 => Just(Op::Put), 1 => Just(Op::Delete)];
    let expects = prop_oneof![Just(Expects::Absent), Just(Expects::Current), Just(Expects::Stale)];
    let ask = (0..4u8, op, option::of(expects), any::<bool>(), option::weighted(0.2, 0..6u8));
    let ask =
        ask.prop_map(|(key, op, expects, with_event, idempotency)| Ask { key, op, expects, with_event, idempotency });
    // Transactions of requests of changes.
    vec(vec(vec(ask, 1..4), 1..5), 1..6)
}

/// Each case has types of its own.
fn entity(case: u32, key: u8) -> EntityId {
    EntityId {
        kind: EntityType::parse(format!("{}{case}", if key < 3 { "t" } else { "u" })).expect("a type"),
        key: EntityKey::parse(format!("k{key}")).expect("a key"),
    }
}

#[derive(Default)]
struct Model {
    case: u32,
    last: EventId,
    /// The version and value of each entity that is there.
    entities: BTreeMap<u8, (EventId, String)>,
    keys: HashMap<u8, (String, EventId)>,
    /// The versions at each end of a transaction.
    history: Vec<(EventId, BTreeMap<u8, EventId>)>,
    values: u32,
}

impl Model {
    fn precondition(&self, ask: &Ask) -> Precondition {
        let current = self.entities.get(&ask.key).map_or(1_000_000, |(version, _)| *version);
        match ask.expects {
            None => Precondition::default(),
            Some(Expects::Absent) => Precondition::version(0),
            Some(Expects::Current) => Precondition::version(current),
            Some(Expects::Stale) => Precondition::version(current + 1),
        }
    }
}

#[test]
fn batches_are_decided_as_their_requests_one_after_another() {
    on_both(|store| {
        let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
        let (writer, cases) = (RefCell::new(store.writer()), Cell::new(0));
        let check = |script| {
            cases.set(cases.get() + 1);
            check(&store, &mut writer.borrow_mut(), Model { case: cases.get(), ..Model::default() }, script)
        };
        runner.run(&asks(), check).expect("the model holds");
    });
}

fn check(
    store: &Store,
    writer: &mut Writer,
    mut model: Model,
    script: Vec<Vec<Vec<Ask>>>,
) -> Result<(), TestCaseError> {
    model.last = writer.append(vec![super::single("first")], NOON).expect("stored").events[0].id;
    for transaction in script {
        let mut batch = Vec::new();
        let mut expected = Vec::new();
        for request in &transaction {
            let (append, outcome) = ask(&mut model, request);
            batch.push(append);
            expected.push(outcome);
        }
        let committed = writer.append(batch, NOON).expect("committed");
        let outcomes: Vec<AppendOutcome> = committed.outcomes.into_iter().filter_map(Outcome::appended).collect();
        for (outcome, expected) in outcomes.iter().zip(&expected) {
            match (outcome, expected) {
                (AppendOutcome::Changed(changed), Ok(ids)) => prop_assert_eq!(&changed.ids, ids),
                (AppendOutcome::Replayed { .. }, Ok(ids)) => prop_assert!(ids.iter().all(|id| *id <= model.last)),
                (AppendOutcome::Unmet(_) | AppendOutcome::KeyReused { .. }, Err(())) => {}
                (other, expected) => prop_assert!(false, "{:?} {:?}", other, expected),
            }
        }
        prop_assert_eq!(committed.events.last().map_or(model.last, |event| event.id), model.last);
        let versions = model.entities.iter().map(|(key, (version, _))| (*key, *version)).collect();
        model.history.push((model.last, versions));
    }
    let reader = store.reader();
    for kind in [entity(model.case, 0).kind, entity(model.case, 3).kind] {
        let of_kind = |key: &u8| entity(model.case, *key).kind == kind;
        let query =
            EntityQuery { kind: kind.clone(), prefix: String::new(), after: None, limit: 100, max_bytes: 1 << 20 };
        let page = run(reader.entities(query)).expect("a page").entities;
        let stored: Vec<_> =
            page.iter().map(|e| (e.key.to_string(), e.version, e.value.as_deref().map(str::to_owned))).collect();
        let there = model.entities.iter().filter(|(key, _)| of_kind(key));
        let there: Vec<_> =
            there.map(|(key, (version, value))| (format!("k{key}"), *version, Some(value.clone()))).collect();
        prop_assert_eq!(stored, there);
        let types = run(reader.entity_types()).expect("types");
        let count = types.iter().find(|(name, _)| *name == kind).map_or(0, |(_, count)| *count);
        prop_assert_eq!(count as usize, page.len());
        for (as_of, versions) in &model.history {
            let mut buckets = Buckets::new(4);
            versions
                .iter()
                .filter(|(key, _)| of_kind(key))
                .for_each(|(key, version)| buckets.insert(Mark::of(&format!("k{key}"), *version)));
            let query = DigestQuery { kind: kind.clone(), as_of: Some(*as_of), buckets: 4, max_undo: 1_000 };
            prop_assert_eq!(run(reader.digest(query)).expect("a digest"), AsOf::At(*as_of, buckets));
        }
    }
    Ok(())
}

/// The request, and what is to become of it: the ids of its events, unless it is refused.
fn ask(model: &mut Model, request: &[Ask]) -> (Append, Result<Vec<EventId>, ()>) {
    let mut events: SmallVec<[NewEvent; 1]> = SmallVec::new();
    let (entities, keys, last) = (model.entities.clone(), model.keys.clone(), model.last);
    let mut ids = Vec::new();
    let mut is_refused = false;
    for ask in request {
        model.values += 1;
        let value = format!("\"v{}\"", model.values);
        let precondition = model.precondition(ask);
        let change = Change {
            entity: entity(model.case, ask.key),
            op: ask.op,
            precondition: precondition.clone(),
            follows: ask.with_event,
        };
        let change = NewEvent::change(change, (ask.op == Op::Put).then(|| value.clone().into()), "api".into());
        let first = events.len();
        if ask.with_event {
            events.push(event("with", "{}"));
        }
        events.push(change);
        // Each use of a key is another request, except where a request repeats itself.
        events[first].idempotency =
            ask.idempotency.and_then(|key| idempotency(&format!("{}:{key}", model.case), model.values as u8));
        if let Some(key) = ask.idempotency
            && model.keys.insert(key, (String::new(), model.last + 1)).is_some()
        {
            is_refused = true;
        }
        let current = model.entities.get(&ask.key).map(|(version, _)| *version);
        if !precondition.is_met(current) || (ask.op == Op::Delete && current.is_none()) {
            is_refused = true;
        }
        for _ in 0..=usize::from(ask.with_event) {
            model.last += 1;
            ids.push(model.last);
        }
        match ask.op {
            Op::Put => drop(model.entities.insert(ask.key, (model.last, value))),
            Op::Delete => drop(model.entities.remove(&ask.key)),
        }
    }
    if is_refused {
        (model.entities, model.keys, model.last) = (entities, keys, last);
    }
    let append = Append::of(events, None);
    (append, if is_refused { Err(()) } else { Ok(ids) })
}
