//! Nodes that go and come: subscribers are told, move, and miss nothing.

use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::postgres::Postgres;
use crate::support::server::{metric, wait_for_status};
use crate::support::sse::EventStream;
use crate::support::ws::Socket;
use crate::support::{Answer, Backend, PATIENCE, Server, Service, eventually};

#[test]
fn only_who_asked_for_more_is_told_when_to_come_back() {
    let server = Server::start(Backend::Sqlite);
    let mut plain = server.ws();
    plain.send(json!({"action": "subscribe", "event_name": "a"}));
    assert_eq!(plain.barrier(), [] as [&str; 0]);
    let mut asking = [
        json!({"action": "subscribe", "event_name": "a", "id": 1}),
        json!({"action": "subscribe", "event_name": "a", "envelope": "full"}),
        json!({"action": "subscribe", "event_name": "a", "after": 0}),
    ]
    .map(|request| {
        let mut ws = server.ws();
        ws.send(request);
        ws.barrier();
        ws
    });
    let mut stream = server.stream("", &[]);
    let answer = server.post("/admin/drain", "").data();
    assert_eq!((&answer["draining"], &answer["sessions"]), (&json!(true), &json!(5)));
    assert_eq!(plain.recv_close().1, [] as [&str; 0]);
    for ws in &mut asking {
        let (close, frames) = ws.recv_close();
        assert_eq!(close.map(|close| u16::from(close.code)), Some(4200));
        let advice: Value = serde_json::from_str(&frames[0]).expect("JSON");
        let after_ms = advice["after_ms"].as_u64().expect("a number");
        assert!((100..=1000).contains(&after_ms), "{advice}");
        assert_eq!(advice, json!({"type": "disconnect", "code": 4200, "reconnect": true, "after_ms": after_ms}));
        assert_eq!(frames.len(), 1);
    }
    while stream.next_block().is_some() {}
    assert!(stream.retry.is_some_and(|retry| (100..=1000).contains(&retry)), "{:?}", stream.retry);
    eventually("all are counted", || {
        (metric(&server, r#"event_handler_closes_total{code="4200"}"#) == 5.0).then_some(())
    });
}

/// They would be cut off with the process, and be made again by the next one.
#[test]
fn no_delivery_begins_while_subscribers_leave() {
    let service = Service::answering(|_| Answer::Hang);
    let server = crate::services::start(Backend::Sqlite, &service, &[]);
    // It leaves the close frame unanswered: the process waits for it a while.
    let _silent = server.ws();
    for _ in 0..60 {
        server.publish("a", json!({}));
    }
    let in_flight = || crate::services::told(&server)["in_flight"].as_u64().expect("a number") as usize;
    let begun = eventually("as many as may be are in flight", || Some(in_flight()).filter(|count| *count >= 10));
    eventually("they have come", || (service.deliveries().len() >= begun).then_some(()));
    let before = service.deliveries().len();
    server.signal_terminate();
    eventually("nothing is sent any more", || {
        (crate::services::told(&server)["waits_for"] == "draining").then_some(())
    });
    assert_eq!(metric(&server, "event_handler_sessions "), 1.0, "it is still here");
    service.behave(|_| Answer::Status(200));
    let mut server = server;
    assert_eq!(server.wait_for_exit().code(), Some(0), "{}", server.log_text());
    assert_eq!(service.deliveries().len(), before);
    assert!(!server.log_text().contains("actor failed"), "{}", server.log_text());
}

/// The restart of the client is due while the process waits for a subscriber that leaves its close frame unanswered.
#[test]
fn no_client_is_restarted_while_subscribers_leave() {
    let service = Service::answering(|_| Answer::Status(200));
    let builder = Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SUPERVISION__BACKOFF", "500ms");
    let mut server = service.configure(builder, "billing", &[]).start();
    let _silent = server.ws();
    server.post("/admin/fault/client", "").data();
    server.wait_for_log(|line| line["msg"] == "actor failed, restarting");
    server.publish("a", json!({}));
    server.signal_terminate();
    assert_eq!(server.wait_for_exit().code(), Some(0), "{}", server.log_text());
    assert!(!server.log_text().contains("actor restarted"), "{}", server.log_text());
    assert_eq!(service.deliveries().len(), 0);
}

#[test]
fn a_drain_can_be_taken_back() {
    let server = Server::start(Backend::Sqlite);
    server.post("/admin/drain", "").data();
    wait_for_status(&server, "/health/ready", 503);
    for refused in [server.get("/events/stream"), server.post("/publish", json!({"event_name": "a"}))] {
        assert!(refused.header("retry-after").is_some());
        assert_eq!(refused.error(503)["code"], "draining");
    }
    assert_eq!(Socket::connect(server.addr(), "/ws", &[]).err().map(|refused| refused.status), Some(503));
    server.request("DELETE", "/admin/drain").send().data();
    wait_for_status(&server, "/health/ready", 200);
    let mut stream = server.stream("", &[]);
    let id = server.publish("a", json!(1));
    assert_eq!(stream.event().0, id);
}

/// Follows one connection to a node from `after` on; true when it has seen the last event.
type Follow = fn(SocketAddr, i64, &mut Vec<i64>) -> bool;

/// What a client that resumes has seen at the end; it prefers the first of the nodes that takes it.
fn follow(nodes: [SocketAddr; 2], kind: Follow) -> Vec<i64> {
    let mut seen: Vec<i64> = Vec::new();
    let deadline = Instant::now() + 3 * PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "only {} events came", seen.len());
        for node in nodes {
            let after = seen.last().copied().unwrap_or(0);
            if kind(node, after, &mut seen) {
                return seen;
            }
        }
    }
}

fn follow_stream(node: SocketAddr, after: i64, seen: &mut Vec<i64>) -> bool {
    let resume = format!("Last-Event-ID: {after}");
    let Ok(mut stream) = EventStream::request(node, "HTTP/1.1", "/events/stream?event_name=a", &[&resume]) else {
        return false;
    };
    while stream.status == 200
        && let Some((id, name, data)) = stream.try_event()
    {
        assert_eq!(name, "a");
        seen.push(id);
        if data == "last" {
            return true;
        }
    }
    false
}

fn follow_socket(node: SocketAddr, after: i64, seen: &mut Vec<i64>) -> bool {
    let Ok(mut socket) = Socket::try_connect(node, "/ws", &[]) else { return false };
    let request = json!({"action": "subscribe", "event_name": "a", "after": after, "envelope": "full"});
    if socket.try_send(request).is_err() {
        return false;
    }
    while let Ok(Message::Text(text)) = socket.recv(PATIENCE) {
        let frame: Value = serde_json::from_str(&text).expect("JSON");
        if frame["type"] == "event" {
            seen.push(frame["id"].as_i64().expect("an id"));
            if frame["payload"] == "last" {
                return true;
            }
        }
    }
    false
}

#[test]
fn nothing_is_missed_over_a_rolling_restart() {
    let url = Postgres::shared().url();
    let start = || Server::builder().env("DATABASE_URL", &url).start();
    let (mut first, second) = (start(), start());
    let nodes = [first.addr(), second.addr()];
    let kinds: [Follow; 2] = [follow_stream, follow_socket];
    let followers: Vec<_> = (0..10).map(|n| thread::spawn(move || follow(nodes, kinds[n % 2]))).collect();
    let sessions = |server: &Server| metric(server, "event_handler_sessions");
    eventually("all are at the first node", || (sessions(&first) == 10.0).then_some(()));
    let publish = |payload: Value| second.publish("a", payload);
    let mut published: Vec<i64> = (0..300).map(|n| publish(json!(n))).collect();
    first.post("/admin/drain", "").data();
    while sessions(&second) < 10.0 {
        published.push(publish(json!("moving")));
    }
    assert!(first.terminate().success());
    published.extend((0..300).map(|n| publish(json!(n))));
    published.push(publish(json!("last")));
    for follower in followers {
        assert_eq!(follower.join().expect("a follower"), published);
    }
}
