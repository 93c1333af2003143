//! How instances end.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{Participant, SETTLE, becomes, ended, pairs, server, shown, steps, told};
use crate::support::backend::for_each_backend;
use crate::support::server::Builder;
use crate::support::service::Delivery;
use crate::support::{Answer, Backend, Server, eventually};

#[test]
fn a_saga_runs_step_by_step_and_completes() {
    for_each_backend(|backend| {
        let participant = Participant::start(|_, _| None);
        let server = server(backend, SETTLE, &participant);
        server.publish("auction.ended", json!({ "auction": 6 }));
        let trigger = server.publish("auction.ended", ended(7));
        participant.service.wait_for(2);
        let waiting = becomes(&server, &json!(7), &["waiting"]);
        let waits = shown(&server, &waiting)["waiting_for"].clone();
        assert_eq!(
            (&waits[0]["step"], &waits[0]["for"], &waits[0]["event"]),
            (&json!("transfer"), &json!("event"), &json!("transfer.*"))
        );
        server.publish("transfer.progress", json!({ "auction": 7 }));
        server.publish("transfer.done", json!({ "auction": 8, "ok": true }));
        server.publish("transfer.done", json!({ "auction": 7, "ok": true, "tx": "0x1" }));
        let completed = becomes(&server, &json!(7), &["completed"]);
        let full = shown(&server, &completed);
        assert_eq!(
            steps(&full),
            pairs(&[("reserve", "succeeded"), ("transfer", "succeeded"), ("announce", "succeeded")])
        );
        assert_eq!(full["trigger"]["id"], trigger);
        let settled = server.events("?event_name=auction.settled");
        assert_eq!(settled.len(), 1);
        assert_eq!(settled[0]["payload"], json!({ "auction": 7, "tx": "0x1" }));
        assert_eq!((&settled[0]["source"], &settled[0]["key"]), (&json!("saga:settle"), &json!("7")));
        assert_eq!(told(&server), [("started".to_owned(), json!(7)), ("completed".to_owned(), json!(7))]);
        let ledger = participant.ledger();
        assert_eq!(ledger.order, ["action reserve", "action transfer"]);
        assert_eq!((ledger.changed.len(), ledger.came.values().max()), (0, Some(&1)));
        let bodies: Vec<Value> = participant.service.deliveries().iter().map(|delivery| delivery.json()).collect();
        assert_eq!(bodies, [json!({ "auction": 7, "of": "ada" }), json!({ "n": 1 })]);
    });
}

#[test]
fn what_may_have_happened_is_undone_in_reverse_order() {
    for_each_backend(|backend| {
        let participant = Participant::start(|_, _| None);
        let server = server(backend, SETTLE, &participant);
        server.publish("auction.ended", ended(7));
        participant.service.wait_for(2);
        server.publish("transfer.done", json!({ "auction": 7, "ok": false }));
        let full = shown(&server, &becomes(&server, &json!(7), &["compensated"]));
        assert_eq!(
            steps(&full),
            pairs(&[("reserve", "compensated"), ("transfer", "compensated"), ("announce", "pending")])
        );
        let ledger = participant.ledger();
        let order = ["action reserve", "action transfer", "compensation transfer", "compensation reserve"];
        assert_eq!((&ledger.order[..], ledger.in_effect().len()), (&order.map(str::to_owned)[..], 0));
    });
}

#[test]
fn a_refusal_is_a_failure_and_what_was_not_done_is_not_undone() {
    let participant = Participant::start(|_, step| (step == "transfer").then_some(Answer::Status(422)));
    let server = server(Backend::Sqlite, SETTLE, &participant);
    server.publish("auction.ended", ended(7));
    let full = shown(&server, &becomes(&server, &json!(7), &["compensated"]));
    assert_eq!(steps(&full), pairs(&[("reserve", "compensated"), ("transfer", "failed"), ("announce", "pending")]));
    assert_eq!(participant.ledger().order, ["action reserve", "action transfer", "compensation reserve"]);
}

/// Nobody knows what a connection that breaks off has done: it is tried again under the same key, and undone in the end.
#[test]
fn what_nobody_knows_is_undone_too() {
    let participant = Participant::start(|delivery, step| {
        (step == "transfer" && delivery.header("saga-operation") == Some("action")).then_some(Answer::HangUp)
    });
    let server = server(Backend::Sqlite, SETTLE, &participant);
    server.publish("auction.ended", ended(7));
    let full = shown(&server, &becomes(&server, &json!(7), &["compensated"]));
    assert_eq!(steps(&full)[1], ("transfer".to_owned(), "compensated".to_owned()));
    let ledger = participant.ledger();
    let id = full["id"].as_str().expect("an id");
    assert_eq!(ledger.came[&format!("saga/{id}/transfer")], 3);
    assert_eq!((ledger.changed.len(), ledger.came[&format!("saga/{id}/transfer/compensation")]), (0, 1));
}

/// A connection that was used before ends without an answer, and the request is sent again at once. A refusal of that
/// says nothing of the first one.
#[test]
fn a_refusal_after_a_lost_connection_is_not_believed() {
    let tries = AtomicUsize::new(0);
    let participant = Participant::start(move |delivery, step| {
        let is_it = step == "transfer" && delivery.header("saga-operation") == Some("action");
        match is_it.then(|| tries.fetch_add(1, Ordering::SeqCst))? {
            0 => None,
            1 => Some(Answer::HangUp),
            _ => Some(Answer::Status(409)),
        }
    });
    let server = server(Backend::Sqlite, SETTLE, &participant);
    server.publish("auction.ended", ended(6));
    becomes(&server, &json!(6), &["waiting"]);
    server.publish("auction.ended", ended(7));
    let full = shown(&server, &becomes(&server, &json!(7), &["compensated"]));
    assert_eq!(steps(&full)[1], ("transfer".to_owned(), "compensated".to_owned()));
    let called = full["journal"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|entry| entry["step"] == "transfer" && entry["kind"] == "called");
    assert_eq!(
        (&called.expect("a call")["outcome"], &called.expect("a call")["attempts"]),
        (&json!("unknown"), &json!(1))
    );
}

/// A call is under way, and the server starts again without the service. Nobody knows what it has done, and what it
/// may have done cannot be undone.
#[test]
fn a_call_to_a_service_that_is_gone_needs_an_operator() {
    let participant = Participant::start(|_, step| (step == "transfer").then_some(Answer::Hang));
    let mut server = server(Backend::Sqlite, SETTLE, &participant);
    server.publish("auction.ended", ended(7));
    participant.service.wait_for(2);
    server.kill9();
    let gone = ["URL", "ROUTES", "RETRY_BASE", "RETRY_CAP", "TIMEOUT", "BREAKER_CONSECUTIVE"];
    let without = |spec: Builder, key: &&str| spec.without(&format!("EVENT_HANDLER__SERVICES__CHAIN__{key}"));
    let spec = gone.iter().fold(server.spec().file("conf.toml", ""), without);
    let server = spec.start();
    let full = shown(&server, &becomes(&server, &json!(7), &["needs_operator"]));
    let called = full["journal"]
        .as_array()
        .expect("a list")
        .iter()
        .rfind(|entry| entry["kind"] == "called" && entry["step"] == "transfer");
    assert_eq!(called.expect("a call")["outcome"], "unknown", "{full}");
}

#[test]
fn a_reply_that_comes_before_the_answer_counts_and_a_late_one_is_told() {
    let participant = Participant::start(|_, step| (step == "transfer").then_some(Answer::Hang));
    let server = server(Backend::Sqlite, SETTLE, &participant);
    server.publish("auction.ended", ended(7));
    participant.service.wait_for(2);
    server.publish("transfer.done", json!({ "auction": 7, "ok": true, "tx": 1 }));
    eventually("it is seen", || {
        let full = shown(&server, &becomes(&server, &json!(7), &["running"]));
        full["journal"].as_array()?.iter().any(|entry| entry["kind"] == "replied").then_some(())
    });
    participant.service.answer(200);
    becomes(&server, &json!(7), &["completed"]);
    // The same again changes nothing, another verdict is late.
    server.publish("transfer.done", json!({ "auction": 7, "ok": true, "tx": 1 }));
    server.publish("transfer.done", json!({ "auction": 7, "ok": false }));
    eventually("it is told", || told(&server).iter().any(|(what, _)| what == "late_reply").then_some(()));
    let count = |what: &str| told(&server).iter().filter(|(told, _)| told == what).count();
    assert_eq!((count("late_reply"), count("completed")), (1, 1));
    becomes(&server, &json!(7), &["completed"]);
}

const TIMED: &str = r#"
[[sagas]]
name = "timed"
version = 1
trigger = { event = "go" }
correlation = "/n"
[[sagas.steps]]
name = "rest"
wait = "${trigger.payload.for}"
[[sagas.steps]]
name = "ask"
call = { service = "bank", path = "/asks" }
await = { event = "asked", correlation = "/n", timeout = "50ms" }
on_unknown = "needs_operator"
"#;

/// The time-out falls due while nobody runs, and much has to be read before the reply.
#[test]
fn a_reply_that_was_stored_before_the_time_out_counts_behind_a_backlog() {
    let participant = Participant::start(|_, _| None);
    let sagas = SETTLE.replace("timeout = \"1m\"", "timeout = \"3s\"");
    let mut server = server(Backend::Sqlite, &sagas, &participant);
    server.publish("auction.ended", ended(7));
    let waits = shown(&server, &becomes(&server, &json!(7), &["waiting"]))["waiting_for"][0]["until"].clone();
    let other = json!({ "event_name": "other", "payload": "x".repeat(500) });
    let mut batch = vec![other; 9000];
    batch.push(json!({ "event_name": "transfer.done", "payload": { "auction": 7, "ok": true, "tx": 1 } }));
    server.post("/publish/batch", json!(batch)).data();
    server.kill9();
    let until: jiff::Timestamp = waits.as_str().expect("a time").parse().expect("a time");
    let left = until.duration_since(jiff::Timestamp::now());
    assert!(left.is_positive(), "the machine is too slow for this test: {left}");
    // It is due while nobody runs.
    std::thread::sleep(left.unsigned_abs() + std::time::Duration::from_millis(50));
    server.restart();
    becomes(&server, &json!(7), &["completed"]);
}

#[test]
fn timers_fire_once_also_after_a_downtime() {
    for_each_backend(|backend| {
        let participant = Participant::start(|_, _| None);
        let mut server = server(backend, TIMED, &participant);
        server.publish("go", json!({ "n": 1, "for": "300ms" }));
        server.publish("go", json!({ "n": 2, "for": "1h" }));
        becomes(&server, &json!(1), &["waiting"]);
        becomes(&server, &json!(2), &["waiting"]);
        server.kill9();
        // It is due while nobody runs.
        std::thread::sleep(std::time::Duration::from_millis(350));
        server.restart();
        becomes(&server, &json!(1), &["needs_operator"]);
        becomes(&server, &json!(2), &["waiting"]);
        assert_eq!(participant.service.deliveries().len(), 1);
    });
}

const PROBED: &str = r#"
[[sagas]]
name = "probed"
version = 1
trigger = { event = "go" }
correlation = "/n"
[[sagas.steps]]
name = "do"
call = { service = "bank", path = "/does" }
probe = { path = "/does/${saga.correlation}", every = "20ms", timeout = "5s" }
retry = { max_attempts = 1 }
"#;

#[test]
fn a_service_is_asked_what_it_has_done() {
    for_each_backend(|backend| {
        // It does what it is asked for, and breaks off; asked about it, it says so the third time.
        let participant = Participant::start(|_, _| None);
        let ledger = std::sync::Arc::clone(&participant.ledger);
        participant.service.behave(move |delivery| {
            let n = delivery.path.rsplit('/').next().unwrap_or_default().to_owned();
            if delivery.header("saga-operation").is_some() {
                return Answer::HangUp;
            }
            let mut ledger = ledger.lock().expect("no panic");
            let count = ledger.came.entry(n.clone()).or_default();
            *count += 1;
            match (*count, &*n) {
                (3, "1") => Answer::Full(200, vec![], r#"{"tx":5}"#.to_owned()),
                (3, _) => Answer::Status(404),
                (1, _) => Answer::Status(500),
                _ => Answer::HangUp,
            }
        });
        let server = server(backend, PROBED, &participant);
        server.publish("go", json!({ "n": 1 }));
        server.publish("go", json!({ "n": 2 }));
        let full = shown(&server, &becomes(&server, &json!(1), &["completed"]));
        assert_eq!(steps(&full), pairs(&[("do", "succeeded")]));
        let full = shown(&server, &becomes(&server, &json!(2), &["compensated"]));
        assert_eq!(steps(&full), pairs(&[("do", "failed")]));
        let ledger = participant.ledger();
        assert_eq!((ledger.came["1"], ledger.came["2"]), (3, 3));
    });
}

const ONE_AFTER_THE_OTHER: &str = r#"
[[sagas]]
name = "turns"
version = 1
trigger = { event = "go" }
correlation = "/n"
on_duplicate = "queue"
[[sagas.steps]]
name = "ask"
call = { service = "bank", path = "/asks", body = "${trigger.payload.what}" }
await = { event = "asked", correlation = "/n", timeout = "1m" }
"#;

#[test]
fn instances_of_one_value_take_turns() {
    for_each_backend(|backend| {
        let participant = Participant::start(|_, _| None);
        let server = server(backend, ONE_AFTER_THE_OTHER, &participant);
        for what in 0..4 {
            server.publish("go", json!({ "n": 1, "what": what }));
        }
        for what in 0..4 {
            let came = participant.service.wait_for(what + 1);
            assert_eq!(came.len(), what + 1, "one at a time");
            assert_eq!(came[what].json(), json!(what));
            server.publish("asked", json!({ "n": 1 }));
        }
        eventually("all have completed", || {
            let all = server.get("/sagas?state=completed").data();
            (all.as_array()?.len() == 4).then_some(())
        });
        let count =
            |server: &Server, state: &str| server.get(&format!("/sagas?state={state}")).data().as_array().map(Vec::len);
        assert_eq!((count(&server, "queued"), count(&server, "running")), (Some(0), Some(0)));
    });
}

/// A version that instances began with stays theirs, and the same version with another content stops the start.
#[test]
fn running_instances_keep_their_version() {
    for_each_backend(|backend| {
        let participant = Participant::start(|_, _| None);
        let mut server = server(backend, SETTLE, &participant);
        server.publish("auction.ended", ended(1));
        becomes(&server, &json!(1), &["waiting"]);
        server.terminate();
        let changed = SETTLE.replace("version = 1", "version = 2").replace("auction.settled", "auction.over");
        let spec = server.spec().file("conf.toml", &changed);
        let server = spec.start();
        server.publish("auction.ended", ended(2));
        becomes(&server, &json!(2), &["waiting"]);
        for auction in [1, 2] {
            server.publish("transfer.done", json!({ "auction": auction, "ok": true, "tx": auction }));
            let version = becomes(&server, &json!(auction), &["completed"])["version"].clone();
            assert_eq!(version, json!(auction));
        }
        let names = |name: &str| server.events(&format!("?event_name={name}")).len();
        assert_eq!((names("auction.settled"), names("auction.over")), (1, 1));
        let other = changed.replace("auction.over", "auction.done");
        let mut spec = server.spec().file("conf.toml", &other);
        drop(server);
        spec = spec.env("PORT", 0);
        let output = spec.run();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{error}");
        assert!(error.contains("sagas[0].version") && error.contains("version 2 of \"settle\""), "{error}");
    });
}

/// The room is chosen by who publishes the event, and so is the key.
const BOOK: &str = r#"
[[sagas]]
name = "book"
version = 1
trigger = { event = "room.wanted" }
correlation = "/id"

[[sagas.steps]]
name = "reserve"
call = { service = "bank", path = "/rooms/${trigger.payload.room}/guests" }
compensate = { call = { service = "bank", path = "/cancel" } }

[[sagas.steps]]
name = "note"
publish = { event = "room.taken", payload = { answer = "${steps.reserve.response}" }, key = "${trigger.payload.key}" }
"#;

#[test]
fn what_was_done_is_known_though_the_next_step_is_impossible() {
    let participant = Participant::start(|_, _| None);
    let server = server(Backend::Sqlite, BOOK, &participant);
    server.publish("room.wanted", json!({ "id": 1, "room": "blue", "key": "x".repeat(300) }));
    let stuck = shown(&server, &becomes(&server, &json!(1), &["needs_operator"]));
    assert_eq!(steps(&stuck), pairs(&[("reserve", "succeeded"), ("note", "failed")]));
    let path = format!("/sagas/{}/compensate", stuck["id"].as_str().expect("an id"));
    assert_eq!(server.post(&path, json!({ "reason": "no such key" })).status, 200);
    let undone = shown(&server, &becomes(&server, &json!(1), &["compensated"]));
    assert_eq!(steps(&undone), pairs(&[("reserve", "compensated"), ("note", "failed")]));
    assert!(participant.ledger().in_effect().is_empty(), "{:?}", participant.ledger());
}

#[test]
fn a_value_does_not_lead_out_of_its_segment_of_a_path() {
    let participant = Participant::start(|_, _| None);
    let server = server(Backend::Sqlite, BOOK, &participant);
    for (id, room) in [".", ".."].into_iter().enumerate() {
        server.publish("room.wanted", json!({ "id": id, "room": room, "key": "k" }));
        let ended = shown(&server, &becomes(&server, &json!(id), &["compensated"]));
        let error = ended["steps"][0]["error"].as_str().unwrap_or_default();
        assert!(error.starts_with("template_error: "), "{ended}");
    }
    server.publish("room.wanted", json!({ "id": 7, "room": "../%2e./", "key": "k" }));
    becomes(&server, &json!(7), &["completed"]);
    let paths: Vec<String> = participant.service.deliveries().iter().map(|delivery| delivery.path.clone()).collect();
    assert_eq!(paths, ["/rooms/..%2F%252e.%2F/guests"]);
}

#[test]
fn a_response_that_is_empty_or_too_long_is_null() {
    let answer = |delivery: &Delivery, _: &str| {
        let body = if delivery.path.contains("long") { format!("\"{}\"", "x".repeat(70_000)) } else { String::new() };
        Some(Answer::Full(200, Vec::new(), body))
    };
    let participant = Participant::start(answer);
    let server = server(Backend::Sqlite, BOOK, &participant);
    for (id, room) in ["long", "empty"].into_iter().enumerate() {
        server.publish("room.wanted", json!({ "id": id, "room": room, "key": "k" }));
        becomes(&server, &json!(id), &["completed"]);
    }
    let taken: Vec<Value> = server.events("?event_name=room.taken").iter().map(|e| e["payload"].clone()).collect();
    assert_eq!(taken, [json!({ "answer": null }), json!({ "answer": null })]);
}
