//! The state of the whole system, and what it refuses.

use std::sync::Arc;
use std::time::Duration;

use smallvec::smallvec;

use super::leases::Node;
use super::outbox::pattern;
use super::{NOON, Store, at, commit, event, idempotency, on_both, run, single};
use crate::domain::event::{Admission, Append, AppendOutcome, NewEvent, Priority, Schedule, ScheduleId};
use crate::domain::lease::LeaseName;
use crate::domain::priority::Lane;
use crate::domain::routes::{Route, Routes, Selector};
use crate::domain::system::{Input, OnTimeout, Put, Refusal, System, SystemState};
use crate::storage::{Claim, Group, NewService, Outcome, StoreOptions, Write, Writer};

fn put(transition: &str, to: SystemState, barrier: &[&str]) -> Write {
    Write::ChangeSystem(Input::Put(Put {
        transition: transition.to_owned(),
        recovery: format!("{transition}r"),
        to,
        reason: None,
        barrier: barrier.iter().map(|name| (*name).to_owned()).collect(),
        timeout: Duration::from_secs(30),
        on_timeout: OnTimeout::Revert,
    }))
}

/// A store that refuses bids in maintenance.
fn refusing(store: &Store) -> Writer {
    let maintenance_refuses = Arc::from([pattern("bid.>"), pattern("state.auction.changed")]);
    Writer::open(StoreOptions { maintenance_refuses, ..store.options.clone() }).expect("open the store")
}

fn judged(append: Append) -> Write {
    Write::Append(Append { admission: Admission::Judged, ..append })
}

fn in_order(name: &str) -> Write {
    Write::Append(Append { admission: Admission::InOrder, ..single(name) })
}

fn refused() -> Outcome {
    Outcome::Appended(AppendOutcome::Maintenance)
}

fn is_stored(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Appended(AppendOutcome::Stored { .. }))
}

#[test]
fn a_change_goes_to_the_services_of_its_barrier_whatever_their_routes() {
    on_both(|store| {
        let (mut writer, reader) = (store.writer(), store.reader());
        let service = |name: &'static str| NewService { name: name.into(), patterns: Vec::new(), start_from: None };
        let known = writer.register(&["all", "none", "other"].map(service), NOON).expect("registered");
        let ids: Vec<_> = known.iter().map(|known| known.id).collect();
        let all = Route { service: ids[0], selectors: vec![Selector::all_of(pattern("$sys.>"))], own_sources: vec![] };
        let routes = Routes::new(vec![all]);
        let mut group = Group::from(vec![put("t1", SystemState::Maintenance, &["none", "all"])]);
        let committed = writer.commit(&mut group, &routes, NOON).expect("committed");
        let [Outcome::System(Ok(system))] = &committed.outcomes[..] else { panic!("{committed:?}") };
        let changing = committed.events.last().expect("an event");
        assert_eq!((changing.name.as_str(), changing.priority), ("$sys.system.changing", Priority::High));
        assert_eq!(system.change.as_ref().expect("under way").event, changing.id);
        let count = |service| {
            let of = |(id, lanes): &(_, [u32; Lane::COUNT])| (*id == service).then_some(lanes[Lane::High.index()]);
            committed.enqueued.iter().find_map(of).unwrap_or(0)
        };
        assert_eq!(ids.iter().map(|id| count(*id)).collect::<Vec<_>>(), [1, 1, 0], "each once");
        for (id, expected) in ids.iter().zip([1, 1, 0]) {
            let claim = Claim::Key { key: "system".into() };
            assert_eq!(run(reader.claim(*id, claim, 9, 1 << 20)).expect("claimed").len(), expected);
        }
        assert_eq!(run(reader.system()), Ok(System::clone(system)));
        let again = commit(&mut writer, put("t2", SystemState::Running, &[]));
        assert_eq!(again, Outcome::System(Err(Refusal::Changing { transition: "t1".to_owned() })));
        assert_eq!(run(reader.system_answers(changing.id)), Ok(Vec::new()));
    });
}

#[test]
fn maintenance_refuses_what_comes_from_outside_and_repetitions_are_answered() {
    on_both(|store| {
        let writer = &mut refusing(&store);
        let keyed = |name: &str, key| Append::of(smallvec![event(name, "1")], idempotency(key, 1));
        assert!(is_stored(&commit(writer, judged(keyed("bid.placed", "known")))));
        let outcome = commit(writer, put("t1", SystemState::Maintenance, &[]));
        assert!(matches!(outcome, Outcome::System(Ok(system)) if system.state == SystemState::Maintenance));
        // It holds for whoever opens the store next.
        let writer = &mut refusing(&store);
        assert_eq!(commit(writer, judged(single("bid.placed"))), refused());
        assert_eq!(commit(writer, judged(keyed("bid.placed", "new"))), refused());
        assert!(matches!(
            commit(writer, judged(keyed("bid.placed", "known"))),
            Outcome::Appended(AppendOutcome::Replayed { .. })
        ));
        assert!(is_stored(&commit(writer, judged(single("lot.listed")))), "another name");
        assert!(is_stored(&commit(writer, Write::Append(single("bid.placed")))), "not from outside");
        let batch = Append::of(smallvec![event("lot.listed", "1"), event("bid.placed", "2")], None);
        assert_eq!(commit(writer, judged(batch)), refused(), "as a whole");
        let schedule = Some(Schedule { id: ScheduleId(1), due_at: at(9) });
        assert_eq!(commit(writer, judged(Append { schedule, ..single("bid.placed") })), refused());
        // Of one transaction, each is judged by the state at its place.
        let writes =
            vec![judged(single("bid.placed")), put("t2", SystemState::Running, &[]), judged(single("bid.placed"))];
        let outcomes = writer.commit(&mut writes.into(), &Routes::default(), NOON).expect("committed").outcomes;
        assert_eq!((&outcomes[0], is_stored(&outcomes[2])), (&refused(), true));
        let writes = vec![put("t3", SystemState::Maintenance, &[]), judged(single("bid.placed"))];
        let outcomes = writer.commit(&mut writes.into(), &Routes::default(), NOON).expect("committed").outcomes;
        assert_eq!(outcomes[1], refused());
        assert!(is_stored(&commit(&mut store.writer(), judged(single("bid.placed")))), "nothing is configured there");
    });
}

#[test]
fn a_change_of_an_entity_is_refused_like_other_events_before_its_version_is_judged() {
    on_both(|store| {
        use crate::domain::entity::{Change, EntityId, EntityKey, EntityType, Op, Precondition};
        let writer = &mut refusing(&store);
        let put_entity = |precondition: Precondition| {
            let entity = EntityId {
                kind: EntityType::from_store("auction".to_owned()),
                key: EntityKey::from_store("7".to_owned()),
            };
            let change = Change { entity, op: Op::Put, precondition, follows: false };
            judged(Append::single(NewEvent::change(change, Some("1".into()), "api".into())))
        };
        let made = commit(writer, put_entity(Precondition::default()));
        assert!(matches!(made, Outcome::Appended(AppendOutcome::Changed(_))), "{made:?}");
        commit(writer, put("t1", SystemState::Maintenance, &[]));
        assert_eq!(commit(writer, put_entity(Precondition::default())), refused());
        assert_eq!(commit(writer, put_entity(Precondition::version(99))), refused());
    });
}

#[test]
fn nothing_of_an_ordered_list_is_written_after_what_was_refused() {
    on_both(|store| {
        let writer = &mut refusing(&store);
        let mut node = Node::joined("a", writer);
        let fence = node.take(writer, &LeaseName::ingest());
        commit(writer, put("t1", SystemState::Maintenance, &[]));
        let moved = || Write::MovePosition { name: "ingest".to_owned(), position: "9-0".to_owned() };
        let ordered = |writer: &mut Writer, names: &[&str]| {
            let mut group = Group::from(vec![judged(single("bid.placed")), judged(single("lot.listed"))]);
            group.extend(Some(fence.clone()), names.iter().map(|name| in_order(name)).chain([moved()]));
            group.extend(None, [moved()]);
            writer.commit(&mut group, &Routes::default(), NOON).expect("committed").outcomes
        };
        let outcomes = ordered(writer, &["a", "bid.placed", "b", "bid.placed"]);
        assert_eq!((&outcomes[0], is_stored(&outcomes[1]), is_stored(&outcomes[2])), (&refused(), true, true));
        assert_eq!(outcomes[3..6], [refused(), refused(), refused()]);
        assert_eq!(outcomes[6..], [Outcome::Void, Outcome::Saved], "the position of others is theirs");
        let outcomes = ordered(writer, &["a", "b"]);
        assert_eq!(outcomes[4..], [Outcome::Saved, Outcome::Saved]);
    });
}
