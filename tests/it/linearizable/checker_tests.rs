//! The checker finds what is planted, and nothing else.

use std::time::Duration;

use super::checker::{Answer, Ask, Call, Change, Condition, Kind, check};

fn call(tag: &str, ask: Ask, (begun, end): (u64, u64), answer: Option<Answer>) -> Call {
    let answered = answer.map(|answer| (Duration::from_millis(end), answer));
    let (key, tag) = ("k".to_owned(), tag.to_owned());
    Call { key, tag, ask, begun: Duration::from_millis(begun), answered, value: None }
}

fn read(span: (u64, u64), version: i64, value: &str) -> Call {
    Call { value: Some(value.to_owned()), ..call("r", Ask::Read, span, Some(Answer::There(Some(version)))) }
}

fn change(tag: &str, version: i64, previous: Option<i64>, is_put: bool) -> Change {
    Change { key: "k".to_owned(), version, previous, tag: tag.to_owned(), is_put }
}

const ANY: Ask = Ask::Put(Condition::Any);

/// Two puts, the second on condition; a deletion; all of it read.
fn history() -> (Vec<Call>, Vec<Change>) {
    let calls = vec![
        call("a", ANY, (0, 10), Some(Answer::Written(5))),
        read((5, 12), 5, "a"),
        call("b", Ask::Put(Condition::Version(5)), (20, 30), Some(Answer::Written(7))),
        read((25, 28), 5, "a"),
        read((22, 26), 7, "b"),
        call("c", Ask::Put(Condition::Version(5)), (31, 33), Some(Answer::There(Some(7)))),
        call("d", Ask::Delete(Condition::Any), (40, 50), Some(Answer::Written(9))),
        call("e", Ask::Read, (45, 60), Some(Answer::Deleted(9))),
        call("f", Ask::Put(Condition::Version(7)), (55, 58), Some(Answer::There(None))),
        // Nobody knows of it but the log.
        call("g", Ask::Put(Condition::Absent), (70, 0), None),
        read((80, 90), 11, "g"),
        call("h", ANY, (81, 0), None),
    ];
    let log = vec![
        change("a", 5, None, true),
        change("b", 7, Some(5), true),
        change("d", 9, Some(7), false),
        change("g", 11, None, true),
    ];
    (calls, log)
}

fn kinds(change: impl FnOnce(&mut Vec<Call>, &mut Vec<Change>)) -> Vec<Kind> {
    let (mut calls, mut log) = history();
    change(&mut calls, &mut log);
    let mut kinds: Vec<Kind> = check(&calls, &log).into_iter().map(|violation| violation.kind).collect();
    kinds.dedup();
    kinds
}

fn at(call: &mut Call, begun: u64, end: u64) {
    call.begun = Duration::from_millis(begun);
    call.answered = call.answered.map(|(_, answer)| (Duration::from_millis(end), answer));
}

#[test]
fn a_linearizable_history_is_taken_for_one() {
    assert_eq!(kinds(|_, _| ()), []);
    // Two that overlap may be in either order.
    assert_eq!(kinds(|calls, _| at(&mut calls[2], 3, 30)), []);
    assert_eq!(kinds(|calls, _| at(&mut calls[8], 40, 45)), []);
}

#[test]
fn a_read_of_what_was_seen_to_be_replaced_is_found() {
    // One has seen the new value and ended, and another begins after that and sees the old one.
    assert_eq!(kinds(|calls, _| at(&mut calls[4], 21, 24)), [Kind::Seen]);
}

#[test]
fn what_is_planted_is_found() {
    assert_eq!(kinds(|_, log| drop(log.remove(0)))[0], Kind::Lost);
    assert_eq!(
        kinds(|calls, _| calls[0].answered = Some((Duration::from_millis(10), Answer::Written(6)))),
        [Kind::Lost]
    );
    let refused = Some((Duration::from_millis(30), Answer::There(Some(5))));
    assert_eq!(kinds(|calls, _| calls[2].answered = refused)[0], Kind::RefusedAndDone);
    assert_eq!(kinds(|calls, _| calls[2].ask = Ask::Put(Condition::Version(4))), [Kind::Condition]);
    assert_eq!(kinds(|_, log| log[1].previous = None), [Kind::Condition]);
    assert_eq!(kinds(|calls, _| calls[9].ask = Ask::Put(Condition::Version(9))), [Kind::Condition]);
    // The deletion was answered before b was asked for.
    assert_eq!(kinds(|calls, _| at(&mut calls[6], 11, 13))[0], Kind::Order);
    assert_eq!(kinds(|calls, _| at(&mut calls[1], 31, 35)), [Kind::Seen], "a stale read");
    assert_eq!(kinds(|calls, _| at(&mut calls[4], 12, 15)), [Kind::Seen], "a read of what is to come");
    assert_eq!(kinds(|calls, _| at(&mut calls[5], 51, 53)), [Kind::Seen], "a refusal by what was deleted before");
    assert_eq!(kinds(|calls, _| at(&mut calls[8], 33, 39)), [Kind::Seen], "a refusal by an absence to come");
    assert_eq!(kinds(|calls, _| at(&mut calls[8], 91, 95)), [Kind::Seen], "a refusal by an absence that is over");
    assert_eq!(kinds(|calls, _| calls[1].value = Some("b".to_owned())), [Kind::Value]);
    let never = Some((Duration::from_millis(12), Answer::There(Some(6))));
    assert_eq!(kinds(|calls, _| calls[1].answered = never), [Kind::Seen]);
}
