//! From start to SIGTERM.

use std::net::TcpListener;

use rustix::process::{Pid, Signal};
use serde_json::json;

use crate::support::server::{wait_for_exit, wait_for_status};
use crate::support::{Answer, Backend, Server, Service, eventually, for_each_backend};

#[test]
fn sigterm_closes_subscribers_with_4200_and_exits_0() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let mut sockets: Vec<_> = (0..5).map(|_| server.ws()).collect();
        for ws in &mut sockets {
            ws.request(json!({"action": "subscribe", "event_name": "a", "id": 1}));
        }
        let id = server.publish("a", json!("last"));
        server.signal_terminate();
        for ws in &mut sockets {
            let (close, frames) = ws.recv_close();
            assert_eq!(close.map(|c| u16::from(c.code)), Some(4200));
            assert_eq!(frames[0], r#"{"event_name":"a","payload":"last"}"#);
            let advice: serde_json::Value = serde_json::from_str(&frames[1]).expect("JSON");
            assert_eq!((&advice["type"], &advice["code"]), (&json!("disconnect"), &json!(4200)), "{advice}");
            assert_eq!(frames.len(), 2);
        }
        let status = server.wait_for_exit();
        assert_eq!(status.code(), Some(0), "{}", server.log_text());

        server.restart();
        assert_eq!(server.events("")[0]["id"], id);
    });
}

#[test]
fn a_drained_server_is_alive_but_not_ready() {
    let server = Server::start(Backend::Sqlite);
    let mut ws = server.ws();
    wait_for_status(&server, "/health/ready", 200);
    server.post("/admin/drain", "").data();
    let (close, _) = ws.recv_close();
    assert_eq!(close.map(|c| u16::from(c.code)), Some(4200));
    wait_for_status(&server, "/health/ready", 503).json();
    assert_eq!(server.get("/health").text(), r#"{"status":"ok"}"#);
}

#[test]
fn a_server_that_shuts_down_is_not_ready() {
    // A delivery that is under way is waited for.
    let service = Service::answering(|_| Answer::Hang);
    let server = service.configure(Server::builder(), "billing", &[]).start();
    server.publish("a", json!({}));
    service.wait_for(1);
    // A connection of its own for each: the server closes those that it has while it shuts down.
    let ready = || server.request("GET", "/health/ready").send();
    wait_for_status(&server, "/health/ready", 200);
    server.signal_terminate();
    let response = eventually("not ready", || Some(ready()).filter(|response| response.status == 503));
    assert!(response.header("retry-after").is_some(), "{response:?}");
}

#[test]
fn sigterm_is_heeded_from_the_first_moment() {
    for _ in 0..10 {
        let mut server = Server::start(Backend::Sqlite);
        assert_eq!(server.terminate().code(), Some(0), "{}", server.log_text());
    }
}

#[test]
fn start_and_end_are_logged() {
    for_each_backend(|backend| {
        let mut server = Server::start(backend);
        let line = server.wait_for_log(|line| line["msg"] == "listening");
        assert_eq!(line["addr"], server.addr().to_string());
        assert!(server.terminate().success());
        for line in server.log_text().lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("every line is JSON");
            assert!(line["level"].is_string() && line["msg"].is_string(), "{line}");
        }
    });
}

#[test]
fn a_quiet_log_changes_nothing() {
    let free_port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let spec = || Server::builder().backend(Backend::Sqlite).env("PORT", free_port).env("RUST_LOG", "off");
    let server = spec();
    let mut child = server.command().spawn().expect("started");
    eventually("an answer", || spec().arg("health").run().status.success().then_some(()));
    rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).expect("signalled");
    let status = wait_for_exit(&mut child).expect("ended");
    assert_eq!(status.code(), Some(0));
}
