//! HTTP in general: the envelope, and every kind of bad input.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::{Connection, Request};
use crate::support::sse::EventStream;
use crate::support::{Backend, Server, for_each_backend};

const MIB: usize = 1024 * 1024;

#[test]
fn answers_have_the_envelope() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let body = server.get("/events").json();
        assert_eq!(body, json!({"status": "ok", "message": "success", "data": []}));
    });
}

#[test]
fn malformed_json_is_400() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let deep = "[".repeat(100_000);
        let unfinished = format!(r#"{{"event_name":"a","payload":{deep}"#);
        for body in ["", "{", "nonsense", r#"{"event_name":"a",}"#, r#"{"event_name":"a"} x"#, &unfinished] {
            let data = server.post("/publish", body).error(400);
            assert_eq!(data["code"], "malformed_json", "{body:.80}");
        }
        let invalid_utf8 = server.request("POST", "/publish").body(b"{\"event_name\":\"\xff\"}".to_vec()).send();
        assert_eq!(invalid_utf8.error(400)["code"], "malformed_json");
        assert_eq!(server.events(""), [] as [Value; 0]);
    });
}

#[test]
fn a_body_of_another_type_is_415() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let send = |content_type: &str| {
            let request = server.request("POST", "/publish").body(r#"{"event_name":"a"}"#);
            request.header("Content-Type", content_type).send()
        };
        for content_type in
            ["text/plain;charset=UTF-8", "application/xml", "application/x-www-form-urlencoded", "nonsense"]
        {
            let refused = send(content_type);
            assert_eq!(refused.error(415)["code"], "unsupported_media_type", "{content_type}");
            let message = refused.json()["message"].to_string();
            assert!(message.contains("Content-Type: application/json") && message.contains(content_type), "{message}");
        }
        for content_type in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
            send(content_type).data();
        }
        server.request("POST", "/publish").body(r#"{"event_name":"a"}"#).send().data();
    });
}

#[test]
fn a_body_over_the_limit_is_413() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let body = |bytes: usize| {
            let frame = r#"{"event_name":"big","payload":""}"#;
            frame.replace(r#""""#, &format!("\"{}\"", "x".repeat(bytes - frame.len())))
        };
        server.post("/publish", body(MIB)).data();
        assert_eq!(server.post("/publish", body(MIB + 1)).error(413)["code"], "body_too_large");
        assert_eq!(server.post("/publish", body(8 * MIB)).error(413)["code"], "body_too_large");

        let mut chunked = format!("{:x}\r\n", MIB + 1).into_bytes();
        chunked.extend(body(MIB + 1).as_bytes());
        chunked.extend(b"\r\n0\r\n\r\n");
        let request = server.request("POST", "/publish").header("Transfer-Encoding", "chunked").body(chunked);
        assert_eq!(request.send().error(413)["code"], "body_too_large");
        assert_eq!(server.events("").len(), 1);
    });
}

#[test]
fn an_unknown_path_is_404() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        for path in ["/", "/nowhere", "/publish/nothing", "/events/1/nothing", "//publish"] {
            if path == "/" && server.get(path).status == 200 {
                continue;
            }
            assert_eq!(server.get(path).error(404)["code"], "not_found", "{path}");
        }
    });
}

#[test]
fn a_wrong_method_is_405_with_allow() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let cases = [
            ("GET", "/publish", "POST"),
            ("PUT", "/publish", "POST"),
            ("GET", "/publish/batch", "POST"),
            ("POST", "/events", "GET"),
            ("DELETE", "/events/1", "GET"),
            ("POST", "/ws", "GET"),
            ("POST", "/health", "GET"),
            ("DELETE", "/metrics", "GET"),
        ];
        for (method, path, allowed) in cases {
            let response = server.request(method, path).send();
            assert_eq!(response.error(405)["code"], "method_not_allowed", "{method} {path}");
            let allow = response.header("allow").unwrap_or_default();
            assert!(allow.split(", ").any(|m| m == allowed), "{method} {path}: Allow: {allow}");
        }
    });
}

#[test]
fn unknown_body_fields_are_422_naming_the_known() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let response = server.post("/publish", json!({"event_name": "a", "paylod": {}}));
        let data = response.error(422);
        assert_eq!((&data["code"], &data["field"]), (&json!("unknown_field"), &json!("paylod")));
        assert_names_all(&response.json(), &["event_name", "payload", "source", "priority", "key", "idempotency_key"]);
        assert_eq!(server.events("").len(), 0);
    });
}

#[test]
fn unknown_query_parameters_are_422_naming_the_known() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let response = server.get("/events?evnt_name=a");
        let data = response.error(422);
        assert_eq!((&data["code"], &data["field"]), (&json!("unknown_parameter"), &json!("evnt_name")));
        assert_names_all(&response.json(), &["event_name", "after", "before", "since", "until", "limit", "order"]);
    });
}

#[test]
fn where_no_query_parameters_are_known_none_is_taken() {
    let server = Server::start(Backend::Sqlite);
    for path in ["/events/1", "/admin/tokens"] {
        let response = server.get(&format!("{path}?verbose=1"));
        assert_eq!(response.error(422)["field"], "verbose", "{path}");
        let message = response.json()["message"].take();
        assert!(message.as_str().is_some_and(|m| m.ends_with("not known here; none is")), "{message}");
    }
}

#[test]
fn monitors_may_add_query_parameters_of_their_own() {
    let server = Server::start(Backend::Sqlite);
    for path in ["/health", "/health/live", "/health/ready", "/metrics"] {
        for query in ["?verbose=1", "?a=1&a=2", "?_=%ff", "?"] {
            assert_eq!(server.get(&format!("{path}{query}")).status, 200, "{path}{query}");
        }
    }
}

/// A proxy that hands on `Upgrade` makes no WebSocket of other requests.
#[test]
fn a_request_that_could_be_upgraded_is_answered_at_once() {
    let server = Server::start(Backend::Sqlite);
    let request = |method: &str, path: &str| {
        server.request(method, path).header("Connection", "Upgrade").header("Upgrade", "websocket")
    };
    for (method, path, status) in [("GET", "/nowhere", 404), ("DELETE", "/publish", 405), ("POST", "/ws", 405)] {
        let took = |_: usize| {
            let begin = Instant::now();
            let mut connection = Connection::open(server.addr()).expect("a connection");
            connection.send_raw(&request(method, path).encode()).expect("sent");
            assert_eq!(connection.receive(false).expect("an answer").status, status, "{method} {path}");
            begin.elapsed()
        };
        // What waits for a body that does not come waits for a second, each time.
        assert!((0..20).map(took).any(|took| took < Duration::from_millis(900)), "{method} {path}");
    }
    let body = json!({"event_name": "a"}).to_string();
    let mut connection = Connection::open(server.addr()).expect("a connection");
    connection.send_raw(&request("POST", "/publish").json(&body).encode()).expect("sent");
    connection.receive(false).expect("an answer").data();
    assert_eq!(server.events("").len(), 1);
}

/// A name that cannot be read is not another name.
#[test]
fn parameters_that_are_not_utf8_are_422_naming_them() {
    let server = Server::start(Backend::Sqlite);
    server.publish("\u{fffd}", json!({}));
    for query in ["event_name=%ff", "event_name=a&event_name=%e2%82", "source=+%ff", "key=%C3%28"] {
        let data = server.get(&format!("/events?{query}")).error(422);
        assert_eq!(data["code"], "invalid_parameter", "{query}");
        assert!(query.contains(data["field"].as_str().expect("a field")), "{query}: {data}");
    }
    assert_eq!(server.get("/events?%ff=1").error(422)["field"], "%ff");
    assert_eq!(server.events("?event_name=%EF%BF%BD").len(), 1);
}

#[test]
fn a_request_id_is_taken_or_made_returned_and_logged() {
    let server = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__LOG__ACTIVITY", "true").start();
    let taken = server.request("GET", "/events").header("X-Request-Id", "order-66/a").send();
    assert_eq!(taken.header("x-request-id"), Some("order-66/a"));
    server.wait_for_log(|line| line["request_id"] == "order-66/a");

    let made: Vec<String> =
        (0..2).map(|_| server.get("/nowhere").header("x-request-id").expect("a made request id").to_owned()).collect();
    assert_ne!(made[0], made[1]);
    server.wait_for_log(|line| line["request_id"] == made[1].as_str());
}

#[test]
fn what_is_no_request_is_answered_with_the_envelope_and_logged() {
    let server = Server::start(Backend::Sqlite);
    let long = format!("GET /events HTTP/1.1\r\nX: {}", "x".repeat(128 * 1024));
    let cases: [(&[u8], u16, &str); 6] = [
        (b"NONSENSE\r\n\r\n", 400, "malformed_request"),
        (b"GET / HTTP/9.9\r\n\r\n", 400, "malformed_request"),
        (b"GET /events HTTP/1.1\r\nbad header\r\n\r\n", 400, "malformed_request"),
        (b"GET /events HTTP/1.1\r\n\r\n", 400, "malformed_request"),
        (b"GET /events?a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed_request"),
        (long.as_bytes(), 431, "head_too_large"),
    ];
    for (bytes, status, code) in cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        let mut connection = Connection::open(server.addr()).expect("a connection");
        // It may come behind an answer.
        connection.send_raw(&[b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", bytes].concat()).expect("sent");
        assert_eq!(connection.receive(false).expect("an answer").status, 200, "{shown}");
        let answer = connection.receive(false).expect("an answer");
        assert_eq!(answer.error(status)["code"], code, "{shown}");
        assert_eq!(answer.header("connection"), Some("close"), "{shown}");
        let id = answer.header("x-request-id").expect("a request id");
        server.wait_for_log(|line| line["request_id"] == id && line["code"] == status);
    }
    let log = server.log_text();
    assert!(!log.contains(r#""level":"error""#) && !log.contains("actix_server"), "no client fills the log: {log}");
}

#[test]
fn a_head_that_does_not_come_is_answered_with_the_envelope() {
    let server = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SERVER__HEAD_TIMEOUT", "200ms").start();
    for begun in ["", "GET /events HTTP/1.1\r\nHost"] {
        let mut connection = Connection::open(server.addr()).expect("a connection");
        connection.send_raw(begun.as_bytes()).expect("sent");
        assert_eq!(connection.receive(false).expect("an answer").error(408)["code"], "request_timeout", "{begun}");
    }
}

#[test]
fn what_the_library_is_too_strict_for_is_accepted() {
    let server = Server::start(Backend::Sqlite);
    server.publish("user.created", json!(1));
    let mut connection = Connection::open(server.addr()).expect("a connection");
    let event = json!({"event_name": "user.renamed", "payload": "GET /> HTTP/1.0"}).to_string();
    let chunked = format!("{:x}\r\n{event}\r\n0\r\n\r\n", event.len());
    let publish = server.request("POST", "/publish").header("Transfer-Encoding", "chunked").body(chunked);
    // On one connection, whatever came before.
    for n in 1..4 {
        let list = server.request("GET", "/events?event_name=user.>&limit=1000");
        let page = connection.send(&list).expect("an answer on the same connection").data();
        assert_eq!(page.as_array().map(Vec::len), Some(n));
        connection.send(&publish).expect("an answer on the same connection").data();
    }
    let mut stream = EventStream::open(server.addr(), "/events/stream?event_name=user.>&after=0", &[]);
    assert_eq!(stream.event(), (1, "user.created".to_owned(), json!(1)));

    // A name may be any text; and an end of line may lack its carriage return.
    server.publish("größe", json!(1));
    let mut connection = Connection::open(server.addr()).expect("a connection");
    connection.send_raw("GET /events?event_name=größe HTTP/1.1\r\nHost: localhost\r\n\r\n".as_bytes()).expect("sent");
    assert_eq!(connection.receive(false).expect("an answer").data()[0]["event_name"], "größe");
    let mut connection = Connection::open(server.addr()).expect("a connection");
    connection.send_raw(b"GET /health HTTP/1.1\nHost: localhost\n\n").expect("sent");
    assert_eq!(connection.receive(false).expect("an answer").status, 200);

    let posts = [("/publish", 400), ("/nowhere", 404), ("/events", 405)];
    for (path, status) in posts {
        let mut connection = Connection::open(server.addr()).expect("a connection");
        connection.send_raw(format!("POST {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).expect("sent");
        assert_eq!(connection.receive(false).expect("an answer").status, status, "{path}");
    }
}

#[test]
fn bad_input_leaves_the_connection_usable() {
    let server = Server::start(Backend::Sqlite);
    let mut connection = Connection::open(server.addr()).expect("a connection");
    let mut send = |request: &Request| connection.send(request).expect("an answer on the same connection");
    assert_eq!(send(&server.request("POST", "/publish").json("{")).status, 400);
    assert_eq!(send(&server.request("POST", "/publish").json(json!({"event_name": ""}))).status, 422);
    assert_eq!(send(&server.request("GET", "/nowhere")).status, 404);
    assert_eq!(send(&server.request("PATCH", "/publish").json("{}")).status, 405);
    assert_eq!(send(&server.request("POST", "/publish").json(json!({"event_name": "a"}))).status, 200);
}

fn assert_names_all(body: &Value, names: &[&str]) {
    let text = body.to_string();
    for name in names {
        assert!(text.contains(name), "{name} is not named in {text}");
    }
}
