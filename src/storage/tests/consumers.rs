//! Consumers in the store.

use std::time::Duration;

use super::leases::Node;
use super::{NOON, at, commit, on_both, run, single};
use crate::domain::consumer::{ConsumerPolicy, Mark};
use crate::domain::delivery::{DeadReason, DeliveryState};
use crate::domain::lease::LeaseName;
use crate::domain::priority::Lane;
use crate::storage::{
    Alteration, ConsumerChange, ConsumerRecord, DeadLetter, DeliveryFilter, KnownConsumer, LeasedConsumer, NewConsumer,
    Outcome, Write, Writer, service_name,
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

fn opened(writer: &mut Writer, name: &str) -> LeasedConsumer {
    let record = open(writer, name, 100).expect("room");
    leased(writer, &record).expect("it is there")
}

/// As a new node sees it that asks for the lease; none if it was deleted.
fn leased(writer: &mut Writer, record: &ConsumerRecord) -> Option<LeasedConsumer> {
    let known = KnownConsumer { service: record.service, lease: LeaseName::consumer(&record.name), held: None };
    let mut node = Node::joined_anew("a", writer);
    writer.lease_consumers(&[known], node.seeker()).expect("the store answers").pop()
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
        let left = leased(&mut writer, &made.record).expect("there");
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
        let after = leased(&mut writer, &before.record).expect("there");
        assert_eq!((after.record.ack_floor, &after.marks), (2, &Some(vec![])));
        save(&mut writer, change(&after, 3, &[], &[]));
        assert_eq!([(); 2].map(|()| alter(&mut writer, "d", Alteration::Delete)), [true, false]);
        save(&mut writer, change(&after, 4, &[(11, Mark::Settled)], &[]));
        assert!(leased(&mut writer, &before.record).is_none());
        // Nothing is left for the next one with the same number.
        let next = opened(&mut writer, "other");
        assert_eq!((next.record.service, next.record.ack_floor), (before.record.service, 0));
        assert_eq!(next.marks, Some(vec![]));
        save(&mut writer, change(&after, 5, &[], &[]));
        let next = leased(&mut writer, &next.record).expect("there");
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
fn what_is_known_of_one_is_not_read_again() {
    on_both(|store| {
        let mut writer = store.writer();
        let held = opened(&mut writer, "d");
        save(&mut writer, change(&held, 7, &[(9, Mark::Settled)], &[]));
        let mut node = Node::joined_anew("a", &mut writer);
        let record = &held.record;
        let lease = LeaseName::consumer(&record.name);
        let generation = node.take(&mut writer, &lease).generation;
        let mut marks = |epoch, generation| {
            let held = Some((generation, epoch));
            let known = KnownConsumer { service: record.service, lease: lease.clone(), held };
            writer.lease_consumers(&[known], node.seeker()).expect("the store answers").remove(0).marks
        };
        assert_eq!(marks(record.fencing_epoch, generation), None);
        let all = Some(vec![(9, Mark::Settled)]);
        assert_eq!(marks(record.fencing_epoch - 1, generation), all, "an operator has moved it");
        assert_eq!(marks(record.fencing_epoch, generation - 1), all, "another has had it");
    });
}
