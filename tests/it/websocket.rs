//! `/ws` for clients that ask for nothing more: event frames, and nothing else.

use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::http::Connection;
use crate::support::raw::{CLOSE, FIN, Raw, frame};
use crate::support::server::metric;
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually, for_each_backend};

const FRAME: &str = r#"{"event_name":"user.created","payload":{"user_id":"123","email":"user@example.com"}}"#;

#[test]
fn a_subscriber_gets_verbatim_frames_and_nothing_else() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = server.ws();
        assert_eq!(ws.barrier(), [] as [&str; 0], "no welcome");
        ws.send(r#"{"action":"subscribe","event_name":"user.created"}"#);
        assert_eq!(ws.barrier(), [] as [&str; 0], "no acknowledgement");

        server.publish("user.deleted", json!({}));
        server.post("/publish", FRAME).data();
        server.publish("user.created.late", json!({}));
        server.post("/publish", FRAME).data();
        assert_eq!([ws.recv_text(), ws.recv_text()], [FRAME, FRAME]);
        assert_eq!(ws.barrier(), [] as [&str; 0]);
    });
}

#[test]
fn only_what_is_published_after_the_subscription_comes() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        server.publish("a", json!("before"));
        let mut ws = subscribed(&server, &["a"]);
        server.publish("a", json!("after"));
        assert_eq!(ws.recv_json()["payload"], "after");
    });
}

#[test]
fn unsubscribe_ends_it() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = subscribed(&server, &["a", "mark"]);
        server.publish("a", json!(1));
        assert_eq!(ws.recv_json()["payload"], 1);
        ws.send(r#"{"action":"unsubscribe","event_name":"a"}"#);
        assert_eq!(ws.barrier(), [] as [&str; 0]);
        server.publish("a", json!(2));
        server.publish("mark", json!(3));
        assert_eq!(ws.recv_json(), json!({"event_name": "mark", "payload": 3}));

        ws.send(r#"{"action":"subscribe","event_name":"a"}"#);
        ws.barrier();
        server.publish("a", json!(4));
        assert_eq!(ws.recv_json()["payload"], 4);
    });
}

#[test]
fn a_frame_comes_once_however_often_it_was_subscribed() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = subscribed(&server, &["auction.1.bid", "auction.1.bid", "auction.*.bid", "auction.>", ">"]);
        server.publish("auction.1.bid", json!(1));
        server.publish("mark", json!(2));
        assert_eq!(ws.recv_json()["payload"], 1);
        assert_eq!(ws.recv_json()["payload"], 2);
    });
}

#[test]
fn every_subscriber_gets_every_event_in_order() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut sockets: Vec<Socket> = (0..20).map(|_| subscribed(&server, &["a"])).collect();
        for n in 0..50 {
            server.publish("a", json!(n));
        }
        for ws in &mut sockets {
            let payloads: Vec<Value> = (0..50).map(|_| ws.recv_json()["payload"].take()).collect();
            assert_eq!(payloads, (0..50).map(Value::from).collect::<Vec<_>>());
        }
    });
}

#[test]
fn payloads_are_pushed_as_they_were_sent() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = subscribed(&server, &["exact"]);
        for payload in ["1e400", r#"{"z":1,"a":123456789012345678901234567890}"#, r#""\u00e9\/""#, "null"] {
            let frame = format!(r#"{{"event_name":"exact","payload":{payload}}}"#);
            server.post("/publish", &frame).data();
            assert_eq!(ws.recv_text(), frame);
        }
    });
}

#[test]
fn a_bad_request_gets_one_error_and_the_connection_stays_open() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = server.ws();
        let bad = [
            "nonsense",
            "{",
            "7",
            "[]",
            "{}",
            r#"{"action":"dance"}"#,
            r#"{"action":7}"#,
            r#"{"action":"subscribe"}"#,
            r#"{"action":"subscribe","event_name":7}"#,
            r#"{"action":"subscribe","event_name":""}"#,
            r#"{"action":"subscribe","event_name":"a..b"}"#,
            r#"{"action":"subscribe","event_name":"a.b*"}"#,
            r#"{"action":"subscribe","event_name":">.a"}"#,
            r#"{"action":"subscribe","event_name":"a","nonsense":1}"#,
            r#"{"action":"unsubscribe"}"#,
        ];
        for request in bad {
            ws.send(request);
            let reply = ws.recv_json();
            let keys: Vec<&String> = reply.as_object().expect("an object").keys().collect();
            assert_eq!(keys, ["error", "type"], "{request}: {reply}");
            assert_eq!(reply["type"], "error", "{request}: {reply}");
            assert!(reply["error"]["code"].is_string() && reply["error"]["message"].is_string(), "{reply}");
            assert_eq!(ws.barrier(), [] as [&str; 0], "{request}");
        }
        ws.send(r#"{"action":"subscribe","event_name":"a"}"#);
        ws.barrier();
        server.publish("a", json!({}));
        assert_eq!(ws.recv_text(), r#"{"event_name":"a","payload":{}}"#);
    });
}

#[test]
fn a_message_over_the_limit_is_closed_with_1009() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut ws = server.ws();
        let padded = format!(r#"{{"action":"subscribe","event_name":"a"}}{}"#, " ".repeat(60_000));
        ws.send(&padded);
        assert_eq!(ws.barrier(), [] as [&str; 0]);
        ws.send("x".repeat(64 * 1024 + 1));
        let (close, frames) = ws.recv_close();
        assert_eq!((close.map(|c| u16::from(c.code)), frames.len()), (Some(1009), 0));
        server.publish("a", json!({}));
    });
}

#[test]
fn a_frame_that_declares_gigabytes_costs_no_memory() {
    const LIMIT: u64 = 16 * 1024 * 1024;
    let server = Server::start(Backend::Sqlite);
    let handshake = server
        .request("GET", "/ws")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let mut connection = Connection::open(server.addr()).expect("a connection");
    connection.send_raw(&handshake.encode()).expect("sent");
    assert_eq!(connection.receive_head().expect("an answer").0, 101);

    let before = server.rss();
    let mut frame = vec![0x81, 0xff];
    frame.extend((2_u64 << 30).to_be_bytes());
    frame.extend([0; 4]);
    connection.send_raw(&frame).expect("sent");
    // The server may close before it has taken all of this; that is the point.
    let flood = vec![0; 1024 * 1024];
    let _ = (0..64).try_for_each(|_| connection.send_raw(&flood));
    assert!(server.rss() < before + LIMIT, "{} grew to {} bytes", before, server.rss());
    server.publish("a", json!({}));
}

#[test]
fn a_normal_close_is_answered() {
    let server = Server::start(Backend::Sqlite);
    let mut ws = server.ws();
    ws.send_message(Message::Close(Some(tungstenite::protocol::CloseFrame {
        code: 1000.into(),
        reason: "done".into(),
    })));
    let (close, _) = ws.recv_close();
    assert_eq!(close.map(|c| u16::from(c.code)), Some(1000));
}

#[test]
fn a_close_code_comes_back_if_it_may_be_sent() {
    let server = Server::start(Backend::Sqlite);
    let cases: [(&[u8], u16); 6] = [
        (b"", 1000),
        (b"\x03\xe9away", 1001),
        (b"\x0b\xb8", 3000),
        (b"\x0f\xa7", 4007),
        (b"\x03\xed", 1002),
        (b"x", 1002),
    ];
    for (payload, code) in cases {
        let mut raw = Raw::websocket(server.addr());
        raw.send(&frame(FIN | CLOSE, payload)).expect("an open connection");
        assert_eq!(raw.close_code().ok(), Some(code), "{payload:?}");
    }
    let other = r#"event_handler_closes_total{code="other"}"#;
    eventually("made-up codes are counted as one", || (metric(&server, other) == 2.0).then_some(()));
}

#[test]
fn a_handshake_must_be_that_of_rfc_6455() {
    let server = Server::start(Backend::Sqlite);
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let connect = |version: &str, headers: &[&str]| {
        let head =
            format!("GET /ws HTTP/{version}\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n");
        let mut connection = Connection::open(server.addr()).expect("a connection");
        connection.send_raw(format!("{head}{}\r\n\r\n", headers.join("\r\n")).as_bytes()).expect("sent");
        connection
    };
    assert_eq!(connect("1.1", &["Sec-WebSocket-Version: 13", key]).receive_head().expect("an answer").0, 101);
    for version in ["8", "7", "14", "x"] {
        let mut connection = connect("1.1", &[&format!("Sec-WebSocket-Version: {version}"), key]);
        let response = connection.receive(false).expect("an answer");
        assert_eq!(response.error(426)["code"], "upgrade_required", "{version}");
        assert_eq!(response.header("sec-websocket-version"), Some("13"));
    }
    let bad_requests: [(&str, &[&str]); 9] = [
        ("1.0", &["Sec-WebSocket-Version: 13", key]),
        ("1.1", &[key]),
        ("1.1", &["Sec-WebSocket-Version: 13"]),
        ("1.1", &["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dG9vIHNob3J0"]),
        ("1.1", &["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"]),
        ("1.1", &["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!Q=="]),
        ("1.1", &["Sec-WebSocket-Version: 13", key, key]),
        ("1.1", &["Sec-WebSocket-Version: 13", key, "Content-Length: 4\r\n\r\nbody"]),
        ("1.1", &["Sec-WebSocket-Version: 13", key, "Transfer-Encoding: chunked\r\n\r\n0"]),
    ];
    for (version, headers) in bad_requests {
        let mut connection = connect(version, headers);
        let response = connection.receive(false).unwrap_or_else(|error| panic!("HTTP/{version} {headers:?}: {error}"));
        assert_eq!(response.error(400)["code"], "malformed_request", "HTTP/{version} {headers:?}");
    }
}

#[test]
fn a_request_that_is_no_upgrade_is_refused() {
    let server = Server::start(Backend::Sqlite);
    let response = server.get("/ws");
    assert!(matches!(response.status, 400 | 426), "{}", response.status);
    response.error(response.status);
}

/// A connection whose plain subscriptions are in force.
fn subscribed(server: &Server, patterns: &[&str]) -> Socket {
    let mut ws = server.ws();
    for pattern in patterns {
        ws.send(json!({"action": "subscribe", "event_name": pattern}));
    }
    assert_eq!(ws.barrier(), [] as [&str; 0]);
    ws
}
