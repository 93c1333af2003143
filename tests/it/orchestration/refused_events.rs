//! Events of sagas that the catalogue refuses.

use serde_json::{Value, json};

use super::{Participant, becomes, configured, metric_of, pairs, server, shown, steps, told};
use crate::event_types::accept;
use crate::support::backend::for_each_backend;
use crate::support::postgres::Postgres;
use crate::support::{Backend, Server, eventually};

/// A reservation, and then an event with a text that is that of the trigger.
const NOTED: &str = r#"
[[sagas]]
name = "note"
version = 1
trigger = { event = "order.made" }
correlation = "/order"

[[sagas.steps]]
name = "reserve"
call = { service = "bank", path = "/reservations" }
compensate = { call = { service = "bank", path = "/reservations/cancel" } }

[[sagas.steps]]
name = "note"
publish = { event = "order.noted", payload = { order = "${trigger.payload.order}", text = "${trigger.payload.text}" } }
"#;

/// Payloads whose member `text` is of a kind.
fn text_is(kind: &str, mode: &str) -> Value {
    let schema = json!({ "type": "object", "required": ["text"], "properties": { "text": { "type": kind } } });
    json!({ "schema": schema, "mode": mode, "compatibility": "none" })
}

fn order(order: i64) -> Value {
    json!({ "order": order, "text": "x" })
}

fn say(server: &Server, instance: &Value, verb: &str) {
    let path = format!("/sagas/{}/{verb}", instance["id"].as_str().expect("an id"));
    let said =
        server.request("POST", &path).bearer(server.admin_token()).json(json!({ "reason": "the type is mended" }));
    said.send().data();
}

#[test]
fn a_step_whose_event_is_refused_needs_an_operator_who_can_go_on_or_back() {
    for_each_backend(|backend| {
        let participant = Participant::start(|_, _| None);
        let server = server(backend, NOTED, &participant);
        accept(&server, "order.noted", text_is("integer", "enforce"));
        server.publish("order.made", order(1));
        server.publish("order.made", order(2));
        let [first, second] = [1, 2].map(|order| becomes(&server, &json!(order), &["needs_operator"]));
        let full = shown(&server, &first);
        assert_eq!(steps(&full), pairs(&[("reserve", "succeeded"), ("note", "failed")]));
        let error = full["steps"][1]["error"].as_str().expect("a reason");
        assert!(error.starts_with("schema_violation: ") && error.contains("/text"), "{error}");
        assert_eq!(server.events("?event_name=order.noted").len(), 0);
        let of = server.events("?event_name=$sys.saga.needs_operator");
        assert_eq!((of.len(), &of[0]["payload"]["step"]), (2, &json!("note")));
        assert!(of[0]["payload"]["reason"].as_str().is_some_and(|reason| reason.starts_with("schema_violation: ")));

        say(&server, &first, "retry");
        becomes(&server, &json!(1), &["needs_operator"]);
        accept(&server, "order.noted", text_is("string", "enforce"));
        say(&server, &first, "retry");
        becomes(&server, &json!(1), &["completed"]);
        say(&server, &second, "compensate");
        becomes(&server, &json!(2), &["compensated"]);
        let noted = server.events("?event_name=order.noted");
        assert_eq!(noted.iter().map(|event| &event["payload"]).collect::<Vec<_>>(), [&order(1)]);
        assert_eq!(participant.ledger().in_effect().len(), 1, "the other reservation is taken back");
    });
}

#[test]
fn what_is_observed_only_is_published_and_counted() {
    let participant = Participant::start(|_, _| None);
    let server = server(Backend::Sqlite, NOTED, &participant);
    accept(&server, "order.noted", text_is("integer", "observe"));
    server.publish("order.made", order(1));
    becomes(&server, &json!(1), &["completed"]);
    assert_eq!(server.events("?event_name=order.noted").len(), 1);
    assert_eq!(metric_of(&server, "event_handler_schema_violations_total{mode=\"observe\"}"), 1.0);
}

#[test]
fn a_name_without_a_type_is_refused_where_types_have_to_be() {
    let participant = Participant::start(|_, _| None);
    let builder = Server::builder().env("EVENT_HANDLER__CATALOGUE__UNKNOWN", "reject");
    let server = configured(builder, NOTED, &participant).start();
    accept(&server, "order.made", json!({ "schema": true }));
    server.publish("order.made", order(1));
    let full = shown(&server, &becomes(&server, &json!(1), &["needs_operator"]));
    let error = full["steps"][1]["error"].as_str().expect("a reason");
    assert!(error.starts_with("unknown_event_type: "), "{error}");
}

/// The type is put by one node, and whichever runs the instances knows of it with the first event after the change.
#[test]
fn a_type_that_was_put_elsewhere_counts_for_the_next_event() {
    let url = Postgres::shared().url();
    let participant = Participant::start(|_, _| None);
    let node = || configured(Server::builder().env("DATABASE_URL", &url), NOTED, &participant).start();
    let nodes = [node(), node()];
    for at in 0..12 {
        let (kind, state) = if at % 3 == 0 { ("integer", "needs_operator") } else { ("string", "completed") };
        accept(&nodes[at / 3 % 2], "order.noted", text_is(kind, "enforce"));
        nodes[at % 2].publish("order.made", order(at as i64));
        becomes(&nodes[0], &json!(at), &[state]);
    }
    let ends = eventually("all are told of", || {
        let ends: Vec<_> = told(&nodes[0]).into_iter().filter(|(what, _)| what != "started").collect();
        (ends.len() == 12).then_some(ends)
    });
    assert_eq!(ends.iter().filter(|(what, _)| what == "needs_operator").count(), 4);
    assert_eq!(nodes[0].events("?event_name=order.noted&limit=100").len(), 8);
}

/// Nothing is published at the node that runs the instances.
#[test]
fn a_type_that_was_put_elsewhere_counts_where_nothing_is_published() {
    let url = Postgres::shared().url();
    let participant = Participant::start(|_, _| None);
    let node = || configured(Server::builder().env("DATABASE_URL", &url), NOTED, &participant).start();
    let [runs, other] = [node(), node()];
    for at in 0..6 {
        let (kind, state) = if at % 2 == 0 { ("integer", "needs_operator") } else { ("string", "completed") };
        accept(&other, "order.noted", text_is(kind, "enforce"));
        other.publish("order.made", order(at));
        becomes(&other, &json!(at), &[state]);
    }
    let begin = |order: i64| runs.post("/sagas/note/start", json!({ "payload": { "order": order, "text": "x" } }));
    accept(&other, "order.made", text_is("integer", "enforce"));
    assert_eq!(begin(10).error(422)["code"], "schema_violation");
    accept(&other, "order.made", text_is("string", "enforce"));
    assert_eq!(begin(11).status, 201);
    // A narrower type governs these events from now on.
    accept(&other, "order.*", text_is("string", "enforce"));
    let counted = |server: &Server| server.get("/event-types/order.%2A/usage").data()["publishers"].clone();
    assert_eq!((counted(&runs), counted(&other)), (json!([]), json!([])));
}
