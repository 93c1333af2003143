//! Durable subscriptions in the store.

use std::time::Duration;

use super::{NOON, Store, at, on_both, run, single};
use crate::domain::delivery::{DeadReason, DeliveryState};
use crate::domain::durable::{DurablePolicy, Mark};
use crate::domain::lease::Grant;
use crate::domain::priority::Lane;
use crate::domain::routes::Routes;
use crate::storage::{DeadLetter, DeliveryFilter, DurableChange, Group, HeldDurable, NewDurable, Writer, service_name};

const POLICY: DurablePolicy = DurablePolicy { ack_wait: Duration::from_secs(30), max_in_flight: 10, max_deliver: 3 };

fn new(name: &str, floor: i64) -> NewDurable {
    let filter = Some(r#"{"a":[1]}"#.to_owned());
    NewDurable { name: name.to_owned(), pattern: "a.>".to_owned(), filter, floor, policy: POLICY }
}

fn opened(writer: &mut Writer, name: &str) -> HeldDurable {
    let record = writer.open_durable(&new(name, 0), 100, NOON).expect("open").expect("room");
    // PostgreSQL may need a moment to notice that the process before is gone.
    loop {
        let held = writer.hold_durable(record.service).expect("hold").expect("it is there");
        if held.hold != Grant::Elsewhere {
            return held;
        }
        std::thread::yield_now();
    }
}

fn change(of: &HeldDurable, floor: i64, marks: &[(i64, Mark)], forget: &[i64]) -> DurableChange {
    let (marks, forget) = (marks.to_vec(), forget.to_vec());
    DurableChange {
        service: of.record.service,
        epoch: of.record.epoch,
        floor,
        marks,
        forget,
        dead: Vec::new(),
        renewed: Vec::new(),
        events: Vec::new(),
    }
}

fn commit(writer: &mut Writer, change: DurableChange) {
    let group = Group { durables: vec![change], ..Group::default() };
    writer.commit(group, &Routes::default(), NOON).expect("commit");
}

#[test]
fn what_was_stored_of_one_comes_back() {
    on_both(|store| {
        let mut writer = store.writer();
        let made = opened(&mut writer, "d");
        assert_eq!((made.record.floor, made.record.policy, &made.marks), (0, POLICY, &Some(vec![])));
        let marks = [(5, Mark::Settled), (6, Mark::Delivered(1)), (9, Mark::Delivered(2))];
        commit(&mut writer, change(&made, 3, &marks, &[]));
        commit(&mut writer, change(&made, 4, &[(6, Mark::Delivered(2)), (9, Mark::Settled)], &[]));
        drop(writer);
        let mut writer = store.writer();
        let again = opened(&mut writer, "d");
        assert_eq!((again.record.floor, &again.record.filter), (4, &new("d", 0).filter));
        assert_eq!(again.marks, Some(vec![(5, Mark::Settled), (6, Mark::Delivered(2)), (9, Mark::Settled)]));
        commit(&mut writer, change(&again, 6, &[], &[5, 6]));
        let left = writer.hold_durable(made.record.service).expect("hold").expect("there");
        assert_eq!((left.record.floor, left.marks), (6, Some(vec![(9, Mark::Settled)])));
        let policy = DurablePolicy { max_deliver: 0, ..POLICY };
        assert!(writer.set_durable_policy("d", &policy).expect("set"));
        assert_eq!(run(store.reader().durables()).expect("list")[0].policy, policy);
    });
}

#[test]
fn there_are_only_so_many() {
    on_both(|store| {
        let mut writer = store.writer();
        assert!(writer.open_durable(&new("one", 0), 1, NOON).expect("open").is_some());
        assert!(writer.open_durable(&new("two", 0), 1, NOON).expect("open").is_none());
        assert!(writer.open_durable(&new("one", 0), 1, NOON).expect("open").is_some(), "it is there already");
    });
}

#[test]
fn changes_of_an_earlier_epoch_are_void() {
    on_both(|store| {
        let mut writer = store.writer();
        let before = opened(&mut writer, "d");
        commit(&mut writer, change(&before, 7, &[(9, Mark::Settled)], &[]));
        assert!(writer.seek_durable("d", 2).expect("seek"));
        commit(&mut writer, change(&before, 8, &[(10, Mark::Settled)], &[]));
        let after = writer.hold_durable(before.record.service).expect("hold").expect("there");
        assert_eq!((after.record.floor, &after.marks), (2, &Some(vec![])));
        commit(&mut writer, change(&after, 3, &[], &[]));
        assert!(writer.delete_durable("d").expect("delete") && !writer.delete_durable("d").expect("delete"));
        commit(&mut writer, change(&after, 4, &[(11, Mark::Settled)], &[]));
        assert!(writer.hold_durable(before.record.service).expect("hold").is_none());
        // Nothing is left for the next one with the same number.
        let next = opened(&mut writer, "other");
        assert_eq!((next.record.service, next.record.floor), (before.record.service, 0));
        assert_eq!(next.marks, Some(vec![]));
        commit(&mut writer, change(&after, 5, &[], &[]));
        let next = writer.hold_durable(next.record.service).expect("hold").expect("there");
        assert_eq!(next.record.floor, 0, "the changes were for another");
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
        let dead = DurableChange { dead: vec![letter(1), letter(2)], ..change(&made, 2, &[], &[]) };
        commit(&mut writer, dead.clone());
        commit(&mut writer, dead);
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
        writer.seek_durable("d", 1).expect("seek");
        let listed = run(store.reader().deliveries(filter)).expect("list").deliveries;
        assert_eq!(listed.iter().map(|l| l.delivery.event_id).collect::<Vec<_>>(), [1]);
    });
}

#[test]
fn who_lets_go_of_one_lets_another_process_have_it() {
    let store = Store::postgres();
    let (mut one, mut other) = (store.writer(), store.writer());
    let held = opened(&mut one, "d");
    let service = held.record.service;
    let hold = |writer: &mut Writer| writer.hold_durable(service).expect("hold").expect("there").hold;
    assert_eq!((hold(&mut one), hold(&mut other)), (Grant::Kept, Grant::Elsewhere));
    one.release(service).expect("release");
    assert_eq!((hold(&mut other), hold(&mut one)), (Grant::Taken, Grant::Elsewhere));
    // What the one has still to store is void, and it is told so; the other one's is not.
    let before = HeldDurable { record: held.record.clone(), ..held };
    let void = Group { durables: vec![change(&before, 7, &[], &[])], ..Group::default() };
    assert_eq!(one.commit(void, &Routes::default(), NOON).expect("commit").void, [service]);
    let now = other.hold_durable(service).expect("hold").expect("there");
    assert_eq!((now.hold, now.record.floor), (Grant::Kept, 0));
    let good = Group { durables: vec![change(&now, 7, &[], &[])], ..Group::default() };
    assert!(other.commit(good, &Routes::default(), NOON).expect("commit").void.is_empty());
    let known = other.hold_durables(&[(service, Some(now.record.epoch))]).expect("hold");
    assert_eq!((known[0].record.floor, &known[0].marks), (7, &None), "they are known");
}
