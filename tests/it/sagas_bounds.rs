//! Sagas with values that are too long, too many, or not there: they fail by themselves, and hold nobody up.

use serde_json::{Value, json};

use crate::event_types::accept;
use crate::sagas_api::becomes;
use crate::support::{Backend, Server, Service, eventually, for_each_backend};

const SAGAS: &str = r#"
[[sagas]]
name = "found"
version = 1
trigger = { event = "found.begun" }
correlation = "/id"

[[sagas.steps]]
name = "ask"
call = { service = "bank", path = "/ask" }
await = { event = "found.reply", match = { "/a" = "${trigger.payload.a}", "/b" = "${trigger.payload.b}", "/c" = "${trigger.payload.c}" }, timeout = "1h" }

[[sagas]]
name = "undone"
version = 1
trigger = { event = "undone.begun" }
correlation = "/id"

[[sagas.steps]]
name = "act"
call = { service = "bank", path = "/act" }
compensate = { call = { service = "bank", path = "/undo/${trigger.payload.long}" } }

[[sagas]]
name = "segment"
version = 1
trigger = { event = "segment.begun" }
correlation = "/id"

[[sagas.steps]]
name = "act"
call = { service = "bank", path = "/segment/${trigger.payload.of}" }

[[sagas]]
name = "alone"
version = 1
trigger = { event = "alone.begun" }
correlation = "/id"
on_duplicate = "needs_operator"

[[sagas.steps]]
name = "rest"
wait = "1h"
"#;

fn start(backend: Backend) -> (Service, Server) {
    let bank = Service::start();
    let builder = Server::builder().backend(backend).file("c.toml", SAGAS).env("EVENT_HANDLER_CONFIG", "c.toml");
    let server = bank.configure(builder, "bank", &[("routes", "nothing")]).start();
    eventually("they are declared", || (server.get("/sagas/definitions").data().as_array()?.len() == 4).then_some(()));
    (bank, server)
}

fn instance(server: &Server, saga: &str, id: i64) -> String {
    eventually("it is there", || {
        let found = server.get(&format!("/sagas?name={saga}&correlation={id}")).data();
        Some(found[0]["id"].as_str()?.to_owned())
    })
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
        let (bank, server) = start(backend);
        let [a, b, c] = [1, 2, 3].map(|seed| random(1_000, seed));
        server.publish("found.begun", json!({ "id": 1, "a": a, "b": b, "c": c }));
        server.publish("found.begun", json!({ "id": 2, "a": a, "b": b, "c": "other" }));
        let (first, second) = (instance(&server, "found", 1), instance(&server, "found", 2));
        becomes(&server, &first, "waiting");
        becomes(&server, &second, "waiting");
        server.publish("found.reply", json!({ "a": a, "b": b, "c": c }));
        becomes(&server, &first, "completed");
        becomes(&server, &second, "waiting");

        // What no event can be found by is noticed before the service is asked.
        for (id, c) in [(3, Value::Null), (4, json!({ "x": 1 })), (5, json!(random(1_100, 4)))] {
            let mut payload = json!({ "id": id, "a": a, "b": b });
            if !c.is_null() {
                payload["c"] = c;
            }
            server.publish("found.begun", payload);
            let shown = becomes(&server, &instance(&server, "found", id), "compensated");
            let error = shown["steps"][0]["error"].as_str().expect("an error");
            assert!(error.starts_with("template_error: "), "{error}");
        }
        assert_eq!(bank.deliveries().len(), 2);
    });
}

#[test]
fn what_cannot_be_sent_is_noticed_before_anything_is() {
    let (bank, server) = start(Backend::Sqlite);
    server.publish("undone.begun", json!({ "id": 1, "long": "x".repeat(9_000) }));
    becomes(&server, &instance(&server, "undone", 1), "needs_operator");
    server.publish("segment.begun", json!({ "id": 1, "of": null }));
    becomes(&server, &instance(&server, "segment", 1), "compensated");
    assert_eq!(bank.deliveries().len(), 0);
}

#[test]
fn what_the_catalogue_refuses_begins_no_saga_by_hand() {
    let (_bank, server) = start(Backend::Sqlite);
    accept(&server, "segment.begun", json!({ "schema": { "required": ["of"] } }));
    let begin = |payload: Value| server.post("/sagas/segment/start", json!({ "payload": payload }));
    assert_eq!(begin(json!({ "id": 1 })).error(422)["code"], "schema_violation");
    assert_eq!(begin(json!({ "id": 1, "of": "x" })).status, 201);
}

/// Its value is another's.
#[test]
fn an_order_that_cannot_be_taken_is_not_counted_as_one_that_can() {
    let (_bank, server) = start(Backend::Sqlite);
    for _ in 0..2 {
        server.publish("alone.begun", json!({ "id": 1 }));
    }
    eventually("one needs an operator", || {
        let found = server.get("/sagas?name=alone&state=needs_operator").data();
        (found.as_array()?.len() == 1).then_some(())
    });
    for dry_run in [true, false] {
        let order = json!({ "name": "alone", "state": "needs_operator", "reason": "a test", "dry_run": dry_run });
        let told = server.post("/admin/sagas/retry", order).data();
        assert_eq!((&told["count"], &told["unfit"]), (&json!(0), &json!(1)), "{told}");
    }
}
