//! Consumers in the store.

use std::time::Duration;

use super::{NOON, Store, at, commit, on_both, run, single};
use crate::domain::consumer::{ConsumerPolicy, Mark};
use crate::domain::delivery::{DeadReason, DeliveryState};
use crate::domain::lease::Grant;
use crate::domain::priority::Lane;
use crate::domain::routes::ServiceId;
use crate::storage::{
    Alteration, ConsumerChange, ConsumerRecord, DeadLetter, DeliveryFilter, LeasedConsumer, NewConsumer, Outcome,
    Write, Writer, service_name,
};

const POLICY: ConsumerPolicy = ConsumerPolicy { ack_wait: Duration::from_secs(30), max_in_flight: 10, max_deliver: 3 };

fn new(name: &str, ack_floor: i64) -> NewConsumer {
    let filter = Some(r#"{"a":[1]}"#.to_owned());
    NewConsumer { name: name.to_owned(), pattern: "a.>".to_owned(), filter, ack_floor, policy: POLICY }
}

fn open(writer: &mut Writer, name: &str, max: usize) -> Option<ConsumerRecord> {
    match commit(writer, Write::OpenConsumer { new: new(name, 0), max }) {
        Outcome::Opened(record) => record.map(|record| *record),
        other => panic!("{other:?}"),
    }
}

/// Whether there is a consumer of this name.
fn alter(writer: &mut Writer, name: &str, alteration: Alteration) -> bool {
    commit(writer, Write::AlterConsumer { name: name.to_owned(), alteration }) == Outcome::Changed(true)
}

/// The consumer with the answer to a request for its lease; none if it was deleted.
fn lease(writer: &mut Writer, service: ServiceId) -> Option<LeasedConsumer> {
    writer.lease_consumers(&[(service, None)]).expect("an answer").pop()
}

fn opened(writer: &mut Writer, name: &str) -> LeasedConsumer {
    let record = open(writer, name, 100).expect("room");
    // PostgreSQL may need a moment to notice that the former process is gone.
    loop {
        let leased = lease(writer, record.service).expect("it is there");
        if leased.grant != Grant::Elsewhere {
            return leased;
        }
        std::thread::yield_now();
    }
}

fn change(of: &LeasedConsumer, ack_floor: i64, marks: &[(i64, Mark)], passed_marks: &[i64]) -> ConsumerChange {
    let (marks, passed_marks) = (marks.to_vec(), passed_marks.to_vec());
    ConsumerChange {
        service: of.record.service,
        fencing_epoch: of.record.fencing_epoch,
        ack_floor,
        marks,
        passed_marks,
        dead: Vec::new(),
        renewed: Vec::new(),
        events: Vec::new(),
    }
}

fn save(writer: &mut Writer, change: ConsumerChange) -> Outcome {
    commit(writer, Write::ChangeConsumer(change))
}

#[test]
fn what_was_stored_of_one_comes_back() {
    on_both(|store| {
        let mut writer = store.writer();
        let made = opened(&mut writer, "d");
        assert_eq!((made.record.ack_floor, made.record.policy, &made.marks), (0, POLICY, &Some(vec![])));
        let marks = [(5, Mark::Settled), (6, Mark::Delivered(1)), (9, Mark::Delivered(2))];
        save(&mut writer, change(&made, 3, &marks, &[]));
        save(&mut writer, change(&made, 4, &[(6, Mark::Delivered(2)), (9, Mark::Settled)], &[]));
        drop(writer);
        let mut writer = store.writer();
        let again = opened(&mut writer, "d");
        assert_eq!((again.record.ack_floor, &again.record.filter), (4, &new("d", 0).filter));
        assert_eq!(again.marks, Some(vec![(5, Mark::Settled), (6, Mark::Delivered(2)), (9, Mark::Settled)]));
        save(&mut writer, change(&again, 6, &[], &[5, 6]));
        let left = lease(&mut writer, made.record.service).expect("there");
        assert_eq!((left.record.ack_floor, left.marks), (6, Some(vec![(9, Mark::Settled)])));
        let policy = ConsumerPolicy { max_deliver: 0, ..POLICY };
        assert!(alter(&mut writer, "d", Alteration::Policy(policy)));
        assert_eq!(run(store.reader().consumers()).expect("list")[0].policy, policy);
    });
}

#[test]
fn there_are_only_so_many() {
    on_both(|store| {
        let mut writer = store.writer();
        assert!(open(&mut writer, "one", 1).is_some());
        assert!(open(&mut writer, "two", 1).is_none());
        assert!(open(&mut writer, "one", 1).is_some(), "it is there already");
    });
}

#[test]
fn changes_of_an_earlier_epoch_are_void() {
    on_both(|store| {
        let mut writer = store.writer();
        let before = opened(&mut writer, "d");
        save(&mut writer, change(&before, 7, &[(9, Mark::Settled)], &[]));
        assert!(alter(&mut writer, "d", Alteration::Seek(2)));
        save(&mut writer, change(&before, 8, &[(10, Mark::Settled)], &[]));
        let after = lease(&mut writer, before.record.service).expect("there");
        assert_eq!((after.record.ack_floor, &after.marks), (2, &Some(vec![])));
        save(&mut writer, change(&after, 3, &[], &[]));
        assert_eq!([(); 2].map(|()| alter(&mut writer, "d", Alteration::Delete)), [true, false]);
        save(&mut writer, change(&after, 4, &[(11, Mark::Settled)], &[]));
        assert!(lease(&mut writer, before.record.service).is_none());
        // Nothing is left for the next consumer with the same id.
        let next = opened(&mut writer, "other");
        assert_eq!((next.record.service, next.record.ack_floor), (before.record.service, 0));
        assert_eq!(next.marks, Some(vec![]));
        save(&mut writer, change(&after, 5, &[], &[]));
        let next = lease(&mut writer, next.record.service).expect("there");
        assert_eq!(next.record.ack_floor, 0, "the changes were for another");
    });
}

#[test]
fn dead_letters_are_deliveries_like_others_until_it_is_moved_before_them() {
    on_both(|store| {
        let mut writer = store.writer();
        writer.append(vec![single("a.b"), single("a.b")], NOON).expect("append");
        let made = opened(&mut writer, "d");
        let letter = |event_id| DeadLetter {
            event_id,
            lane: Lane::Normal,
            key: None,
            deliveries: 3,
            reason: DeadReason::Exhausted,
            error: "in vain".to_owned(),
            at: at(1),
        };
        let dead = ConsumerChange { dead: vec![letter(1), letter(2)], ..change(&made, 2, &[], &[]) };
        save(&mut writer, dead.clone());
        save(&mut writer, dead);
        let filter = DeliveryFilter {
            services: vec![made.record.service],
            states: vec![DeliveryState::Dead],
            before: None,
            limit: 10,
        };
        let listed = run(store.reader().deliveries(filter.clone())).expect("list").deliveries;
        assert_eq!(listed.iter().map(|l| l.delivery.event_id).collect::<Vec<_>>(), [2, 1]);
        assert_eq!((listed[0].delivery.attempts, listed[0].last_error.as_deref()), (3, Some("in vain")));
        let names = run(store.reader().service_names()).expect("names");
        assert_eq!(names[&made.record.service], service_name("d"));
        assert!(alter(&mut writer, "d", Alteration::Seek(1)));
        let listed = run(store.reader().deliveries(filter)).expect("list").deliveries;
        assert_eq!(listed.iter().map(|l| l.delivery.event_id).collect::<Vec<_>>(), [1]);
    });
}

#[test]
fn a_consumer_that_is_released_can_be_leased_by_another_process() {
    let store = Store::postgres();
    let (mut one, mut other) = (store.writer(), store.writer());
    let first = opened(&mut one, "d");
    let service = first.record.service;
    let grant = |writer: &mut Writer| lease(writer, service).expect("there").grant;
    assert_eq!((grant(&mut one), grant(&mut other)), (Grant::Kept, Grant::Elsewhere));
    one.release_consumer(service).expect("release");
    assert_eq!((grant(&mut other), grant(&mut one)), (Grant::Taken, Grant::Elsewhere));
    // A change of the former holder is void, and it is told so; a change of the present holder is not.
    let before = LeasedConsumer { record: first.record.clone(), ..first };
    assert_eq!(save(&mut one, change(&before, 7, &[], &[])), Outcome::Void);
    let now = lease(&mut other, service).expect("there");
    assert_eq!((now.grant, now.record.ack_floor), (Grant::Kept, 0));
    assert_eq!(save(&mut other, change(&now, 7, &[], &[])), Outcome::Saved);
    let known = other.lease_consumers(&[(service, Some(now.record.fencing_epoch))]).expect("an answer");
    assert_eq!((known[0].record.ack_floor, &known[0].marks), (7, &None), "they are known");
}
