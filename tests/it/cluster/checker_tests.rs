//! One violation of each kind, planted into a history that keeps all promises: each is found, and nothing else.

use std::time::Duration;

use super::checker::{Promise, check};
use super::history::{
    Answer, At, ConsumerHistory, Given, History, Outcome, Post, Publish, Push, ServiceHistory, Stored, Subscriber,
};

fn at(millis: u64) -> At {
    Duration::from_millis(millis)
}

fn publish(id: i64, key: Option<&str>) -> Publish {
    let begin = id.unsigned_abs() * 100;
    Publish {
        node: "n1".to_owned(),
        tag: format!("tag-{id}"),
        name: "c.a".to_owned(),
        key: key.map(str::to_owned),
        idempotency_key: None,
        asked: at(begin),
        answered: Some((at(begin + 10), Answer::Stored(id))),
    }
}

fn stored(publish: &Publish, id: i64) -> Stored {
    Stored { id, name: publish.name.clone(), key: publish.key.clone(), tag: Some(publish.tag.clone()) }
}

fn post(number: usize, id: i64, arrived: u64, status: u16) -> Post {
    Post { number, node: "n1".to_owned(), id, arrived: at(arrived), answered: Some((at(arrived + 5), status)) }
}

fn given(id: i64, millis: u64) -> Given {
    Given { at: at(millis), node: "n1".to_owned(), id }
}

/// Four events: 1 and 2 of one key, 3 with an idempotency key that was used twice, 4 scheduled; 5 is the program's own.
fn sound() -> History {
    let mut publishes: Vec<Publish> =
        [(1, Some("k")), (2, Some("k")), (3, None), (4, None)].map(|(id, key)| publish(id, key)).into();
    publishes[2].idempotency_key = Some("i".to_owned());
    publishes[3].answered = Some((at(410), Answer::Scheduled));
    let mut log: Vec<Stored> = (1..).zip(&publishes).map(|(id, publish)| stored(publish, id)).collect();
    log.push(Stored { id: 5, name: "$sys.own".to_owned(), key: None, tag: None });
    let mut repeated = Publish { asked: at(340), answered: None, ..publishes[2].clone() };
    repeated.node = "n2".to_owned();
    publishes.push(repeated.clone());
    publishes.push(Publish { asked: at(900), answered: Some((at(910), Answer::Stored(3))), ..repeated });
    let push = |id: i64| Push { at: at(1_000), node: "n1".to_owned(), id, tag: Some(format!("tag-{id}")) };
    let wants = || "c.".to_owned();
    let outcome = |id, failed: Vec<_>| Outcome { id, is_delivered: true, attempts: failed.len() + 1, failed };
    let service = ServiceHistory {
        name: "s".to_owned(),
        wants: wants(),
        posts: vec![
            post(0, 1, 1_000, 500),
            post(1, 1, 1_010, 200),
            post(2, 2, 1_020, 200),
            post(3, 1, 1_030, 200), // A repeat may come late.
            post(4, 3, 1_000, 200),
            post(5, 4, 1_000, 200),
        ],
        outcomes: vec![
            outcome(1, vec![(1, Some(500), Some(0))]),
            outcome(2, vec![]),
            outcome(3, vec![]),
            outcome(4, vec![]),
        ],
    };
    let consumer = ConsumerHistory {
        name: "d".to_owned(),
        wants: wants(),
        given: vec![given(1, 1_000), given(1, 1_050), given(2, 1_000), given(3, 1_000), given(4, 1_000)],
        acked: (1..=4).map(|id| given(id, 1_100)).collect(),
    };
    History {
        publishes,
        log,
        subscribers: vec![Subscriber { name: "u".to_owned(), wants: wants(), pushes: (1..=4).map(push).collect() }],
        services: vec![service],
        consumers: vec![consumer],
    }
}

/// What is found after `plant`.
#[track_caller]
fn finds(promises: &[Promise], plant: impl FnOnce(&mut History)) {
    let mut history = sound();
    plant(&mut history);
    let violations = check(&history);
    let found: Vec<Promise> = violations.iter().map(|violation| violation.promise).collect();
    assert_eq!(found, promises, "{violations:?}");
    for violation in violations {
        assert!(!violation.lines.is_empty(), "{violation}");
    }
}

#[test]
fn a_sound_history_breaks_nothing() {
    finds(&[], |_| {});
}

#[test]
fn what_was_acknowledged_and_is_lost_is_found() {
    finds(&[Promise::NothingAcknowledgedIsLost], |history| {
        history.publishes.push(Publish { tag: "lost".to_owned(), ..publish(9, None) });
    });
    finds(&[Promise::NothingAcknowledgedIsLost], |history| {
        history.publishes.push(Publish {
            tag: "lost".to_owned(),
            answered: Some((at(910), Answer::Scheduled)),
            ..publish(9, None)
        });
    });
    // Under another id than was said.
    finds(&[Promise::NothingAcknowledgedIsLost, Promise::IdsAreInCommitOrder], |history| {
        history.publishes[0].answered = Some((at(110), Answer::Stored(7)))
    });
    finds(&[], |history| {
        history.publishes.push(Publish { tag: "unknown".to_owned(), answered: None, ..publish(9, None) });
    });
}

#[test]
fn holes_between_ids_are_found() {
    finds(&[Promise::IdsAreDense], |history| history.log[4].id = 7);
}

#[test]
fn ids_against_the_order_of_commits_are_found() {
    finds(&[Promise::IdsAreInCommitOrder], |history| {
        history.publishes[1].asked = at(50);
        history.publishes[1].answered = Some((at(60), Answer::Stored(2)));
    });
    // Whoever asks while another is not answered yet may have either id.
    finds(&[], |history| history.publishes[1].asked = at(50));
}

#[test]
fn an_idempotency_key_that_stores_twice_is_found() {
    finds(&[Promise::AnIdempotencyKeyStoresOnce], |history| {
        let again = stored(&history.publishes[2], 6);
        history.publishes[4].answered = Some((at(950), Answer::Stored(6)));
        history.log.push(Stored { name: "d.elsewhere".to_owned(), ..again.clone() });
        history.publishes[4].name = "d.elsewhere".to_owned();
    });
}

#[test]
fn a_schedule_that_comes_twice_is_found() {
    finds(&[Promise::AScheduleComesOnce], |history| {
        let again = stored(&history.publishes[3], 6);
        history.log.push(Stored { name: "d.elsewhere".to_owned(), ..again });
    });
}

#[test]
fn a_publish_that_is_stored_twice_is_found() {
    finds(&[Promise::APublishIsStoredOnce], |history| {
        let again = stored(&history.publishes[0], 6);
        history.log.push(Stored { name: "d.elsewhere".to_owned(), ..again });
    });
}

#[test]
fn what_a_subscriber_misses_or_sees_twice_or_out_of_order_is_found() {
    let promise = [Promise::ASubscriberSeesEachEventOnceInOrder];
    finds(&promise, |history| drop(history.subscribers[0].pushes.remove(1)));
    finds(&promise, |history| {
        let again = history.subscribers[0].pushes[1].clone();
        history.subscribers[0].pushes.insert(2, again);
    });
    finds(&promise, |history| history.subscribers[0].pushes.swap(1, 2));
    finds(&promise, |history| history.subscribers[0].pushes[3].tag = Some("another".to_owned()));
    finds(&promise, |history| {
        let unknown = Push { id: 6, ..history.subscribers[0].pushes[3].clone() };
        history.subscribers[0].pushes.push(unknown);
    });
}

#[test]
fn what_a_service_does_not_get_is_found() {
    let promise = [Promise::AServiceGetsEachEvent];
    finds(&promise, |history| {
        history.services[0].posts.retain(|post| post.id != 4);
        history.services[0].outcomes.retain(|outcome| outcome.id != 4);
    });
    finds(&promise, |history| history.services[0].posts[5].answered = None);
    finds(&promise, |history| {
        history.log.push(Stored { id: 6, name: "c.a".to_owned(), key: None, tag: None });
        history.subscribers.clear();
        history.consumers.clear();
    });
}

#[test]
fn a_key_out_of_order_is_found() {
    let promise = [Promise::AKeyIsInOrder];
    finds(&promise, |history| history.services[0].posts[2].arrived = at(990));
    // Sent after the one before had come, but before it was answered.
    finds(&promise, |history| history.services[0].posts[2].arrived = at(1_012));
}

#[test]
fn answers_of_two_nodes_that_both_count_are_found() {
    let promise = [Promise::OneNodesAnswerCounts];
    // The answer of a node that had been replaced, told of a delivery that had ended.
    finds(&promise, |history| {
        history.services[0].posts.push(Post { node: "n2".to_owned(), ..post(6, 3, 1_000, 503) });
        history.services[0].outcomes[2].failed = vec![(1, Some(503), Some(6))];
    });
    // Both were counted.
    finds(&promise, |history| history.services[0].outcomes[2].attempts = 2);
    // The second attempt had come before the first one had ended.
    finds(&promise, |history| {
        history.services[0].posts.push(Post { node: "n2".to_owned(), ..post(6, 1, 1_001, 503) });
        history.services[0].outcomes[0] = Outcome {
            id: 1,
            is_delivered: true,
            attempts: 3,
            failed: vec![(1, Some(500), Some(0)), (2, Some(503), Some(6))],
        };
    });
    // An attempt that nobody has made.
    finds(&promise, |history| history.services[0].outcomes[0].failed = vec![(1, Some(500), Some(9))]);
}

#[test]
fn what_a_consumer_does_not_get_or_gets_again_is_found() {
    finds(&[Promise::AConsumerGetsEachEvent], |history| drop(history.consumers[0].acked.remove(0)));
    finds(&[Promise::AConsumerGetsEachEvent], |history| {
        history.consumers[0].given.retain(|given| given.id != 3);
    });
    finds(&[Promise::WhatWasAcknowledgedDoesNotComeAgain], |history| {
        history.consumers[0].given.push(given(2, 1_200));
    });
}
