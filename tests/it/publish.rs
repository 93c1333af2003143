//! `POST /publish`.

use serde_json::{Value, json};

use crate::support::http::Response;
use crate::support::{Backend, Server, for_each_backend};

#[test]
fn the_answer_is_verbatim() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let response = server.post("/publish", r#"{"event_name":"user.created","payload":{"user_id":"123"}}"#);
        assert_eq!(response.status, 200);
        assert_eq!(response.text(), r#"{"status":"ok","message":"Event 'user.created' published.","data":null}"#);
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(response.event_id(), 1);
    });
}

#[test]
fn ids_are_dense_and_increase() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let ids: Vec<i64> = (0..5).map(|n| server.publish("a", json!(n))).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5]);
        server.restart();
        assert_eq!(server.publish("a", json!(5)), 6);
    });
}

#[test]
fn payloads_come_back_as_they_were_sent() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let payloads = [
            "null",
            "true",
            "0",
            "-0.0",
            "1e400",
            "1E+2",
            "123456789012345678901234567890",
            "0.1000000000000000055511151231257827",
            r#""""#,
            r#""\u0000 \ud83d\ude00 \/ <script> 'quoted'""#,
            r#""größe 😀""#,
            "[]",
            "{}",
            r#"[1,[2,[3,{"a":null}]]]"#,
            r#"{"z":1,"a":{"y":[1.0,2],"b":"x"},"m":""}"#,
        ];
        for payload in payloads {
            let id = server.post("/publish", format!(r#"{{"event_name":"exact","payload":{payload}}}"#)).event_id();
            let expected = format!(r#""payload":{payload}"#);
            let one = server.get(&format!("/events/{id}"));
            assert!(one.text().contains(&expected), "{payload} became {}", one.text());
            let list = server.get(&format!("/events?after={}", id - 1));
            assert!(list.text().contains(&expected), "{payload} became {}", list.text());
        }
    });
}

#[test]
fn deep_and_large_payloads_survive() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        let large = format!("\"{}\"", "x".repeat(1_000_000));
        for payload in [deep, large] {
            let id = server.post("/publish", format!(r#"{{"event_name":"exact","payload":{payload}}}"#)).event_id();
            assert!(server.get(&format!("/events/{id}")).text().contains(&payload));
        }
    });
}

#[test]
fn a_missing_payload_is_an_empty_object() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        server.post("/publish", json!({"event_name": "a"})).data();
        assert_eq!(server.events("")[0]["payload"], json!({}));
    });
}

#[test]
fn optional_fields_are_stored() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let full = json!({
            "event_name": "bid", "payload": 1, "source": "auction-manager", "priority": "high", "key": "auction-7",
            "metadata": {"tenant": "a", "empty": ""},
        });
        let id = server.post("/publish", &full).event_id();
        let event = server.get(&format!("/events/{id}")).data();
        for field in ["event_name", "payload", "source", "priority", "key", "metadata"] {
            assert_eq!(event[field], full[field], "{field} of {event}");
        }

        let id = server.publish("plain", json!({}));
        let event = server.get(&format!("/events/{id}")).data();
        assert_eq!((&event["source"], event.get("priority")), (&json!("api"), None), "{event}");
    });
}

#[test]
fn invalid_fields_are_422_naming_the_field() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let long = "x".repeat(256);
        let cases = [
            ("event_name", json!({})),
            ("event_name", json!({"event_name": null})),
            ("event_name", json!({"event_name": 7})),
            ("event_name", json!({"event_name": ""})),
            ("event_name", json!({"event_name": "a..b"})),
            ("event_name", json!({"event_name": "a.*"})),
            ("event_name", json!({"event_name": ">"})),
            ("event_name", json!({"event_name": " a"})),
            ("event_name", json!({"event_name": "a\nb"})),
            ("event_name", json!({"event_name": "a\"b"})),
            ("event_name", json!({"event_name": "a\\b"})),
            ("event_name", json!({"event_name": long})),
            ("source", json!({"event_name": "a", "source": 7})),
            ("source", json!({"event_name": "a", "source": ""})),
            ("priority", json!({"event_name": "a", "priority": "urgent"})),
            ("priority", json!({"event_name": "a", "priority": 1})),
            ("key", json!({"event_name": "a", "key": 7})),
            ("key", json!({"event_name": "a", "key": ""})),
            ("idempotency_key", json!({"event_name": "a", "idempotency_key": {}})),
            ("idempotency_key", json!({"event_name": "a", "idempotency_key": ""})),
            ("metadata", json!({"event_name": "a", "metadata": "text"})),
            ("metadata", json!({"event_name": "a", "metadata": {"nested": {}}})),
            ("metadata", json!({"event_name": "a", "metadata": {"number": 1}})),
        ];
        for (field, body) in cases {
            let data = server.post("/publish", &body).error(422);
            let named = data["field"].as_str().unwrap_or_default();
            assert_eq!(named.split('.').next(), Some(field), "{body}: {data}");
        }
        for body in ["[]", "7", "null", r#""text""#] {
            let status = server.post("/publish", body).status;
            assert!(matches!(status, 400 | 422), "{body}: {status}");
        }
        assert_eq!(server.events("").len(), 0);
    });
}

#[test]
fn the_systems_own_names_cannot_be_published() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let data = server.post("/publish", json!({"event_name": "$sys.service.opened"})).error(422);
        assert_eq!(data["field"], "event_name");
        server.publish("$system", json!({}));
    });
}

#[test]
fn every_valid_name_is_taken() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let names = [
            "a",
            "user.created",
            "auction:started",
            "com.example.bid/v2",
            "größe.neu",
            "a b",
            "it's",
            &"x".repeat(255),
        ];
        for name in names {
            let response = server.post("/publish", json!({"event_name": name}));
            assert_eq!(response.json()["message"], format!("Event '{name}' published."));
        }
        let stored: Vec<Value> = server.events("").iter().map(|e| e["event_name"].clone()).collect();
        assert_eq!(stored, names);
    });
}

#[test]
fn the_same_idempotency_key_stores_once() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let by_body = |server: &Server, payload: i32| {
            server.post("/publish", json!({"event_name": "a", "payload": payload, "idempotency_key": "k-1"}))
        };
        let by_header = |server: &Server, payload: i32| {
            let body = json!({"event_name": "a", "payload": payload});
            server.request("POST", "/publish").json(body).header("Idempotency-Key", "k-2").send()
        };
        type Send<'a> = &'a dyn Fn(&Server, i32) -> Response;
        for send in [&by_body as Send, &by_header] {
            let first = send(&server, 1);
            assert_eq!(first.header("idempotent-replayed"), None);
            for _ in 0..2 {
                let again = send(&server, 1);
                assert_eq!(again.header("idempotent-replayed"), Some("true"));
                assert_eq!((again.event_id(), again.text()), (first.event_id(), first.text()));
                server.restart();
            }
            assert_eq!(send(&server, 2).error(422)["code"], "idempotency_key_reused");
        }
        assert_eq!(server.events("").len(), 2);
    });
}

#[test]
fn two_idempotency_keys_are_422() {
    let server = Server::start(Backend::Sqlite);
    let publish = |keys: [&str; 2]| {
        let [one, other] = keys.map(|key| ("Idempotency-Key", key));
        let request = server.request("POST", "/publish").header(one.0, one.1).header(other.0, other.1);
        request.json(json!({"event_name": "a"})).send()
    };
    let data = publish(["k1", "k2"]).error(422);
    assert_eq!((&data["code"], &data["field"]), (&json!("duplicate_field"), &json!("Idempotency-Key")));
    assert_eq!(publish(["k1", "k1"]).event_id(), 1);
    assert_eq!(publish(["k1", "k1"]).header("idempotent-replayed"), Some("true"));
    assert_eq!(server.events("").len(), 1);
}

#[test]
fn traceparents_are_stored_if_they_are_well_formed() {
    let server = Server::start(Backend::Sqlite);
    let stored = |headers: &[&str]| {
        let request = headers.iter().fold(server.request("POST", "/publish"), |r, h| r.header("traceparent", h));
        let id = request.json(json!({"event_name": "a"})).send().event_id();
        server.get(&format!("/events/{id}")).data()["traceparent"].take()
    };
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(stored(&[good]), good);
    assert_eq!(stored(&[good, good]), Value::Null);
    for bad in [
        "ff".to_owned() + &good[2..],
        good.to_uppercase(),
        good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
    ] {
        assert_eq!(stored(&[&bad]), Value::Null, "{bad}");
    }
}

#[test]
fn prefer_return_representation_gives_the_event() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let body = json!({"event_name": "a", "payload": {"b": 1}, "key": "k"});
        let request = server.request("POST", "/publish").json(body).header("Prefer", "return=representation");
        let response = request.send();
        let stored = server.get(&format!("/events/{}", response.event_id())).data();
        assert_eq!(response.data(), stored);
        assert_eq!(response.json()["message"], "Event 'a' published.");
        for (preference, is_given) in [
            (r#"return="representation""#, true),
            ("respond-async, Return=Representation; x=1", true),
            ("return=minimal", false),
            ("return", false),
        ] {
            let request = server.request("POST", "/publish").json(json!({"event_name": "a"}));
            assert_eq!(request.header("Prefer", preference).send().data().is_object(), is_given, "{preference}");
        }
    });
}

#[test]
fn an_answered_publish_survives_a_kill() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let id = server.publish("a", json!("kept"));
        server.kill9();
        server.restart();
        assert_eq!(server.get(&format!("/events/{id}")).data()["payload"], "kept");
    });
}

#[test]
fn query_parameters_are_refused() {
    let server = Server::start(Backend::Sqlite);
    for path in ["/publish?idempotency_key=k", "/publish/batch?x=1"] {
        let data = server.post(path, json!({"event_name": "a"})).error(422);
        assert_eq!(data["code"], "unknown_parameter", "{data}");
    }
    assert!(server.events("").is_empty());
}
