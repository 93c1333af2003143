//! The catalogue of event types: what is put, judged, refused and observed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use serde_json::{Value, json};

use crate::redis_ingest::IN;
use crate::redis_pubsub_in::{count, envelope, hearing, start as listening};
use crate::redis_pubsub_out::ALL;
use crate::support::command::command;
use crate::support::http::{Request, Response};
use crate::support::postgres::Postgres;
use crate::support::server::metric;
use crate::support::{Backend, Redis, Server, Service, eventually, for_each_backend};

/// Payloads need a text `a`.
pub fn needs_a() -> Value {
    json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}})
}

fn encoded(name: &str) -> String {
    name.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn request(server: &Server, method: &str, name: &str, rest: &str) -> Request {
    server.request(method, &format!("/event-types/{}{rest}", encoded(name))).bearer(server.admin_token())
}

pub fn put(server: &Server, name: &str, body: Value) -> Response {
    request(server, "PUT", name, "").json(body).send()
}

/// Puts a type that is new, or takes the place of another.
pub fn accept(server: &Server, name: &str, body: Value) -> Value {
    let response = put(server, name, body);
    assert!(matches!(response.status, 200 | 201), "{}", response.text());
    response.json()["data"].clone()
}

pub fn publish(server: &Server, name: &str, payload: Value) -> Response {
    server.post("/publish", json!({"event_name": name, "payload": payload}))
}

/// The pointers of the errors of a refused payload, each with the part of the schema.
fn errors(error: &Value) -> Vec<(String, String)> {
    assert_eq!(error["code"], "schema_violation", "{error}");
    let text = |error: &Value, field: &str| error[field].as_str().expect("a pointer").to_owned();
    let errors = error["errors"].as_array().expect("a list");
    errors.iter().map(|error| (text(error, "instance_path"), text(error, "schema_path"))).collect()
}

fn violations(response: &Response) -> Option<&str> {
    response.header("schema-violations")
}

#[test]
fn a_type_is_put_shown_versioned_and_deleted() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        assert_eq!(server.get("/event-types").data(), json!([]));
        assert_eq!(request(&server, "GET", "a/b.*", "").send().error(404)["code"], "event_type_not_found");
        let body = json!({"schema": needs_a(), "owner": "sales", "examples": [{"a": "x"}], "compatibility": "none"});
        let created = put(&server, "a/b.*", body.clone());
        assert_eq!(created.status, 201);
        let of = created.json()["data"].clone();
        assert_eq!(
            (&of["name"], &of["version"], &of["mode"], &of["owner"], &of["schema"], &of["examples"]),
            (&json!("a/b.*"), &json!(1), &json!("enforce"), &json!("sales"), &needs_a(), &json!([{"a": "x"}]))
        );
        assert_eq!(request(&server, "GET", "a/b.*", "").send().data(), of);
        let listed = server.get("/event-types").data();
        assert_eq!((&listed[0]["name"], &listed[0]["schema"]), (&json!("a/b.*"), &Value::Null));
        // The same again is no change.
        assert_eq!(put(&server, "a/b.*", body).status, 200);
        assert_eq!(
            put(&server, "a/b.*", json!({"schema": needs_a(), "mode": "observe", "compatibility": "none"})).status,
            200
        );
        let second = json!({"schema": {"type": "string"}, "version": 1});
        assert_eq!(accept(&server, "a/b.*", second.clone())["version"], 2);
        let conflict = put(&server, "a/b.*", second).error(409);
        assert_eq!((&conflict["code"], &conflict["current_version"]), (&json!("version_conflict"), &json!(2)));
        let on = |header: &str, tag: &str| {
            request(&server, "PUT", "a/b.*", "").header(header, tag).json(json!({"schema": {"type": "string"}})).send()
        };
        for (header, tag) in [("If-Match", "\"1\""), ("If-None-Match", "*"), ("If-None-Match", "\"2\"")] {
            let unmet = on(header, tag).error(412);
            assert_eq!((&unmet["code"], &unmet["current_version"]), (&json!("version_conflict"), &json!(2)));
        }
        assert_eq!(on("If-Match", "2").error(400)["field"], "if-match");
        assert_eq!(on("If-Match", "\"2\"").status, 200);
        let versions = request(&server, "GET", "a/b.*", "/versions").send().data();
        let versions: Vec<_> =
            versions.as_array().expect("a list").iter().map(|v| (v["version"].clone(), v["schema"].clone())).collect();
        assert_eq!(versions, [(json!(1), needs_a()), (json!(2), json!({"type": "string"}))]);
        assert_eq!(request(&server, "GET", "a/b.*", "/versions/1").send().data()["schema"], needs_a());
        assert_eq!(request(&server, "GET", "a/b.*", "/versions/3").send().error(404)["code"], "event_type_not_found");
        assert_eq!(request(&server, "DELETE", "a/b.*", "").send().data(), json!({"name": "a/b.*", "version": 2}));
        assert_eq!(request(&server, "DELETE", "a/b.*", "").send().error(404)["code"], "event_type_not_found");
        assert_eq!(accept(&server, "a/b.*", json!({"schema": true}))["version"], 3);
        let told: Vec<Value> =
            server.events("?event_name=$sys.type.changed").iter().map(|event| event["payload"].clone()).collect();
        let change =
            |version: u32, mode: &str, op: &str| json!({"name": "a/b.*", "version": version, "mode": mode, "op": op});
        let expected = [
            (1, "enforce", "put"),
            (1, "observe", "put"),
            (2, "enforce", "put"),
            (2, "enforce", "delete"),
            (3, "enforce", "put"),
        ];
        assert_eq!(told, expected.map(|(version, mode, op)| change(version, mode, op)));
    });
}

#[test]
fn what_cannot_be_a_type_is_refused_and_changes_nothing() {
    let server = Server::start(Backend::Sqlite);
    for (name, body, status, code) in [
        ("a", json!({"schema": {"type": 7}}), 422, "invalid_schema"),
        ("a", json!({}), 422, "missing_field"),
        ("a", json!({"schema": {}, "mode": "loud"}), 422, "invalid_field"),
        ("a", json!({"schema": {}, "color": 1}), 422, "unknown_field"),
        ("a", json!({"schema": {}, "version": 2}), 409, "version_conflict"),
        ("a", json!({"schema": {}, "description": "x".repeat(256 * 1024)}), 413, "body_too_large"),
        ("a..b", json!({"schema": {}}), 422, "invalid_field"),
        ("$sys.a", json!({"schema": {}}), 422, "reserved_name"),
    ] {
        let error = put(&server, name, body).error(status);
        assert_eq!(error["code"], code, "{error}");
    }
    assert_eq!(server.request("PUT", "/event-types/a").json(json!({"schema": {}})).send().status, 401);
    assert_eq!(server.get("/event-types").data(), json!([]));
}

#[test]
fn an_incompatible_schema_is_refused_and_a_dry_run_says_why_and_what_it_would_fail() {
    let server = Server::start(Backend::Sqlite);
    let optional = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    accept(&server, "order.*", json!({"schema": optional}));
    accept(&server, "order.other", json!({"schema": true}));
    server.publish("order.made", json!({"a": "x"}));
    let bad = server.publish("order.made", json!({}));
    server.publish("order.other", json!({}));
    let error = put(&server, "order.*", json!({"schema": needs_a()})).error(409);
    assert_eq!(
        (&error["code"], &error["reasons"][0]["path"]),
        (&json!("incompatible_schema"), &json!("/required")),
        "{error}"
    );
    let dry = |body: Value| request(&server, "PUT", "order.*", "?dry_run=true").json(body).send().data();
    let preview = dry(json!({"schema": needs_a()}));
    assert_eq!((&preview["compatible"], &preview["strictly_compatible"]), (&json!(false), &json!(false)));
    assert_eq!((&preview["history"]["checked"], &preview["history"]["failing"][0]["id"]), (&json!(2), &json!(bad)));
    assert!(
        preview["history"]["failing"][0]["errors"][0]["message"].is_string()
            && preview["history"]["failing"][1].is_null()
    );
    let wider = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}});
    let preview = dry(json!({"schema": wider}));
    assert_eq!((&preview["compatible"], &preview["strictly_compatible"]), (&json!(true), &json!(false)), "{preview}");
    // Loosening the type is a put of its own.
    let loose = json!({"schema": needs_a(), "compatibility": "none"});
    assert_eq!(put(&server, "order.*", loose).error(409)["code"], "incompatible_schema");
    accept(&server, "order.*", json!({"schema": optional, "compatibility": "none"}));
    assert_eq!(accept(&server, "order.*", json!({"schema": needs_a()}))["version"], 2);
}

#[test]
fn payloads_are_judged_by_http_in_every_form_and_nothing_of_a_refused_one_is_left() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        accept(&server, "order.made", json!({"schema": needs_a()}));
        let last = || server.events("?event_name=order.>").len();
        let error = publish(&server, "order.made", json!({"a": 7})).error(422);
        assert_eq!((&error["event_type"], &error["version"]), (&json!("order.made"), &json!(1)));
        assert_eq!(errors(&error), [("/a".to_owned(), "/properties/a/type".to_owned())]);
        let keyed = |payload: Value| {
            let body = json!({"event_name": "order.made", "payload": payload, "idempotency_key": "k"});
            server.post("/publish", body)
        };
        assert_eq!(keyed(json!({})).error(422)["code"], "schema_violation");
        let id = keyed(json!({"a": "x"})).event_id();
        let event = |payload: Value| json!({"event_name": "order.made", "payload": payload});
        let batch = server.post(
            "/publish/batch",
            json!([event(json!({"a": "x"})), {"event_name": "other"}, event(json!(1)), event(json!({}))]),
        );
        let error = batch.error(422);
        assert_eq!(error["code"], "invalid_batch");
        let listed = error["errors"].as_array().expect("a list");
        let places: Vec<_> = listed.iter().map(|error| (error["index"].clone(), error["code"].clone())).collect();
        assert_eq!(places, [(json!(2), json!("schema_violation")), (json!(3), json!("schema_violation"))]);
        let lines = format!("{}\n{}\n", event(json!({"a": "x"})), event(json!({})));
        let lines = server.request("POST", "/publish/batch").header("Content-Type", "application/x-ndjson").body(lines);
        assert_eq!(lines.send().error(422)["errors"][0]["index"], 1);
        let cloud = json!({"specversion": "1.0", "id": "1", "source": "s", "type": "order.made", "data": {}});
        let cloud = server
            .request("POST", "/publish")
            .header("Content-Type", "application/cloudevents+json")
            .body(cloud.to_string());
        assert_eq!(cloud.send().error(422)["code"], "schema_violation");
        let later = json!({"event_name": "order.made", "payload": {}, "deliver_at": "2999-01-01T00:00:00Z"});
        assert_eq!(server.post("/publish", later).error(422)["code"], "schema_violation");
        assert_eq!((last(), server.get("/schedules").data()), (1, json!([])));
        // What is stored is answered as before, whatever the type says by now.
        accept(&server, "order.made", json!({"schema": needs_a(), "compatibility": "none"}));
        accept(&server, "order.made", json!({"schema": false}));
        let again = keyed(json!({"a": "x"}));
        assert_eq!((again.event_id(), again.header("idempotent-replayed")), (id, Some("true")));
        assert!(metric(&server, r#"event_handler_schema_violations_total{mode="enforce"}"#) >= 7.0);
    });
}

#[test]
fn a_websocket_publisher_is_told_and_stays_connected() {
    let server = Server::start(Backend::Sqlite);
    accept(&server, "order.made", json!({"schema": needs_a()}));
    accept(&server, "seen.*", json!({"schema": needs_a(), "mode": "observe"}));
    let mut socket = server.ws();
    let mut publish = |name: &str, payload: Value| {
        socket.request(json!({"id": 1, "action": "publish", "event_name": name, "payload": payload}))
    };
    let refused = publish("order.made", json!({}));
    assert_eq!((&refused["error"]["code"], &refused["error"]["version"]), (&json!("schema_violation"), &json!(1)));
    assert_eq!(publish("order.made", json!({"a": "x"}))["schema_violations"], Value::Null);
    assert_eq!(publish("seen.x", json!({}))["schema_violations"], 1);
}

#[test]
fn what_is_observed_is_stored_counted_and_told() {
    let server = Server::start(Backend::Sqlite);
    accept(&server, ">", json!({"schema": {"type": "object", "required": ["a", "b"]}, "mode": "observe"}));
    accept(&server, "off.*", json!({"schema": false, "mode": "off"}));
    let observed = publish(&server, "x", json!({}));
    assert_eq!((observed.status, violations(&observed)), (200, Some("2")));
    assert_eq!(violations(&publish(&server, "off.x", json!({}))), None);
    let batch = server.post("/publish/batch", json!([{"event_name": "x"}, {"event_name": "y", "payload": {"a": 1}}]));
    assert_eq!((batch.status, violations(&batch)), (200, Some("3")));
    let later = json!({"event_name": "x", "deliver_at": "2999-01-01T00:00:00Z"});
    assert_eq!(violations(&server.post("/publish", later)), Some("2"));
    assert_eq!(metric(&server, r#"event_handler_schema_violations_total{mode="observe"}"#), 7.0);
    assert!(server.events("?event_name=$sys.type.changed").len() == 2);
}

#[test]
fn unknown_names_are_allowed_observed_or_rejected() {
    for (unknown, status, told) in [("allow", 200, None), ("observe", 200, Some("1")), ("reject", 422, None)] {
        let server = Server::builder().env("EVENT_HANDLER__CATALOGUE__UNKNOWN", unknown).start();
        accept(&server, "known", json!({"schema": true}));
        assert_eq!(publish(&server, "known", json!(1)).status, 200);
        let answer = publish(&server, "other", json!(1));
        assert_eq!((answer.status, violations(&answer)), (status, told), "{unknown}");
        if status == 422 {
            assert_eq!(answer.error(422)["code"], "unknown_event_type");
        }
    }
}

#[test]
fn a_change_of_state_is_judged_without_the_version_before_it() {
    let server = Server::start(Backend::Sqlite);
    let schema = json!({"type": "object", "required": ["type", "key", "op"], "properties": {"previous_version": {"type": "string"}, "value": needs_a()}});
    accept(&server, "state.lot.changed", json!({"schema": schema}));
    let state = |value: Value| server.request("PUT", "/state/lot/1").json(value).send();
    assert_eq!(state(json!({"a": "x"})).status, 201);
    assert_eq!(
        errors(&state(json!({"a": 1})).error(422)),
        [("/value/a".to_owned(), "/properties/value/properties/a/type".to_owned())]
    );
    assert_eq!(state(json!({"a": "y"})).status, 200);
    let with = |value: Value| json!({"event_name": "bid", "payload": 1, "entity": {"type": "lot", "key": "2", "value": value}});
    assert_eq!(server.post("/publish", with(json!({}))).error(422)["code"], "schema_violation");
    let batch = server.post("/publish/batch", json!([with(json!({"a": "x"})), with(json!({}))]));
    assert_eq!(batch.error(422)["errors"][0]["index"], 1);
    assert_eq!(server.events("?event_name=bid").len(), 0);
    assert_eq!(server.request("DELETE", "/state/lot/1").send().status, 200);
    // The history is judged in the same way.
    let preview =
        request(&server, "PUT", "state.lot.changed", "?dry_run=true").json(json!({"schema": schema})).send().data();
    assert_eq!(preview["history"], json!({"checked": 3, "failing": []}));
}

#[test]
fn what_is_accepted_for_later_is_not_judged_again_when_it_is_due() {
    let server = Server::start(Backend::Sqlite);
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(700);
    let later = json!({"event_name": "order.made", "payload": {}, "deliver_at": soon.to_string()});
    assert_eq!(server.post("/publish", later).status, 200);
    accept(&server, "order.made", json!({"schema": needs_a()}));
    eventually("it is due", || (server.events("?event_name=order.made").len() == 1).then_some(()));
    assert_eq!(publish(&server, "order.made", json!({})).error(422)["code"], "schema_violation");
}

#[test]
fn entries_of_redis_that_violate_a_schema_go_to_the_dead_ones_and_envelopes_are_dropped() {
    let redis = Redis::start();
    let server = listening(hearing(&redis, Backend::Sqlite).env("EVENT_HANDLER__REDIS__INGEST__ENABLED", "true"));
    accept(&server, "order.made", json!({"schema": needs_a()}));
    redis.add(IN, &[("event_name", "order.made"), ("payload", "{}")]);
    redis.add(IN, &[("event_name", "order.made"), ("payload", r#"{"a":"x"}"#)]);
    eventually("one is stored, the other dead", || {
        let dead = redis.entries("events:in:dead");
        let code = dead.first()?.1.iter().find(|(name, _)| name == "code")?.1.clone();
        (code == "schema_violation" && server.events("?event_name=order.made").len() == 1).then_some(())
    });
    accept(&server, "lot.won", json!({"schema": {"type": "object", "required": ["n", "m"]}}));
    redis.publish_all(ALL, [envelope("1", "lot.won", 1), envelope("2", "lot.lost", 2)]);
    eventually("one is heard", || (server.events("?event_name=lot.*").len() == 1).then_some(()));
    assert_eq!(count(&server, "schema_violation"), 1.0);
}

#[test]
fn a_change_holds_on_every_node_from_its_id_on() {
    let url = Postgres::shared().url();
    let nodes = ["a", "b"]
        .map(|name| Server::builder().env("DATABASE_URL", &url).env("EVENT_HANDLER__NODE__NAME", name).start());
    let (is_over, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    accept(&nodes[0], "order.made", json!({"schema": needs_a(), "mode": "off"}));
    thread::scope(|scope| {
        for publisher in 0..6 {
            let (node, is_over, refused) = (&nodes[publisher % 2], &is_over, &refused);
            scope.spawn(move || {
                while !is_over.load(Relaxed) {
                    let batch: Vec<Value> = (0..3).map(|_| json!({"event_name": "order.made"})).collect();
                    let answer = match publisher % 3 {
                        0 => node.post("/publish/batch", json!(batch)),
                        _ => publish(node, "order.made", json!({})),
                    };
                    refused.fetch_add(usize::from(answer.status == 422), Relaxed);
                }
            });
        }
        for change in 0..30 {
            let mode = if change % 2 == 0 { "enforce" } else { "off" };
            accept(&nodes[change / 2 % 2], "order.made", json!({"schema": needs_a(), "mode": mode}));
        }
        is_over.store(true, Relaxed);
    });
    let (mut after, mut enforces, mut stored, mut changes) = (0, false, 0, 0);
    loop {
        let page =
            nodes[1].events(&format!("?event_name=order.made&event_name=$sys.type.changed&limit=1000&after={after}"));
        let Some(last) = page.last() else { break };
        after = last["id"].as_i64().expect("an id");
        for event in &page {
            if event["event_name"] == "$sys.type.changed" {
                enforces = event["payload"]["mode"] == "enforce";
                changes += 1;
            } else {
                assert!(!enforces, "{event} was stored though its payload violates the schema");
                stored += 1;
            }
        }
    }
    assert!(changes == 31 && stored > 30 && refused.load(Relaxed) > 5, "{changes} {stored} {refused:?}");
}

#[test]
fn files_are_put_at_the_start_and_once_for_each_content() {
    let builder = Server::builder();
    let folder = builder.dir().join("event-types");
    std::fs::create_dir(&folder).expect("a folder");
    let write = |body: Value| std::fs::write(folder.join("order.json"), body.to_string()).expect("a file");
    let optional = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    write(json!({"name": "order.made", "schema": optional}));
    let mut server = builder.start();
    let of = |server: &Server| server.get("/event-types/order.made").data();
    assert_eq!((&of(&server)["version"], &of(&server)["schema"]), (&json!(1), &optional));
    // What the API has changed stays, since the file has not changed.
    accept(&server, "order.made", json!({"schema": optional, "mode": "observe"}));
    server.restart();
    assert_eq!(of(&server)["mode"], "observe");
    write(json!({"name": "order.made", "schema": optional, "owner": "sales"}));
    server.restart();
    assert_eq!((&of(&server)["mode"], &of(&server)["owner"]), (&json!("enforce"), &json!("sales")));
    // A content once put is not put again.
    write(json!({"name": "order.made", "schema": optional}));
    server.restart();
    assert_eq!((&of(&server)["version"], &of(&server)["owner"]), (&json!(1), &json!("sales")));
    server.terminate();
    for (body, place) in [
        (json!({"name": "order.made", "schema": needs_a()}), "event-types/order.json: schema/required: "),
        (json!({"name": "order.made", "schema": {"type": 7}}), "event-types/order.json: schema/type: "),
        (json!({"name": "order.made"}), "event-types/order.json: schema: "),
        (json!({"name": "order.new", "schema": {}, "version": 9}), "event-types/order.json: version: "),
        (Value::Null, "event-types/order.json: is not a file"),
    ] {
        if body.is_null() {
            std::fs::remove_file(folder.join("order.json")).expect("it goes");
            std::fs::create_dir(folder.join("order.json")).expect("a folder");
        } else {
            write(body);
        }
        let output = server.spec().run();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = errors.lines().find(|line| line.contains("order.json")).unwrap_or_else(|| panic!("{errors}"));
        let said = line.split_once(place).unwrap_or_else(|| panic!("{line}")).1;
        // The place is said once.
        assert_eq!((output.status.code(), said.contains("schema/")), (Some(78), false), "{line}");
    }
}

#[test]
fn who_publishes_and_receives_is_shown_and_read_by_who_may() {
    let service = Service::start();
    let server = service.configure(Server::builder(), "billing", &[("routes", "order.>")]).start();
    accept(&server, "order.*", json!({"schema": needs_a(), "mode": "observe"}));
    accept(&server, "order.other", json!({"schema": true}));
    let mut socket = server.ws();
    socket.request(json!({"id": 1, "action": "subscribe", "event_name": "*.made"}));
    publish(&server, "order.made", json!({}));
    server.post("/publish", json!({"event_name": "order.made", "payload": {"a": "x"}, "source": "shop"}));
    publish(&server, "order.other", json!({}));
    let usage = server.get("/event-types/order.%2A/usage").data();
    let publishers = usage["publishers"].as_array().expect("a list");
    let publishers: Vec<_> = publishers.iter().map(|one| (one["source"].clone(), one["count"].clone())).collect();
    assert_eq!(publishers, [(json!("api"), json!(1)), (json!("shop"), json!(1))]);
    let receivers = json!([{"kind": "service", "name": "billing"}, {"kind": "subscriber", "name": "*.made"}]);
    assert_eq!((&usage["receivers"], &usage["violations"], &usage["complete"]), (&receivers, &json!(1), &json!(true)));
}

#[test]
fn the_documents_have_the_types_of_the_catalogue() {
    let server = Server::start(Backend::Sqlite);
    accept(&server, "order.made", json!({"schema": needs_a(), "owner": "sales", "examples": [{"a": "x"}]}));
    let document = server.get("/asyncapi.json").json();
    let message = &document["components"]["messages"]["event.order.made"];
    assert_eq!((&message["x-event-type"]["owner"], &message["x-event-type"]["version"]), (&json!("sales"), &json!(1)));
    assert_eq!(document["components"]["schemas"]["type.order.made"]["schema"], needs_a());
    let document = server.get("/openapi.json").json();
    assert_eq!(document["components"]["schemas"]["type.order.made"], needs_a());
    assert_eq!(
        document["components"]["schemas"]["event.order.made"]["examples"],
        json!([{"event_name": "order.made", "payload": {"a": "x"}}])
    );
    assert_eq!(put(&server, "order.made", json!({"schema": true, "compatibility": "none"})).status, 200);
    assert_eq!(server.get("/openapi.json").json()["components"]["schemas"]["type.order.made"], json!({}));
}

#[test]
fn the_command_line_lists_checks_puts_and_compares_types() {
    let server = Server::start(Backend::Sqlite);
    let file = server.dir().join("order.json");
    let path = file.display().to_string();
    let write = |schema: Value| {
        std::fs::write(&file, json!({"name": "order.made", "schema": schema}).to_string()).expect("a file")
    };
    let run = |args: &[&str]| {
        let output = command(&server, &[&["types"], args].concat());
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let optional = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    write(optional);
    assert_eq!(run(&["check", "--local", &path]), (Some(0), "order.made: a type\n".to_owned()));
    assert_eq!(run(&["put", &path]), (Some(0), "order.made version 1\n".to_owned()));
    server.publish("order.made", json!({"a": "x"}));
    write(json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}));
    let (code, said) = run(&["check", &path]);
    assert!(code == Some(0) && said.starts_with("order.made: compatible; strictly not\n"), "{said}");
    assert_eq!(run(&["put", &path]), (Some(0), "order.made version 2\n".to_owned()));
    write(needs_a());
    let (code, said) = run(&["check", &path]);
    assert!(code == Some(1) && said.contains("/required"), "{said}");
    let (code, said) = run(&["diff", "order.made"]);
    assert!(code == Some(0) && said.starts_with("1 to 2, backward: compatible"), "{said}");
    assert!(run(&["list"]).1.contains("order.made") && run(&["show", "order.made"]).1.contains("\"version\": 2"));
    let (code, said) = run(&["infer", "order.made"]);
    let inferred: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, &inferred["schema"]["type"]), (Some(0), &json!("object")));
    write(json!({"type": 7}));
    assert_eq!(run(&["check", "--local", &path]).0, Some(78));
}

#[test]
fn the_worked_set_of_the_auction_is_made_of_types() {
    let folder = crate::support::program::root().join("config/examples/event-types");
    let server = Server::builder().env("EVENT_HANDLER__CATALOGUE__DIR", folder.display()).start();
    let types = server.get("/event-types").data();
    let names: Vec<&str> = types.as_array().expect("a list").iter().filter_map(|of| of["name"].as_str()).collect();
    assert_eq!(names.len(), 20, "{names:?}");
    for name in names {
        let of = server.get(&format!("/event-types/{name}")).data();
        for example in of["examples"].as_array().expect("a list") {
            let judged = match name {
                "state.auction.changed" => server.request("PUT", "/state/auction/7").json(&example["value"]).send(),
                _ => publish(&server, name, example.clone()),
            };
            assert!(matches!(judged.status, 200 | 201), "{name}: {}", judged.text());
        }
    }
    assert_eq!(publish(&server, "auction.settled", json!({"auction_id": "7", "winner": "ada"})).status, 422);
}
