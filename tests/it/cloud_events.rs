//! CloudEvents 1.0 over HTTP: binary, structured, batched.

use serde_json::{Value, json};

use crate::support::http::{Request, Response};
use crate::support::{Backend, Server, for_each_backend};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

/// A CloudEvent in binary mode; `path` names where it goes.
fn binary(server: &Server, id: &str, body: &str) -> Request {
    let request = server.request("POST", "/publish").header("ce-specversion", "1.0").header("ce-id", id);
    let request = request.header("ce-source", "/auctions/1").header("ce-type", "auction.started");
    request.header("Content-Type", "application/json").body(body)
}

fn structured(server: &Server, event: &Value) -> Response {
    server.request("POST", "/publish").header("Content-Type", STRUCTURED).body(event.to_string()).send()
}

fn event(id: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/auctions/1", "type": "auction.started"})
}

#[test]
fn binary_mode_is_published_like_any_event() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let send = || binary(&server, "a", "{\"n\": 1.50}").header("ce-subject", "auction%207").send();
        let response = send();
        assert_eq!(response.text(), r#"{"status":"ok","message":"Event 'auction.started' published.","data":null}"#);
        let stored = server.get(&format!("/events/{}", response.event_id()));
        assert!(stored.text().contains("\"payload\":{\"n\": 1.50}"), "{}", stored.text());
        let stored = stored.json();
        assert_eq!(stored["data"]["source"], "/auctions/1");
        assert_eq!(stored["data"]["key"], "auction 7");
        assert_eq!(stored["data"]["metadata"], json!({"ce-id": "a", "ce-datacontenttype": "application/json"}));

        let again = send();
        assert_eq!((again.event_id(), again.header("idempotent-replayed")), (1, Some("true")));
        assert_eq!(binary(&server, "a", "2").send().error(422)["code"], "idempotency_key_reused");
        assert_eq!(binary(&server, "b", "2").send().event_id(), 2);
    });
}

#[test]
fn structured_mode_is_published_like_any_event() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut full = event("a");
        full["data_base64"] = "AP8=".into();
        full["time"] = "2026-01-31T12:00:00Z".into();
        full["retries"] = 3.into();
        let id = structured(&server, &full).event_id();
        let stored = server.get(&format!("/events/{id}")).data();
        assert_eq!(stored["payload"], "AP8=");
        let kept = json!({"ce-id": "a", "ce-time": "2026-01-31T12:00:00Z", "ce-retries": "3", "ce-as-literals": "retries", "ce-data": "base64"});
        assert_eq!(stored["metadata"], kept);
        // The modes are two spellings of one event.
        assert_eq!(binary(&server, "b", "[1]").send().event_id(), 2);
        let mut same = event("b");
        same["data"] = json!([1]);
        same["datacontenttype"] = "application/json".into();
        let again = structured(&server, &same);
        assert_eq!((again.event_id(), again.header("idempotent-replayed")), (2, Some("true")));
    });
}

#[test]
fn an_empty_batch_of_cloud_events_is_a_success_of_nothing() {
    let server = Server::start(Backend::Sqlite);
    for path in ["/publish", "/publish/batch"] {
        let answer = server.request("POST", path).header("Content-Type", BATCH).body(" [] ").send();
        assert_eq!(answer.data(), json!({"count": 0, "first_id": null, "last_id": null}), "{path}");
    }
    assert!(server.events("").is_empty());
}

#[test]
fn a_source_is_taken_as_it_was_sent_where_decoding_leaves_no_uri() {
    let server = Server::start(Backend::Sqlite);
    let publish = |id: &str, source: &str| {
        let request = server.request("POST", "/publish").header("ce-specversion", "1.0").header("ce-id", id);
        let id = request.header("ce-source", source).header("ce-type", "a").send().event_id();
        server.get(&format!("/events/{id}")).data()["source"].clone()
    };
    assert_eq!(publish("1", "/x%20y"), "/x%20y");
    assert_eq!(publish("2", "/x%2520y"), "/x%20y");
    assert_eq!(publish("3", "/a%3Ab"), "/a:b");
}

#[test]
fn batches_are_answered_like_batches() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        for (path, ids, data) in [
            ("/publish", ["a", "b"], json!({"count": 2, "first_id": 1, "last_id": 2})),
            ("/publish/batch", ["c", "d"], json!({"count": 2, "first_id": 3, "last_id": 4})),
        ] {
            let batch = Value::from(ids.map(event).to_vec()).to_string();
            let send = || server.request("POST", path).header("Content-Type", BATCH).body(batch.clone()).send();
            assert_eq!(send().data(), data);
            assert_eq!(send().header("idempotent-replayed"), Some("true"));
        }
        let mut bad = event("e");
        bad["time"] = "yesterday".into();
        let batch = json!([event("f"), bad]).to_string();
        let data = server.request("POST", "/publish").header("Content-Type", BATCH).body(batch).send().error(422);
        assert_eq!((&data["code"], &data["errors"][0]["index"]), (&json!("invalid_batch"), &json!(1)));
        assert_eq!(data["errors"][0]["field"], "time");
        assert_eq!(server.events("").len(), 4);
    });
}

#[test]
fn mistakes_name_the_attribute() {
    let server = Server::start(Backend::Sqlite);
    let with = |name: &str, value: Value| {
        let mut changed = event("a");
        changed[name] = value;
        structured(&server, &changed).error(422)["field"].clone()
    };
    assert_eq!(with("specversion", "0.3".into()), "specversion");
    assert_eq!(with("type", "a..b".into()), "type");
    assert_eq!(with("source", Value::Null), "source");
    assert_eq!(with("someExtension", 1.into()), "someExtension");
    let keyed = binary(&server, "a", "1").header("Idempotency-Key", "k").send();
    assert_eq!(keyed.error(422)["field"], "Idempotency-Key");
    assert_eq!(binary(&server, "a", "{").send().error(400)["code"], "malformed_json");
    let avro =
        server.request("POST", "/publish").header("Content-Type", "application/cloudevents+avro").body("x").send();
    assert_eq!(avro.error(415)["supported"], json!(["application/json", STRUCTURED, BATCH]));
    let encoded = binary(&server, "a", "1").header("Content-Encoding", "deflate").send();
    assert_eq!(encoded.error(415)["supported"], json!(["gzip", "br", "zstd", "identity"]));
    assert!(server.events("").is_empty());
}

#[test]
fn data_of_any_type_is_taken_in_binary_mode() {
    let server = Server::start(Backend::Sqlite);
    for (kind, payload) in [("text/plain", "a"), ("image/png", "YQ==")] {
        let request = server.request("POST", "/publish").header("ce-specversion", "1.0").header("ce-id", kind);
        let request = request.header("ce-source", "/s").header("ce-type", "t").header("Content-Type", kind);
        let id = request.body("a").send().event_id();
        assert_eq!(server.get(&format!("/events/{id}")).data()["payload"], payload);
    }
}
