//! `POST /publish/batch`.

use serde_json::{Value, json};

use crate::support::{Backend, Server, for_each_backend};

const NDJSON: &str = "application/x-ndjson";

#[test]
fn an_array_is_stored_in_order_under_dense_ids() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        server.publish("before", json!({}));
        let items: Vec<Value> = (0..3).map(|n| json!({"event_name": "a", "payload": n, "key": "k"})).collect();
        let data = server.post("/publish/batch", Value::from(items)).data();
        assert_eq!(data, json!({"count": 3, "first_id": 2, "last_id": 4}));
        let payloads: Vec<Value> = server.events("?after=1").iter().map(|e| e["payload"].clone()).collect();
        assert_eq!(payloads, [0, 1, 2]);
        let message = |count| {
            server.post("/publish/batch", json!(vec![json!({"event_name": "a"}); count])).json()["message"].take()
        };
        assert_eq!([1, 2].map(message), ["1 event published.", "2 events published."]);
    });
}

#[test]
fn ndjson_is_taken() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let body = "{\"event_name\":\"a\",\"payload\":1e400}\n{\"event_name\":\"b\"}\r\n\n{\"event_name\":\"c\"}";
        let response = server.request("POST", "/publish/batch").header("Content-Type", NDJSON).body(body).send();
        assert_eq!(response.data(), json!({"count": 3, "first_id": 1, "last_id": 3}));
        assert!(server.get("/events/1").text().contains(r#""payload":1e400"#));
    });
}

#[test]
fn ten_thousand_events_fit_and_no_more() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let line = "{\"event_name\":\"a\"}\n";
        let send = |count: usize| {
            server.request("POST", "/publish/batch").header("Content-Type", NDJSON).body(line.repeat(count)).send()
        };
        let status = send(10_001).status;
        assert!(matches!(status, 413 | 422), "{status}");
        assert_eq!(server.events("").len(), 0);
        assert_eq!(send(10_000).data(), json!({"count": 10_000, "first_id": 1, "last_id": 10_000}));
    });
}

#[test]
fn one_bad_item_stores_nothing_and_is_named() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let items = json!([
            {"event_name": "good"},
            {"event_name": ""},
            {"event_name": "good", "priority": "urgent"},
            {"event_name": "$sys.mine"},
            7,
            {"event_name": "good", "nonsense": 1},
        ]);
        let data = server.post("/publish/batch", &items).error(422);
        let errors = data["errors"].as_array().expect("a list of errors");
        let indexes: Vec<i64> = errors.iter().filter_map(|e| e["index"].as_i64()).collect();
        assert_eq!(indexes, [1, 2, 3, 4, 5], "{data}");
        for error in errors {
            assert!(error["code"].is_string() && error["message"].is_string(), "{error}");
        }
        assert_eq!(server.events("").len(), 0);
    });
}

#[test]
fn malformed_batches_are_refused() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        assert_eq!(server.post("/publish/batch", "[{").error(400)["code"], "malformed_json");
        for body in [r#"{"event_name":"a"}"#, "7"] {
            let status = server.post("/publish/batch", body).status;
            assert!(matches!(status, 400 | 422), "{body}: {status}");
        }
        let lines = "{\"event_name\":\"a\"}\n{broken\n";
        let response = server.request("POST", "/publish/batch").header("Content-Type", NDJSON).body(lines).send();
        assert!(matches!(response.status, 400 | 422), "{}", response.text());
        let text = server.request("POST", "/publish/batch").header("Content-Type", "text/plain").body("[]").send();
        assert_eq!(text.error(415)["code"], "unsupported_media_type");
        assert_eq!(server.events("").len(), 0);
    });
}

#[test]
fn lines_have_several_names_and_a_byte_order_mark_is_skipped() {
    let server = Server::start(Backend::Sqlite);
    let send = |path: &str, content_type: &str, body: &str| {
        let body = format!("\u{feff}{body}");
        server.request("POST", path).header("Content-Type", content_type).body(body).send()
    };
    for content_type in [NDJSON, "application/ndjson", "application/jsonl; charset=utf-8"] {
        let lines = "{\"event_name\":\"a\"}\n{\"event_name\":\"b\"}\n";
        assert_eq!(send("/publish/batch", content_type, lines).data()["count"], 2, "{content_type}");
        assert!(send("/publish", content_type, "{}").error(415)["supported"].is_array());
    }
    assert_eq!(send("/publish/batch", "application/json", r#"[{"event_name":"c"}]"#).data()["count"], 1);
    send("/publish", "application/json", r#"{"event_name":"d"}"#).data();
    let cloud_event = r#"{"specversion":"1.0","id":"1","source":"/s","type":"e"}"#;
    send("/publish", "application/cloudevents+json", cloud_event).data();
    assert_eq!(server.events("").len(), 9);
    for accept in ["application/ndjson", "application/jsonl"] {
        let lines = server.request("GET", "/events").header("Accept", accept).send();
        assert_eq!(lines.text().lines().count(), 9, "{accept}");
    }
}

#[test]
fn the_same_idempotency_key_stores_a_batch_once() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let send = |items: Value| {
            server.request("POST", "/publish/batch").json(items).header("Idempotency-Key", "batch-1").send()
        };
        let items = json!([{"event_name": "a"}, {"event_name": "b"}]);
        let first = send(items.clone());
        let again = send(items);
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!(again.data(), first.data());
        assert_eq!(send(json!([{"event_name": "other"}])).error(422)["code"], "idempotency_key_reused");
        assert_eq!(server.events("").len(), 2);
    });
}
