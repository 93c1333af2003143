//! Sagas with values that are too long, too many, or not there: they fail by themselves, and hold nobody up.

use std::thread;

use serde_json::{Value, json};

use super::{Participant, becomes, configured, server, shown};
use crate::event_types::accept;
use crate::support::http::Response;
use crate::support::{Backend, Server, eventually, for_each_backend};

const SAGAS: &str = r#"
[[sagas]]
name = "found"
version = 1
trigger = { event = "found.begun" }
correlation = "/id"
steps = [{ name = "ask", call = { service = "bank", path = "/ask" }, await = { event = "found.reply", timeout = "1h", match = { "/a" = "${trigger.payload.a}", "/b" = "${trigger.payload.b}", "/c" = "${trigger.payload.c}" } } }]

[[sagas]]
name = "undone"
version = 1
trigger = { event = "undone.begun" }
correlation = "/id"
steps = [{ name = "act", call = { service = "bank", path = "/act" }, compensate = { call = { service = "bank", path = "/undo/${trigger.payload.long}" } } }]

[[sagas]]
name = "segment"
version = 1
trigger = { event = "segment.begun" }
correlation = "/id"
steps = [{ name = "act", call = { service = "bank", path = "/segment/${trigger.payload.of}" } }]

[[sagas]]
name = "rest"
version = 1
trigger = { event = "rest.begun" }
correlation = "/id"
on_duplicate = "needs_operator"
steps = [{ name = "rest", wait = "1h" }]
"#;

fn participant() -> Participant {
    Participant::start(|_, _| None)
}

/// Text that no database makes shorter.
fn random(length: usize, seed: u64) -> String {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 33) as u8 % 26)
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn long_values_to_be_found_by_hold_nobody_up() {
    for_each_backend(|backend| {
        let participant = participant();
        let server = server(backend, SAGAS, &participant);
        let [a, b, c] = [1, 2, 3].map(|seed| random(1_000, seed));
        server.publish("found.begun", json!({ "id": 1, "a": a, "b": b, "c": c }));
        server.publish("found.begun", json!({ "id": 2, "a": a, "b": b, "c": "other" }));
        becomes(&server, &json!(1), &["waiting"]);
        becomes(&server, &json!(2), &["waiting"]);
        server.publish("found.reply", json!({ "a": a, "b": b, "c": c }));
        becomes(&server, &json!(1), &["completed"]);
        becomes(&server, &json!(2), &["waiting"]);

        // What no event can be found by is noticed before the service is asked.
        let without = json!({ "id": 3, "a": a, "b": b });
        let with = |id: i64, c: Value| json!({ "id": id, "a": a, "b": b, "c": c });
        for payload in [without, with(4, json!({ "x": 1 })), with(5, json!(random(1_100, 4)))] {
            server.publish("found.begun", payload.clone());
            let full = shown(&server, &becomes(&server, &payload["id"], &["compensated"]));
            let error = full["steps"][0]["error"].as_str().expect("an error");
            assert!(error.starts_with("template_error: "), "{error}");
        }
        assert_eq!(participant.service.deliveries().len(), 2);
    });
}

#[test]
fn what_cannot_be_sent_is_noticed_before_anything_is() {
    let participant = participant();
    let server = server(Backend::Sqlite, SAGAS, &participant);
    server.publish("undone.begun", json!({ "id": 1, "long": "x".repeat(9_000) }));
    becomes(&server, &json!(1), &["needs_operator"]);
    server.publish("segment.begun", json!({ "id": 2, "of": null }));
    becomes(&server, &json!(2), &["compensated"]);
    assert_eq!(participant.service.deliveries().len(), 0);
}

fn start(server: &Server, saga: &str, payload: &Value) -> Response {
    server.post(&format!("/sagas/{saga}/start"), json!({ "payload": payload }))
}

#[test]
fn what_the_catalogue_refuses_begins_no_saga_by_hand() {
    let server = server(Backend::Sqlite, SAGAS, &participant());
    accept(&server, "segment.begun", json!({ "schema": { "required": ["of"] } }));
    assert_eq!(start(&server, "segment", &json!({ "id": 1 })).error(422)["code"], "schema_violation");
    assert_eq!(start(&server, "segment", &json!({ "id": 1, "of": "x" })).status, 201);
}

/// There is room for none of them.
#[test]
fn of_many_who_begin_one_value_by_hand_at_once_one_does() {
    for_each_backend(|backend| {
        let builder = Server::builder().backend(backend).env("EVENT_HANDLER__ORCHESTRATION__MAX_INSTANCES", 1);
        let server = configured(builder, SAGAS, &participant()).start();
        server.publish("rest.begun", json!({ "id": 1 }));
        becomes(&server, &json!(1), &["waiting"]);
        let answers: Vec<u16> = thread::scope(|scope| {
            let begin = || scope.spawn(|| start(&server, "rest", &json!({ "id": 2 })).status);
            let all: Vec<_> = std::iter::repeat_with(begin).take(16).collect();
            all.into_iter().map(|one| one.join().expect("an answer")).collect()
        });
        assert_eq!(answers.iter().filter(|status| **status == 201).count(), 1, "{answers:?}");
        assert!(answers.iter().all(|status| matches!(status, 201 | 409)), "{answers:?}");
        assert_eq!(server.get("/sagas?state=queued").data().as_array().map(Vec::len), Some(1));
    });
}

/// Half of them mean another instance by it.
#[test]
fn of_many_who_begin_with_one_key_at_once_each_is_told_what_became_of_it() {
    for_each_backend(|backend| {
        let server = configured(Server::builder().backend(backend), SAGAS, &participant()).start();
        for round in 0..5 {
            let key = format!("key {round}");
            let begin = |id: usize| {
                let body = json!({ "payload": { "id": id } });
                (id, server.request("POST", "/sagas/rest/start").header("idempotency-key", &key).json(&body).send())
            };
            let answers: Vec<(usize, Response)> = thread::scope(|scope| {
                let all: Vec<_> = (0..16).map(|n| scope.spawn(move || begin(2 * round + n % 2))).collect();
                all.into_iter().map(|one| one.join().expect("an answer")).collect()
            });
            let is_first = |answer: &Response| answer.status == 201 && answer.header("idempotent-replayed").is_none();
            let first: Vec<_> = answers.iter().filter(|(_, answer)| is_first(answer)).collect();
            assert_eq!(first.len(), 1, "one has begun it: {answers:?}");
            let (begun, instance) = (first[0].0, first[0].1.data());
            for (id, answer) in &answers {
                match *id == begun {
                    true => assert_eq!((answer.status, answer.data()), (201, instance.clone())),
                    false => assert_eq!(answer.error(422)["code"], "idempotency_key_reused"),
                }
            }
        }
    });
}

/// Its value is another's.
#[test]
fn an_order_that_cannot_be_taken_is_not_counted_as_one_that_can() {
    let server = server(Backend::Sqlite, SAGAS, &participant());
    for _ in 0..2 {
        server.publish("rest.begun", json!({ "id": 1 }));
    }
    eventually("one needs an operator", || {
        let found = server.get("/sagas?name=rest&state=needs_operator").data();
        (found.as_array()?.len() == 1).then_some(())
    });
    for dry_run in [true, false] {
        let order = json!({ "name": "rest", "state": "needs_operator", "reason": "a test", "dry_run": dry_run });
        let told = server.post("/admin/sagas/retry", order).data();
        assert_eq!((&told["count"], &told["unfit"]), (&json!(0), &json!(1)), "{told}");
    }
}
