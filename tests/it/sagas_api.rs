//! Sagas over HTTP and from the command line: what is shown, how one is begun, and who may.

use serde_json::{Value, json};

use crate::support::command::{command, errors, run, text};
use crate::support::http::{Request, Response};
use crate::support::server::Builder;
use crate::support::service::{Answer, Delivery};
use crate::support::tokens::bearer;
use crate::support::{Backend, Server, Service, eventually, for_each_backend};

const SAGAS: &str = r#"
[[sagas]]
name = "pay"
version = 1
trigger = { event = "order.made", filter = { ready = [true] } }
correlation = "/id"
deadline = "1h"

[[sagas.steps]]
name = "reserve"
call = { service = "bank", path = "/reserve", body = { order = "${trigger.payload.id}" } }
compensate = { call = { service = "bank", path = "/cancel", body = { order = "${trigger.payload.id}" } } }

[[sagas.steps]]
name = "settle"
call = { service = "bank", path = "/settle", body = { order = "${trigger.payload.id}" } }
await = { event = "settled.*", correlation = "/id", timeout = "10m" }
on_failure = "needs_operator"

[[sagas.steps]]
name = "note"
publish = { event = "order.paid", payload = { id = "${saga.correlation}", receipt = "${steps.settle.response}" } }

[[sagas]]
name = "line"
version = 2
trigger = { event = "line.*" }
correlation = "/id"
on_duplicate = "queue"

[[sagas.steps]]
name = "rest"
wait = "1h"

[[sagas]]
name = "own"
version = 1
trigger = { event = "$sys.service.opened" }
correlation = "/id"

[[sagas.steps]]
name = "rest"
wait = "1h"
"#;

/// A number that no type of a program keeps whole.
const RECEIPT: &str = r#"{"receipt":12345678901234567890123}"#;

/// A bank that answers to `/settle` by the order: below 100 it takes it, below 200 it hangs, from 200 on it refuses.
fn bank() -> Service {
    Service::answering(|delivery: &Delivery| match (&*delivery.path, delivery.json()["order"].as_i64()) {
        ("/settle", Some(100..200)) => Answer::Hang,
        ("/settle", Some(200..)) => Answer::Full(422, Vec::new(), r#"{"reason":"no funds"}"#.to_owned()),
        _ => Answer::Full(200, vec!["Content-Type: application/json".to_owned()], RECEIPT.to_owned()),
    })
}

pub fn start(backend: Backend) -> (Service, Server) {
    let bank = bank();
    let server = start_of(Server::builder().backend(backend), &bank);
    (bank, server)
}

fn start_of(builder: Builder, bank: &Service) -> Server {
    let builder = builder.file("c.toml", SAGAS).env("EVENT_HANDLER_CONFIG", "c.toml");
    let server = bank.configure(builder, "bank", &[("timeout", "30s")]).start();
    // Sagas begin once they are declared.
    eventually("they are declared", || {
        let definitions = server.get("/sagas/definitions").data();
        (definitions.as_array()?.len() == 3).then_some(())
    });
    server
}

fn begin(server: &Server, saga: &str, payload: &Value) -> Response {
    server.post(&format!("/sagas/{saga}/start"), json!({ "payload": payload }))
}

pub fn begun(server: &Server, saga: &str, id: impl Into<Value>) -> String {
    let answer = begin(server, saga, &json!({ "id": id.into() }));
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.data()["id"].as_str().expect("an id").to_owned()
}

pub fn shown(server: &Server, id: &str) -> Value {
    server.get(&format!("/sagas/{id}")).data()
}

pub fn becomes(server: &Server, id: &str, state: &str) -> Value {
    eventually(&format!("{id} becomes {state}"), || Some(shown(server, id)).filter(|shown| shown["state"] == *state))
}

pub fn say(server: &Server, id: &str, verb: &str) -> Response {
    server.post(&format!("/sagas/{id}/{verb}"), json!({ "reason": "a test" }))
}

pub fn ids(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|row| row["id"].as_str().expect("an id")).collect()
}

#[test]
fn an_instance_begun_by_hand_is_seen_until_its_end() {
    for_each_backend(|backend| {
        let (_bank, server) = start(backend);
        let id = begun(&server, "pay", 7);
        let waiting = becomes(&server, &id, "waiting");
        for (field, value) in [
            ("name", json!("pay")),
            ("version", json!(1)),
            ("correlation", json!(7)),
            ("paused", json!(false)),
            ("id", json!(id)),
        ] {
            assert_eq!(waiting[field], value, "{waiting}");
        }
        assert_eq!(waiting["trigger"]["payload"], json!({ "id": 7 }));
        let at = |field: &str| waiting[field].as_str().expect("a time").to_owned();
        assert!(at("deadline_at") > at("started_at") && at("updated_at") >= at("started_at"), "{waiting}");
        let wait = &waiting["waiting_for"];
        assert_eq!(wait.as_array().map(Vec::len), Some(1), "{waiting}");
        assert_eq!([&wait[0]["step"], &wait[0]["for"], &wait[0]["event"]], ["settle", "event", "settled.*"]);
        assert!(wait[0]["until"].as_str().expect("a time") > &*at("updated_at"));
        let steps: Vec<_> =
            waiting["steps"].as_array().expect("a list").iter().map(|step| step["state"].clone()).collect();
        assert_eq!(steps, ["succeeded", "waiting", "pending"]);
        assert_eq!((&waiting["steps"][0]["attempts"], &waiting["steps"][0]["error"]), (&json!(1), &Value::Null));
        let journal = waiting["journal"].as_array().expect("a list");
        assert!(
            journal.iter().enumerate().all(|(at, line)| line["n"] == at + 1 && line["at"].is_string()),
            "{waiting}"
        );
        assert_eq!(journal[1]["compensation"]["path"], "/cancel", "{waiting}");
        assert!(server.get(&format!("/sagas/{id}")).text().contains(&format!("\"response\":{RECEIPT}")));

        server.publish("settled.now", json!({ "id": 7 }));
        let ended = becomes(&server, &id, "completed");
        assert_eq!(
            (&ended["waiting_for"], &ended["journal"].as_array().expect("a list").last().expect("one")["state"]),
            (&json!([]), &json!("completed"))
        );
        assert!(
            server.get("/events?event_name=order.paid").text().contains(&format!(r#"{{"id":7,"receipt":{RECEIPT}}}"#))
        );
    });
}

#[test]
fn what_is_begun_by_hand_beyond_the_room_waits_for_it() {
    let (bank, builder) = (bank(), Server::builder().backend(Backend::Sqlite));
    let server = start_of(builder.env("EVENT_HANDLER__ORCHESTRATION__MAX_INSTANCES", 1), &bank);
    let first = begun(&server, "pay", 7);
    let second = begun(&server, "pay", 8);
    assert_eq!(shown(&server, &second)["state"], "queued");
    let live = begin(&server, "pay", &json!({ "id": 7 })).error(409);
    assert_eq!((&live["code"], &live["id"]), (&json!("saga_live"), &json!(first)));
    let queued = begin(&server, "pay", &json!({ "id": 8 })).error(409);
    assert_eq!((&queued["code"], &queued["id"]), (&json!("saga_live"), &json!(second)));
    becomes(&server, &first, "waiting");
    server.publish("settled.yes", json!({ "id": 7 }));
    becomes(&server, &second, "waiting");
}

#[test]
fn the_same_start_begins_one_instance_and_a_wrong_one_none() {
    for_each_backend(|backend| {
        let (_bank, server) = start(backend);
        let with_key = |payload: &str| {
            let request = server.request("POST", "/sagas/pay/start").header("Idempotency-Key", "k1");
            request.json(format!(r#"{{"payload":{payload}}}"#)).send()
        };
        let first = with_key(r#"{"id":"a"}"#);
        assert_eq!((first.status, first.header("idempotent-replayed")), (201, None), "{}", first.text());
        let again = with_key(r#"{"id":"a"}"#);
        assert_eq!((again.status, again.header("idempotent-replayed")), (201, Some("true")));
        assert_eq!(again.data(), first.data());
        assert_eq!(with_key(r#"{"id":"b"}"#).error(422)["code"], "idempotency_key_reused");
        let live = begin(&server, "pay", &json!({ "id": "a" })).error(409);
        assert_eq!((&live["code"], &live["id"]), (&json!("saga_live"), &first.data()["id"]));
        // A number is another value than its text.
        begun(&server, "pay", "1");
        begun(&server, "pay", 1);
        assert_eq!(begin(&server, "pay", &json!({ "id": 1.0 })).error(409)["code"], "saga_live");
        for (path, body, status, code, field) in [
            ("pay", r#"{"payload":{"no":1}}"#, 422, "invalid_field", Some("payload")),
            ("pay", r#"{"payload":{"id":null}}"#, 422, "invalid_field", Some("payload")),
            ("pay", "", 422, "invalid_field", Some("payload")),
            ("pay", r#"{"payload":{"id":9},"reason":"x"}"#, 422, "unknown_field", Some("reason")),
            ("pay?x=1", "{}", 422, "unknown_parameter", Some("x")),
            ("pay", "{", 400, "malformed_json", None),
            ("none", r#"{"payload":{"id":9}}"#, 404, "saga_not_found", None),
        ] {
            let (name, query) =
                path.split_once('?').map_or((path, String::new()), |(name, query)| (name, format!("?{query}")));
            let request = server.request("POST", &format!("/sagas/{name}/start{query}"));
            let answer = if body.is_empty() { request } else { request.json(body) }.send().error(status);
            assert_eq!((answer["code"].as_str(), answer["field"].as_str()), (Some(code), field), "{path} {body}");
        }
        let plain = server.request("POST", "/sagas/pay/start").header("Content-Type", "text/plain").body("{}").send();
        assert_eq!(plain.error(415)["code"], "unsupported_media_type");
        assert_eq!(server.get("/sagas/pay/start").header("allow"), Some("POST"));
        assert_eq!(server.get("/sagas").data().as_array().map(Vec::len), Some(3));
    });
}

#[test]
fn instances_are_listed_the_newest_first_and_selected() {
    for_each_backend(|backend| {
        let (_bank, server) = start(backend);
        let mut all: Vec<String> = (1..=5).map(|n| begun(&server, "pay", n)).collect();
        let middle = shown(&server, &all[2])["started_at"].as_str().expect("a time").to_owned();
        all.push(begun(&server, "line", "1"));
        all.iter().for_each(|id| drop(becomes(&server, id, "waiting")));
        all.reverse();
        let list = |query: &str| server.get(&format!("/sagas{query}"));
        assert_eq!(ids(&list("").data()), all);
        let row = list("?limit=1").data()[0].clone();
        let fields: Vec<&str> = row.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(fields, ["correlation", "id", "name", "paused", "started_at", "state", "updated_at", "version"]);
        assert_eq!(ids(&list("?name=line").data()), all[..1]);
        assert_eq!(ids(&list("?correlation=1").data()), all[5..]);
        assert_eq!(ids(&list("?correlation=%221%22").data()), all[..1]);
        assert_eq!(ids(&list("?name=pay&correlation=1.0&state=waiting").data()), all[5..]);
        assert_eq!(ids(&list("?state=completed").data()), [""; 0]);
        let before = list(&format!("?started_before={middle}")).data();
        assert!(ids(&before).len() <= 3 && ids(&before).contains(&&*all[5]), "{before}");
        let (mut pages, mut next) = (Vec::new(), Some("?name=pay&limit=2".to_owned()));
        while let Some(query) = next {
            let page = list(&query);
            pages.push(ids(&page.data()).len());
            next = page.header("link").map(|link| {
                let (query, _) = link.trim_start_matches('<').split_once(">; rel=\"next\"").expect("a link");
                query.to_owned()
            });
        }
        assert_eq!(pages, [2, 2, 1]);
        assert_eq!(list("?name=pay&limit=5").header("link"), None, "there are no more");
        for (query, code, field) in [
            ("state=done", "invalid_parameter", "state"),
            ("name=Pay", "invalid_parameter", "name"),
            ("correlation=x", "invalid_parameter", "correlation"),
            ("correlation=[1]", "invalid_parameter", "correlation"),
            ("started_before=soon", "invalid_parameter", "started_before"),
            ("after=1", "invalid_parameter", "after"),
            ("limit=0", "invalid_parameter", "limit"),
            ("limit=1001", "invalid_parameter", "limit"),
            ("sate=waiting", "unknown_parameter", "sate"),
            ("name=pay&name=line", "invalid_parameter", "name"),
        ] {
            let error = list(&format!("?{query}")).error(422);
            assert_eq!((error["code"].as_str(), error["field"].as_str()), (Some(code), Some(field)), "{query}");
        }
        for unknown in ["none", "0190a000-0000-7000-8000-000000000000", "%00"] {
            assert_eq!(server.get(&format!("/sagas/{unknown}")).error(404)["code"], "saga_not_found", "{unknown}");
        }
    });
}

#[test]
fn operators_alone_see_and_steer_and_who_may_publish_begins() {
    let (bank, server) = start(Backend::Sqlite);
    let id = begun(&server, "pay", 1);
    let plain =
        |method: &str, path: &str| Request::new(server.addr(), method, path).json(r#"{"payload":{"id":9}}"#).send();
    for (method, path) in [
        ("GET", "/sagas".to_owned()),
        ("GET", "/sagas/definitions".to_owned()),
        ("GET", format!("/sagas/{id}")),
        ("POST", format!("/sagas/{id}/abort")),
        ("POST", "/admin/sagas/abort".to_owned()),
        ("POST", "/sagas/own/start".to_owned()),
    ] {
        assert_eq!(plain(method, &path).status, 401, "{method} {path}");
    }
    assert_eq!(plain("POST", "/sagas/pay/start").status, 201, "the data plane is open");
    let foreign = server.request("POST", &format!("/sagas/{id}/abort")).header("Origin", "http://elsewhere.example");
    assert_eq!(foreign.json(r#"{"reason":"x"}"#).send().error(403)["code"], "foreign_origin");
    drop(server);

    let tokens = [
        ("operator", "scopes = { admin = true }"),
        ("orders", "scopes = { publish = [\"order.>\"] }"),
        ("shop", "scopes = { publish = [\"order.*\"] }"),
        ("lines", "scopes = { publish = [\"line.>\"] }"),
        ("one", "scopes = { publish = [\"line.made\"] }"),
        ("reader", "scopes = { read = [\">\"] }"),
    ];
    let builder = Server::builder().backend(Backend::Sqlite).tokens(&tokens, SAGAS);
    let server = bank.configure(builder, "bank", &[]).start();
    let ask = |token: &str, method: &str, path: &str, body: &str| {
        Request::new(server.addr(), method, path).header("Authorization", &bearer(token)).json(body).send()
    };
    eventually("they are declared", || {
        let definitions = ask("operator", "GET", "/sagas/definitions", "").data();
        (definitions.as_array()?.len() == 3).then_some(())
    });
    let mut n = 0;
    for (token, saga, status) in [
        ("orders", "pay", 201),
        ("lines", "pay", 403),
        ("reader", "pay", 403),
        ("lines", "line", 201),
        ("one", "line", 403),
        ("lines", "own", 403),
        ("reader", "none", 403),
        ("orders", "none", 404),
    ] {
        n += 1;
        let answer = ask(token, "POST", &format!("/sagas/{saga}/start"), &format!(r#"{{"payload":{{"id":{n}}}}}"#));
        assert_eq!(answer.status, status, "{token} begins {saga}: {}", answer.text());
    }
    assert_eq!(ask("orders", "GET", "/sagas", "").error(403)["scope"], "admin");
    assert_eq!(ask("operator", "GET", "/sagas", "").data().as_array().map(Vec::len), Some(2));
    // The keys of two callers are two.
    let with_key = |token: &str, n: i64| {
        let request = Request::new(server.addr(), "POST", "/sagas/pay/start").header("Idempotency-Key", "k");
        let request = request.header("Authorization", &bearer(token));
        request.json(format!(r#"{{"payload":{{"id":{n}}}}}"#)).send()
    };
    assert_eq!(with_key("orders", 50).status, 201);
    assert_eq!(with_key("orders", 50).header("idempotent-replayed"), Some("true"));
    let other = with_key("shop", 51);
    assert_eq!((other.status, other.header("idempotent-replayed")), (201, None));
}

#[test]
fn definitions_breakers_and_numbers_are_shown() {
    for_each_backend(|backend| {
        let (_bank, server) = start(backend);
        let definitions = server.get("/sagas/definitions").data();
        let names: Vec<_> = definitions
            .as_array()
            .expect("a list")
            .iter()
            .map(|row| (&row["name"], &row["version"], &row["active"]))
            .collect();
        let active = json!(true);
        assert_eq!(
            names,
            [
                (&json!("line"), &json!(2), &active),
                (&json!("own"), &json!(1), &active),
                (&json!("pay"), &json!(1), &active)
            ]
        );
        assert_eq!(definitions[2]["definition"]["steps"][1]["name"], "settle");
        assert!(definitions[2]["since"].is_i64());

        assert_eq!(server.post("/admin/services/bank/open", "").status, 200);
        let id = begun(&server, "pay", 1);
        eventually("its breaker is open", || {
            Some(()).filter(|()| shown(&server, &id)["waiting_for"][0]["for"] == "breaker")
        });
        assert_eq!(server.post("/admin/services/bank/reset", "").status, 200);
        becomes(&server, &id, "waiting");
        eventually("it is counted", || {
            let metrics = server.get("/metrics");
            metrics.text().contains(r#"event_handler_sagas{saga="pay",state="waiting"} 1"#).then_some(())
        });
        let actors = server.get("/admin/actors").data();
        let orchestrator =
            actors["children"].as_array().expect("a list").iter().find(|child| child["name"] == "orchestrator");
        assert_eq!(orchestrator.expect("it is there")["state"], "running");
    });
}

#[test]
fn an_operator_lists_shows_and_steers_from_the_command_line() {
    let (_bank, server) = start(Backend::Sqlite);
    let out = |args: &[&str]| text(&run(&server, &[&["sagas"], args].concat())).to_owned();
    assert!(errors(&run(&server, &["sagas", "list"])).contains("no such instances"));
    let id = out(&["start", "pay", r#"{"id":"a1"}"#, "--idempotency-key", "k"]).trim().to_owned();
    assert_eq!(out(&["start", "pay", r#"{"id":"a1"}"#, "--idempotency-key", "k"]).trim(), id);
    becomes(&server, &id, "waiting");
    let table = out(&["list", "--name", "pay", "--correlation", "\"a1\"", "--state", "waiting"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ID") && lines[1].starts_with(&id) && lines[1].contains("waiting"), "{table}");
    assert_eq!(out(&["list", "--all", "--limit", "1", "--json"]).lines().count(), 1);
    let shown = out(&["show", &id]);
    for said in ["pay version 1, \"a1\": waiting", "reserve  succeeded", "settle  event", "begun"] {
        assert!(shown.contains(said), "{said:?} is not in {shown}");
    }
    assert!(out(&["show", &id, "--json"]).contains("\"journal\":[{\"n\":1,"));
    assert_eq!(out(&["pause", &id, "--reason", "lunch"]), format!("{id} is waiting\n"));
    assert!(out(&["show", &id]).contains("waiting, paused"));
    let many = ["--state", "waiting", "--reason", "back"];
    assert!(out(&[&["resume", "--dry-run"], &many[..]].concat()).starts_with("1 would be told, 0 in a state"));
    assert!(out(&[&["resume"], &many[..]].concat()).starts_with("1 told, 0 in a state"));

    let stuck = begun(&server, "pay", 201);
    becomes(&server, &stuck, "needs_operator");
    assert_eq!(out(&["retry", &stuck, "--reason", "again"]), format!("{stuck} is running\n"));
    becomes(&server, &stuck, "needs_operator");
    out(&["skip", &stuck, "--reason", "by hand", "--result", r#"{"n":12345678901234567890123}"#]);
    becomes(&server, &stuck, "completed");
    assert!(server.get("/events?event_name=order.paid").text().contains(r#"{"n":12345678901234567890123}"#));
    out(&["compensate", &id, "--reason", "sold out"]);
    becomes(&server, &id, "compensated");
    let wrong = |args: &[&str]| {
        let output = command(&server, &[&["sagas"], args].concat());
        (output.status.code(), errors(&output).to_owned())
    };
    let (code, said) = wrong(&["abort", &id, "--reason", "x"]);
    assert!(code == Some(1) && said.contains("saga_state"), "{code:?} {said}");
    assert!(wrong(&["show", "none"]).1.contains("saga_not_found"));
    for args in [
        &["abort", "--reason", "x"][..],
        &["abort", &id],
        &["abort", &id, "--name", "pay", "--reason", "x"],
        &["skip", &id, "--reason", "x", "--result", "{"],
    ] {
        assert_eq!(wrong(args).0, Some(2), "{args:?}");
    }
}

#[test]
fn a_saga_that_cannot_be_run_stops_the_start() {
    let with = |text: &str, check: bool| {
        let builder = Server::builder().file("c.toml", text).env("EVENT_HANDLER_CONFIG", "c.toml");
        let builder = builder.env("EVENT_HANDLER__SERVICES__BANK__URL", "http://127.0.0.1:9");
        if check { builder.arg("check-config") } else { builder }.run()
    };
    let wrong = SAGAS.replace("path = \"/settle\"", "path = \"settle\"");
    for check in [true, false] {
        let output = with(&wrong, check);
        let said = "c.toml: sagas[0].steps[1].call.path: must begin with /";
        assert!(output.status.code() == Some(78) && errors(&output).contains(said), "{output:?}");
    }
    let output = with(SAGAS, true);
    assert!(output.status.success() && text(&output).contains("# saga \"line\", version 2: c.toml"), "{output:?}");
    // The same version with another content.
    let (bank, mut server) = start(Backend::Sqlite);
    server.terminate();
    let spec = server.spec().file("c.toml", &SAGAS.replace("deadline = \"1h\"", "deadline = \"2h\""));
    let output = bank.configure(spec, "bank", &[]).run();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(errors(&output).contains("c.toml: sagas[0].version: "), "{output:?}");
}
