//! Parts that panic: they come back, and nothing acknowledged is lost. Needs the feature `fault-injection`.

use serde_json::{Value, json};

use crate::support::server::wait_for_status;
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually, for_each_backend};

#[test]
fn a_failed_part_comes_back_and_loses_nothing() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        let mut subscriber = Subscriber::new(&server);
        for (round, part) in ["persistence", "router", "shard", "persistence"].into_iter().enumerate() {
            publish(&server);
            server.post(&format!("/admin/fault/{part}"), "").data();
            publish(&server);
            eventually("the restart is reported", || (restarts(&server) == round as u64 + 1).then_some(()));
            let last = publish(&server);
            subscriber.read_until(&server, last);
        }
        let stored: Vec<i64> = server.events("?limit=1000").iter().filter_map(|e| e["id"].as_i64()).collect();
        assert_eq!(subscriber.seen, stored);
        assert_eq!(server.get("/health/ready").status, 200);
        server.wait_for_log(|line| line["level"] == "error" && line.to_string().contains("persistence"));
    });
}

#[test]
fn a_part_that_fails_too_often_ends_the_process() {
    let mut server =
        Server::builder().backend(Backend::Sqlite).env("EVENT_HANDLER__SUPERVISION__MAX_RESTARTS", "1").start();
    server.post("/admin/fault/router", "").data();
    eventually("the restart is reported", || (restarts(&server) == 1).then_some(()));
    wait_for_status(&server, "/health/ready", 200);
    server.post("/admin/fault/router", "").data();
    assert_eq!(server.wait_for_exit().code(), Some(70), "{}", server.log_text());
}

/// Publishes until it is answered with an id; a part that restarts may refuse for a moment.
fn publish(server: &Server) -> i64 {
    eventually("a publish is taken", || {
        let response = server.post("/publish", json!({"event_name": "a"}));
        match response.status {
            200 => Some(response.event_id()),
            _ => {
                response.error(503);
                None
            }
        }
    })
}

/// Restarts of all parts together.
fn restarts(server: &Server) -> u64 {
    fn sum(actor: &Value) -> u64 {
        let below = actor["children"].as_array().into_iter().flatten().map(sum).sum::<u64>();
        actor["restarts"].as_u64().expect("a number") + below
    }
    sum(&server.get("/admin/actors").data())
}

/// Connects again after the last id it saw whenever it is closed.
struct Subscriber {
    socket: Socket,
    seen: Vec<i64>,
}

impl Subscriber {
    fn new(server: &Server) -> Self {
        Self { socket: Self::connect(server, 0), seen: Vec::new() }
    }

    fn connect(server: &Server, after: i64) -> Socket {
        eventually("a connection", || {
            let mut socket = Socket::connect(server.addr(), "/ws", &[]).ok()?;
            socket.request(
                json!({"action": "subscribe", "event_name": "a", "after": after, "envelope": "full", "id": 1}),
            );
            Some(socket)
        })
    }

    fn read_until(&mut self, server: &Server, last: i64) {
        while self.seen.last().is_none_or(|seen| *seen < last) {
            match self.socket.recv(crate::support::PATIENCE) {
                Ok(tungstenite::Message::Text(text)) => {
                    let frame: Value = serde_json::from_str(text.as_str()).expect("JSON");
                    self.seen.push(frame["id"].as_i64().expect("an event"));
                }
                Ok(tungstenite::Message::Close(frame)) => {
                    let code = frame.map(|f| u16::from(f.code));
                    assert!(code.is_some_and(|code| (4100..4300).contains(&code)), "{code:?} invites to reconnect");
                    self.socket = Self::connect(server, self.seen.last().copied().unwrap_or(0));
                }
                other => panic!("neither frame nor close: {other:?}"),
            }
        }
    }
}
