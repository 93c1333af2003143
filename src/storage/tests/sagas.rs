//! Instances of sagas: steps by compare-and-set, values of one holder, numbers, the queue, declarations.

use super::leases::Node;
use super::outbox::Outbox;
use super::{NOON, at, commit, on_both, run, single};
use crate::domain::call::CallId;
use crate::domain::event::{AppendOutcome, Timestamp};
use crate::domain::lease::{Fence, LeaseName};
use crate::domain::routes::Routes;
use crate::domain::saga::{AT_COMMIT, Correlation, Entry, Fact, InstanceEnd, Json, Origin, State, StepEnd};
use crate::storage::{
    DeclaredSaga, Group, NewSaga, Outcome, Reader, SagaFilter, SagaRecord, SagaStanding, SagaTransition,
    StoredDefinition, Write, Writer,
};

/// The id of an instance that was made so many milliseconds after noon.
pub(super) fn id(n: u64) -> String {
    let millis = NOON.0 as u64 / 1000 + n;
    format!("{:08x}-{:04x}-7000-8000-000000000000", millis >> 16, millis & 0xffff)
}

pub(super) fn value(text: &str) -> Correlation {
    Correlation::of(Json::text(text).as_str()).expect("a value")
}

pub(super) fn started(n: i64) -> Entry {
    Entry { at: at(n), fact: Fact::Started }
}

/// A new instance of the saga `pay`. It holds its value if it is live and not queued.
pub(super) fn made(n: u64, of: &str, state: State) -> SagaTransition {
    let origin = Origin {
        id: id(n),
        saga: "pay".to_owned(),
        version: 3,
        correlation: value(of),
        trigger: r#"{"payload": {"n": 1e400, "s": "\u0000ä"}}"#.into(),
    };
    let standing = SagaStanding {
        state,
        holds: state.is_live() && state != State::Queued,
        is_paused: false,
        started_at: (state != State::Queued).then_some(NOON),
        updated_at: NOON,
        due_at: None,
        length: 1,
    };
    let new = Some(NewSaga { origin, made_at: at(n as i64), start_key: None });
    let (is_alone, entries, awaits) = (false, vec![started(0)], Vec::new());
    SagaTransition { id: id(n), new, is_alone, from: 0, standing, entries, awaits }
}

/// The next step of an instance.
pub(super) fn next(of: &SagaTransition, state: State) -> SagaTransition {
    let length = of.standing.length + 1;
    let holds = state.is_live() && state != State::Queued;
    let standing = SagaStanding { state, holds, updated_at: at(60), length, ..of.standing.clone() };
    let entries = vec![started(i64::from(length))];
    let (new, is_alone, from, awaits) = (None, false, of.standing.length, Vec::new());
    SagaTransition { id: of.id.clone(), new, is_alone, from, standing, entries, awaits }
}

pub(super) fn save(writer: &mut Writer, steps: &[SagaTransition]) -> bool {
    match commit(writer, Write::SaveSagas { steps: steps.to_vec(), ended: Vec::new() }) {
        Outcome::Saved => true,
        Outcome::Void => false,
        other => panic!("{other:?}"),
    }
}

fn record(reader: &Reader, of: &str) -> SagaRecord {
    run(reader.sagas(vec![of.to_owned()])).expect("read").remove(0).record
}

fn ids<'a>(records: impl IntoIterator<Item = &'a SagaRecord>) -> Vec<String> {
    records.into_iter().map(|record| record.saga.origin.id.clone()).collect()
}

#[test]
fn of_two_who_decide_at_the_same_length_one_wins_and_all_else_of_the_other_is_void() {
    on_both(|store| {
        let mut outbox = Outbox::new(&store);
        let lease = LeaseName::consumer("sagas");
        let fence = outbox.node.take(&mut outbox.writer, &lease);
        let first = made(1, "a", State::Running);
        assert!(save(&mut outbox.writer, std::slice::from_ref(&first)));
        let list = |n: u64, step: SagaTransition| {
            let position = Write::MovePosition { name: "in".to_owned(), position: n.to_string() };
            let save = Write::SaveSagas { steps: vec![made(n, "b", State::Completed), step], ended: Vec::new() };
            [save, Write::Append(single("order.told")), position, Write::Append(single("order.told"))]
        };
        for (n, fence) in [(2, None), (4, Some(fence))] {
            let before = record(&outbox.reader, &first.id).standing.length;
            let of =
                SagaTransition { standing: SagaStanding { length: before, ..first.standing.clone() }, ..first.clone() };
            let mut group = Group::from(vec![Write::Append(single("by.anybody"))]);
            group.extend(fence.clone(), list(n, next(&of, State::Waiting)));
            group.extend(fence.clone(), list(n + 1, next(&of, State::Completed)));
            group.extend(None, [Write::Append(single("by.anybody"))]);
            let committed = outbox.commit(group, NOON);
            let names: Vec<&str> = committed.events.iter().map(|event| event.name.as_str()).collect();
            assert_eq!(names, ["by.anybody", "order.told", "order.told", "by.anybody"]);
            let of_orders = committed.enqueued.iter().filter(|(service, _)| *service == outbox.orders);
            let enqueued: u32 = of_orders.map(|(_, lanes)| lanes.iter().sum::<u32>()).sum();
            assert_eq!(enqueued, 2, "what was not stored is not delivered");
            let outcomes = &committed.outcomes;
            assert!(matches!(outcomes[2], Outcome::Appended(AppendOutcome::Stored { .. })), "{outcomes:?}");
            assert_eq!((&outcomes[1], &outcomes[5..9]), (&Outcome::Saved, &[const { Outcome::Void }; 4][..]));
            assert!(matches!(outcomes[9], Outcome::Appended(AppendOutcome::Stored { .. })), "{outcomes:?}");
            let leased = outbox.writer.lease_follower(&lease, "in", outbox.node.seeker()).expect("the store answers");
            assert_eq!(leased.position, Some(n.to_string()));
            assert_eq!(record(&outbox.reader, &first.id).standing.state, State::Waiting);
            assert_eq!(run(outbox.reader.sagas(vec![id(n + 1)])).expect("read"), [], "not even the step that would do");
        }
        assert_eq!(run(outbox.reader.bounds()).expect("read").last, 8);
    });
}

#[test]
fn a_stale_holder_of_the_lease_saves_nothing() {
    on_both(|store| {
        let writer = &mut store.writer();
        let lease = LeaseName::consumer("sagas");
        let mut a = Node::joined("a", writer);
        let stale = a.take(writer, &lease);
        writer.release(&stale).expect("released");
        let current = a.take(writer, &lease);
        for (fence, outcome) in [(stale, Outcome::Void), (current, Outcome::Saved)] {
            let mut group = Group::default();
            group.extend(
                Some(fence),
                [Write::SaveSagas { steps: vec![made(1, "a", State::Running)], ended: Vec::new() }],
            );
            let committed = writer.commit(&mut group, &Default::default(), NOON).expect("committed");
            assert_eq!(committed.outcomes, [outcome]);
        }
    });
}

/// The ends of calls that are stored with what follows from them: both are in the name of who has made the calls, too.
#[test]
fn a_call_ends_with_what_follows_from_it_or_not_at_all() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        let mut node = Node::joined("a", &mut writer);
        let sagas = node.take(&mut writer, &LeaseName::consumer("sagas"));
        let service = node.take(&mut writer, &LeaseName::consumer("service"));
        let calls = Write::MakeCalls(["s", "t", "u"].map(|owner| super::calls::call(1, owner, "a")).to_vec());
        let Outcome::Made(first) = commit(&mut writer, calls) else { panic!("not made") };
        let open = || run(reader.open_calls(1)).expect("read");
        let mut end = |fence: &Fence, n: u64, ended: &[CallId]| {
            let mut group = Group::default();
            let steps = vec![made(n, &n.to_string(), State::Running)];
            let told = Write::Append(single("told"));
            group.extend([sagas.clone(), fence.clone()], [Write::SaveSagas { steps, ended: ended.to_vec() }, told]);
            let committed = writer.commit(&mut group, &Routes::default(), NOON).expect("committed");
            committed.outcomes[0] == Outcome::Saved && !committed.events.is_empty()
        };
        let stale = Fence { generation: service.generation - 1, ..service.clone() };
        assert!(!end(&stale, 1, &[first]), "another node calls the service by now");
        assert!(!end(&service, 2, &[first, first + 3]), "it was cancelled");
        assert_eq!(open(), 3);
        assert!(end(&service, 3, &[first + 2, first]));
        assert!(!end(&service, 4, &[first + 1, first]), "it has ended");
        assert_eq!(open(), 1);
        assert!(end(&service, 5, &[first + 1]));
        let found = run(reader.sagas((1..6).map(id).collect())).expect("read");
        assert_eq!(found.len(), 2);
        assert_eq!(run(reader.ended_calls(0, 9)).expect("read"), [], "nobody is told once more");
    });
}

#[test]
fn one_instance_of_a_saga_holds_a_value() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        let one = made(1, "a", State::Running);
        assert!(!save(&mut writer, &[one.clone(), made(2, "a", State::NeedsOperator)]), "in one save");
        assert!(save(&mut writer, &[one.clone(), made(2, "a", State::Queued), made(3, "a", State::Aborted)]));
        assert!(!save(&mut writer, &[made(4, "a", State::Running)]), "another one has it");
        assert!(!save(&mut writer, &[next(&made(2, "a", State::Queued), State::Running)]));
        let mut other = made(5, "a", State::Running);
        other.new.as_mut().expect("new").origin.saga = "ship".to_owned();
        assert!(save(&mut writer, &[other]), "of each saga");
        // The order within a save does not matter.
        let second = next(&made(2, "a", State::Queued), State::Running);
        assert!(save(&mut writer, &[second.clone(), next(&one, State::Compensated)]));
        let concerned = run(reader.concerned_sagas(vec![("pay".to_owned(), value("a"))], Vec::new())).expect("read");
        assert_eq!(ids(concerned.iter().map(|stored| &stored.record)).len(), 2);
        // Terminal is terminal for the value too: it is free.
        assert!(save(&mut writer, &[next(&second, State::Completed), made(6, "a", State::Waiting)]));
    });
}

#[test]
fn a_start_key_is_used_once() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        let by_hand = |n: u64, key: &str| {
            let mut made = made(n, &n.to_string(), State::Running);
            made.new.as_mut().expect("new").start_key = Some(key.to_owned());
            made
        };
        assert!(!save(&mut writer, &[by_hand(1, "k"), by_hand(2, "k")]));
        assert!(save(&mut writer, &[by_hand(1, "k"), by_hand(2, "l")]));
        assert!(!save(&mut writer, &[by_hand(3, "k")]));
        let of = |saga: &str, key: &str| run(reader.saga_of_start_key(saga.to_owned(), key.to_owned())).expect("read");
        assert_eq!(
            [of("pay", "k"), of("pay", "l"), of("pay", "m"), of("ship", "k")],
            [Some(id(1)), Some(id(2)), None, None]
        );
        assert!(
            !save(&mut writer, &[SagaTransition { id: id(9), ..next(&by_hand(1, "k"), State::Running) }]),
            "unknown"
        );
        assert!(!save(&mut writer, &[by_hand(1, "n")]), "known already");
    });
}

#[test]
fn an_instance_comes_back_as_it_was_saved() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        let mut one = made(1, "a\u{7f}'?\\", State::Running);
        let event = Json::parse(r#"{"n": 1e400, "s": "\u0000,]"}"#).expect("JSON");
        let ended =
            Fact::Ended { step: 0, end: StepEnd::Failed, event: Some(event), response: None, error: Some("?".into()) };
        one.entries.push(Entry { at: at(2), fact: ended });
        one.standing = SagaStanding { due_at: Some(at(5)), is_paused: true, length: 2, ..one.standing };
        let mut second = next(&one, State::Completed);
        second.entries[0].fact = Fact::Finished { end: InstanceEnd::Completed };
        assert!(save(&mut writer, &[one.clone(), second.clone()]), "two steps of one instance");
        let stored = run(reader.sagas(vec![id(1), id(1), id(2)])).expect("read");
        assert_eq!(stored.len(), 1);
        assert_eq!(
            stored[0].record,
            SagaRecord { saga: one.new.clone().expect("new"), standing: second.standing.clone() }
        );
        assert_eq!(stored[0].journal.as_ref().expect("a journal"), &[one.entries, second.entries].concat());
    });
}

#[test]
fn a_journal_that_cannot_be_read_is_told_of_its_instance_alone() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        assert!(save(&mut writer, &[1, 2, 3, 4].map(|n| made(n, &n.to_string(), State::Running))));
        for (n, sql) in [(1, "SET fact = '{\"of_tomorrow\": 1}'"), (2, "SET fact = '}'"), (3, "SET n = 1")] {
            store.execute(&format!("UPDATE saga_journal {sql} WHERE id = '{}'", id(n)));
        }
        let stored = run(reader.sagas([1, 2, 3, 4].map(id).to_vec())).expect("read");
        let readable: Vec<_> =
            stored.iter().filter(|stored| stored.journal.is_ok()).map(|stored| &stored.record).collect();
        assert_eq!((stored.len(), ids(readable)), (4, vec![id(4)]));
    });
}

#[test]
fn who_waits_for_a_value_gets_it_in_turn() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        let startable = || ids(run(reader.startable_sagas(9)).expect("read").iter().map(|stored| &stored.record));
        let queued = |n: u64, of: &str| made(n, of, State::Queued);
        let holder = made(1, "a", State::Running);
        assert!(save(&mut writer, &[holder.clone(), queued(3, "a"), queued(2, "a"), made(4, "b", State::Running)]));
        assert_eq!(startable(), Vec::<String>::new());
        assert!(save(&mut writer, &[next(&holder, State::Completed)]));
        assert_eq!((startable(), record(&reader, &id(2)).standing.due_at), (vec![id(2)], Some(NOON)));
        // One that was to begin ends before it does.
        assert!(save(&mut writer, &[next(&queued(2, "a"), State::Aborted)]));
        assert_eq!(startable(), [id(3)]);
        // Whoever held the value has ended after it was decided to queue.
        assert!(save(&mut writer, &[next(&made(4, "b", State::Running), State::Aborted)]));
        assert!(save(&mut writer, &[queued(5, "b")]));
        assert_eq!(startable(), [id(3), id(5)]);
        // A step that did not know of it takes nothing back.
        let mut paused = next(&queued(3, "a"), State::Queued);
        paused.standing.is_paused = true;
        assert!(save(&mut writer, &[paused.clone()]));
        assert_eq!(startable(), [id(5)]);
        let mut resumed = next(&paused, State::Queued);
        resumed.standing.is_paused = false;
        assert!(save(&mut writer, &[resumed.clone()]));
        assert_eq!(startable(), [id(3), id(5)]);
        // Begun by hand, past the queue: the first one waits again.
        assert!(save(&mut writer, &[made(7, "a", State::Running)]));
        assert_eq!(startable(), [id(5)]);
        assert!(save(&mut writer, &[next(&made(7, "a", State::Running), State::Completed)]));
        assert_eq!(startable(), [id(3), id(5)]);
        assert_eq!(run(reader.startable_sagas(1)).expect("read").len(), 1);
    });
}

/// A reply to it can only be newer: what is stored before, by whomever, is for somebody else.
#[test]
fn a_step_begins_after_all_that_is_stored() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        let begun = |after| Entry { at: NOON, fact: Fact::Begun { step: 0, after, undo: None } };
        let mut step = made(1, "a", State::Running);
        step.entries = vec![begun(AT_COMMIT), begun(1)];
        step.standing.length = 2;
        commit(&mut writer, Write::Append(single("a")));
        let mut group = Group::from(vec![Write::Append(single("a"))]);
        group.extend(None, [Write::SaveSagas { steps: vec![step], ended: Vec::new() }, Write::Append(single("a"))]);
        writer.commit(&mut group, &Routes::default(), NOON).expect("committed");
        let journal = run(reader.sagas(vec![id(1)])).expect("read").remove(0).journal;
        assert_eq!(journal, Ok(vec![begun(2), begun(1)]));
    });
}

#[test]
fn events_find_the_instances_that_they_are_for() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        let awaiting = |step: SagaTransition, keys: &[&str]| SagaTransition {
            awaits: keys.iter().map(|key| (*key).to_owned()).collect(),
            ..step
        };
        let running = awaiting(made(3, "a", State::Waiting), &["k", "l"]);
        let other = awaiting(made(4, "b", State::Waiting), &["k", "k"]);
        let steps = [
            made(1, "a", State::Completed),
            made(2, "a", State::Aborted),
            running.clone(),
            other.clone(),
            made(5, "a", State::Queued),
        ];
        assert!(save(&mut writer, &steps));
        let concerned = |values: &[&str], keys: &[&str]| {
            let values = values.iter().map(|text| ("pay".to_owned(), value(text))).collect();
            let keys = keys.iter().map(|key| (*key).to_owned()).collect();
            let found = run(reader.concerned_sagas(values, keys)).expect("read");
            assert!(found.iter().all(|stored| stored.journal.is_ok()));
            let mut ids = ids(found.iter().map(|stored| &stored.record));
            ids.sort_unstable();
            ids
        };
        let of_value = [id(2), id(3), id(5)];
        assert_eq!(concerned(&["a"], &[]), of_value, "the newest that has ended, the holder, the first that is queued");
        assert_eq!(concerned(&["a", "a", "c"], &["l"]), of_value, "each once");
        assert_eq!(concerned(&[], &["k", "z"]), [id(3), id(4)]);
        assert_eq!(concerned(&["z"], &["z"]), Vec::<String>::new());
        assert!(save(
            &mut writer,
            &[awaiting(next(&running, State::Running), &["l", "m"]), next(&other, State::Completed)]
        ));
        assert_eq!(concerned(&[], &["k"]), [id(3), id(4)], "also once it has ended: a late reply is known");
        assert_eq!([concerned(&[], &["l"]), concerned(&[], &["m"])], [[id(3)], [id(3)]]);
    });
}

#[test]
fn timers_come_due_in_order() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        let timed = |mut step: SagaTransition, due: i64| {
            step.standing.due_at = Some(at(due));
            step
        };
        assert_eq!(run(reader.next_saga_due()).expect("read"), None);
        let first = timed(made(1, "a", State::Waiting), 5);
        assert!(save(
            &mut writer,
            &[first.clone(), timed(made(2, "b", State::Running), 3), timed(made(3, "c", State::Queued), 1)]
        ));
        let due = |now: i64, limit: usize| {
            ids(run(reader.due_sagas(at(now), limit)).expect("read").iter().map(|stored| &stored.record))
        };
        assert_eq!(
            [due(2, 9), due(3, 9), due(9, 9), due(9, 1)],
            [vec![], vec![id(2)], vec![id(2), id(1)], vec![id(2)]]
        );
        assert_eq!(run(reader.next_saga_due()).expect("read"), Some(at(3)));
        let over = |step: &SagaTransition| timed(next(step, State::Waiting), 9);
        let mut ended = next(&first, State::Completed);
        ended.standing.due_at = None;
        assert!(save(&mut writer, &[ended, over(&made(2, "b", State::Running))]));
        assert_eq!((due(8, 9), run(reader.next_saga_due()).expect("read")), (vec![], Some(at(9))));
    });
}

#[test]
fn a_list_begins_with_the_newest() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        let states = [State::Completed, State::Running, State::Queued, State::Running, State::Completed];
        let mut steps: Vec<_> =
            (0..).zip(states).map(|(n, state)| made(n, &format!("v{}", n % 2 + n / 3 * 2), state)).collect();
        steps[4].new.as_mut().expect("new").origin.saga = "ship".to_owned();
        assert!(save(&mut writer, &steps));
        let list = |filter: &SagaFilter, after: Option<u64>, limit: usize| {
            let listed = run(reader.list_sagas(filter.clone(), after.map(id), limit)).expect("read");
            ids(&listed).iter().map(|listed| (0..5).find(|n| id(*n) == *listed).expect("known")).collect::<Vec<u64>>()
        };
        let all = SagaFilter::default();
        let named = SagaFilter { name: Some("pay".to_owned()), ..all.clone() };
        let running = SagaFilter { state: Some(State::Running), ..all.clone() };
        let both = SagaFilter { state: Some(State::Completed), ..named.clone() };
        let of_value = SagaFilter { correlation: Some(value("v0")), ..all.clone() };
        let exact = SagaFilter { correlation: Some(value("v0")), ..both.clone() };
        let before = SagaFilter { started_before: Some(Timestamp(NOON.0 + 2000)), ..named.clone() };
        for (filter, expected) in [
            (&all, &[4, 3, 2, 1, 0][..]),
            (&named, &[3, 2, 1, 0]),
            (&running, &[3, 1]),
            (&both, &[0]),
            (&of_value, &[2, 0]),
            (&exact, &[0]),
            (&before, &[1, 0]),
        ] {
            assert_eq!(list(filter, None, 9), expected, "{filter:?}");
            assert_eq!(list(filter, None, 1), expected[..1], "{filter:?}");
            assert_eq!(list(filter, Some(expected[0]), 9), expected[1..], "{filter:?}");
        }
    });
}

#[test]
fn old_instances_go_with_all_that_is_theirs() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        let definition =
            |version, text: &str| StoredDefinition { saga: "pay".to_owned(), version, text: text.to_owned() };
        let declare = |node: &str, sagas| Write::DeclareSagas { node: node.to_owned(), sagas };
        commit(&mut writer, declare("x", vec![definition(3, "{}")]));
        let mut steps = [1, 2, 3, 4].map(|n| made(n, &n.to_string(), State::Completed));
        steps[1].standing.updated_at = at(1);
        steps[2].standing.updated_at = at(2);
        steps[3] = made(4, "4", State::Waiting);
        steps[0].awaits = vec!["k".to_owned()];
        assert!(save(&mut writer, &steps));
        let forget =
            |writer: &mut Writer, before, limit| commit(writer, Write::ForgetSagas { ended_before: before, limit });
        assert_eq!(forget(&mut writer, NOON, 9), Outcome::Changed(false));
        assert_eq!(forget(&mut writer, at(2), 1), Outcome::Changed(true));
        let left = || ids(&run(reader.list_sagas(SagaFilter::default(), None, 9)).expect("read"));
        assert_eq!(left(), [id(4), id(3), id(2)], "the oldest");
        assert_eq!(forget(&mut writer, at(2), 9), Outcome::Changed(true));
        assert_eq!((left(), forget(&mut writer, at(2), 9)), (vec![id(4), id(3)], Outcome::Changed(false)));
        let counts = || run(reader.saga_counts()).expect("read");
        assert_eq!(counts(), [("pay".to_owned(), State::Waiting, 1), ("pay".to_owned(), State::Completed, 1)]);
        assert!(save(&mut writer, &[made(1, "1", State::Running)]), "no journal is left");
        assert_eq!(run(reader.concerned_sagas(Vec::new(), vec!["k".to_owned()])).expect("read"), []);
        // A definition stays as long as there are instances, or somebody declares it.
        let kept = || run(reader.saga_definitions()).expect("read").len();
        commit(&mut writer, declare("x", Vec::new()));
        forget(&mut writer, at(2), 9);
        assert_eq!(kept(), 1);
        save(&mut writer, &[next(&made(1, "1", State::Running), State::Aborted), next(&steps[3], State::Completed)]);
        forget(&mut writer, at(99), 9);
        assert_eq!((left(), counts(), kept()), (Vec::new(), Vec::new(), 0));
    });
}

#[test]
fn what_the_files_of_nodes_declare_begins_instances() {
    on_both(|store| {
        let is_postgres = store._dir.is_none();
        let (mut writer, reader) = (store.writer(), store.reader());
        let definition = |saga: &str, version| StoredDefinition {
            saga: saga.to_owned(),
            version,
            text: format!("{{\"version\": {version}}}"),
        };
        let declared = || -> Vec<(String, u32, i64)> {
            let declared = run(reader.declared_sagas()).expect("read").into_iter();
            declared.map(|DeclaredSaga { saga, version, since }| (saga, version, since)).collect()
        };
        let mut declare = |node: &str, sagas: &[StoredDefinition], seconds: i64| {
            let write = Write::DeclareSagas { node: node.to_owned(), sagas: sagas.to_vec() };
            let mut group = Group::from(vec![Write::Append(single("before")), write, Write::Append(single("after"))]);
            let committed = writer.commit(&mut group, &Default::default(), at(seconds)).expect("committed");
            let Outcome::Declared(conflicts) = committed.outcomes[1].clone() else { panic!("{committed:?}") };
            conflicts
        };
        assert_eq!(declare("x", &[definition("pay", 1), definition("ship", u32::MAX)], 0), []);
        let ship = ("ship".to_owned(), u32::MAX, 1);
        assert_eq!(declared(), [("pay".to_owned(), 1, 1), ship.clone()]);

        let other = StoredDefinition { text: "{}".to_owned(), ..definition("ship", u32::MAX) };
        assert_eq!(declare("x", &[definition("new", 1), other], 1), [("ship".to_owned(), u32::MAX)]);
        assert_eq!(declared(), [("pay".to_owned(), 1, 1), ship.clone()], "nothing was written");
        assert_eq!(run(reader.saga_definitions()).expect("read"), [definition("pay", 1), definition("ship", u32::MAX)]);

        // Another node has newer files; on SQLite, it has taken the place of the first.
        assert_eq!(declare("y", &[definition("pay", 2)], 2), []);
        let both = [("pay".to_owned(), 2, 1), ship];
        assert_eq!(declared(), both[..1 + usize::from(is_postgres)]);
        assert_eq!(declare("y", &[definition("pay", 2)], 599), []);
        assert_eq!(declared(), both[..1 + usize::from(is_postgres)]);
        assert_eq!(declare("y", &[definition("pay", 2)], 601), []);
        assert_eq!(declared(), both[..1], "the first node is gone");

        assert_eq!(declare("y", &[], 602), []);
        assert_eq!(declared(), []);
        assert_eq!(declare("y", &[definition("pay", 1)], 603), []);
        assert_eq!(declared(), [("pay".to_owned(), 1, 13)], "what happened meanwhile began nothing");
    });
}
