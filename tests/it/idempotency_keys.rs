//! Idempotency keys belong to who sends them.

use serde_json::{Value, json};

use crate::support::http::Response;
use crate::support::tokens::bearer;
use crate::support::ws::Socket;
use crate::support::{Server, for_each_backend};

const SCOPES: &str = r#"scopes = { publish = [">"], read = [">"], subscribe = [">"] }"#;
const NARROW: &str = r#"scopes = { publish = ["a.*"] }"#;

/// Path, headers and body of a request.
type Publish<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a Value);

fn publish(server: &Server, path: &str, token: &str, headers: &[(&str, &str)], body: &Value) -> Response {
    let request = server.request("POST", path).header("Authorization", &bearer(token));
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).body(body.to_string()).send()
}

fn is_replay(response: &Response) -> bool {
    assert_eq!(response.status, 200, "{}", response.text());
    response.header("idempotent-replayed") == Some("true")
}

#[test]
fn a_token_neither_occupies_nor_learns_of_anothers_key() {
    for_each_backend(|backend| {
        let server = Server::builder().backend(backend).tokens(&[("wide", SCOPES), ("narrow", NARROW)], "").start();
        let single = json!({"event_name": "a.b", "idempotency_key": "k"});
        let batch =
            json!([{"event_name": "a.b", "idempotency_key": "b"}, {"event_name": "a.b", "idempotency_key": "c"}]);
        let plain = json!([{"event_name": "a.b"}, {"event_name": "a.b"}]);
        let later = json!({"event_name": "a.b", "deliver_at": "2999-01-01T00:00:00Z", "idempotency_key": "s"});
        let cloud = [("ce-specversion", "1.0"), ("ce-type", "a.b"), ("ce-source", "/s"), ("ce-id", "1")];
        let requests: [Publish; 5] = [
            ("/publish", &[], &single),
            ("/publish/batch", &[], &batch),
            ("/publish/batch", &[("Idempotency-Key", "whole")], &plain),
            ("/publish", &[], &later),
            ("/publish", &cloud, &json!({})),
        ];
        for (path, headers, body) in requests {
            let of = |token| publish(&server, path, token, headers, body);
            let (first, other) = (of("narrow"), of("wide"));
            assert!(!is_replay(&first) && !is_replay(&other), "{path} {headers:?} {body}");
            assert!(of("narrow").text() == first.text() && of("wide").text() == other.text(), "{path} {body}");
            let data = |response: &Response| response.data();
            let (first, other) = (data(&first), data(&other));
            assert!(first["schedule_id"].is_null() || first["schedule_id"] != other["schedule_id"], "{first} {other}");
        }
        let occupied =
            publish(&server, "/publish", "narrow", &[], &json!({"event_name": "a.c", "idempotency_key": "k"}));
        assert_eq!(occupied.error(422)["code"], "idempotency_key_reused");
        assert!(!is_replay(&publish(
            &server,
            "/publish",
            "wide",
            &[],
            &json!({"event_name": "c", "idempotency_key": "n"})
        )));
        assert!(!is_replay(&publish(
            &server,
            "/publish",
            "narrow",
            &[],
            &json!({"event_name": "a.c", "idempotency_key": "n"})
        )));

        // The same publisher is the same on every way in.
        let mut ws = Socket::connect(server.addr(), "/ws", &[("Authorization", &bearer("wide"))]).expect("admitted");
        let id = publish(&server, "/publish", "wide", &[], &single).event_id();
        let told = ws.request(json!({"action": "publish", "event_name": "a.b", "idempotency_key": "k", "id": 1}));
        assert_eq!(told["event_id"], id, "{told}");
    });
}

#[test]
fn what_was_published_before_tokens_were_configured_is_not_published_again() {
    for_each_backend(|backend| {
        let mut open = Server::start(backend);
        let body = json!({"event_name": "a.b", "idempotency_key": "k"});
        let id = open.post("/publish", &body).event_id();
        open.terminate();
        let server = open.spec().tokens(&[("wide", SCOPES)], "").start();
        let repeated = publish(&server, "/publish", "wide", &[], &body);
        assert!(is_replay(&repeated) && repeated.event_id() == id);
        let other = publish(&server, "/publish", "wide", &[], &json!({"event_name": "a.c", "idempotency_key": "k"}));
        assert!(!is_replay(&other));
    });
}
