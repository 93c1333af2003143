//! What a running process does when it is sent signals.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::tokens::{bearer, config};
use crate::support::ws::Socket;
use crate::support::{Backend, Server, eventually};

const ALL: &str = r#"scopes = { publish = [">"], subscribe = [">"], read = [">"] }"#;
const LESS: &str = r#"scopes = { subscribe = ["a.*"] }"#;

fn says(server: &Server, words: &str) -> Value {
    server.wait_for_log(|line| line["msg"].as_str().is_some_and(|message| message.contains(words)))
}

fn status(server: &Server, token: &str) -> u16 {
    server.request("GET", "/events").header("Authorization", &bearer(token)).send().status
}

fn connect(server: &Server, token: &str) -> Socket {
    let mut ws = Socket::connect(server.addr(), "/ws", &[("Authorization", &bearer(token))]).expect("admitted");
    ws.request(json!({"action": "subscribe", "event_name": "a.b", "id": 1}));
    ws
}

#[test]
fn hup_has_tokens_and_the_log_level_read_again_and_says_what_was_not() {
    let builder = Server::builder().backend(Backend::Sqlite);
    let server = builder.tokens(&[("kept", ALL), ("less", ALL), ("gone", ALL)], "").start();
    let (mut kept, mut less, mut gone) = (connect(&server, "kept"), connect(&server, "less"), connect(&server, "gone"));
    let more =
        "log.level = \"debug\"\npublish.max_batch = 7\n[[services]]\nname = \"new\"\nurl = \"http://127.0.0.1:1\"";
    let tokens = config(&[("kept", ALL), ("less", LESS), ("new", ALL)]);
    fs::write(server.dir().join("tokens.toml"), format!("{more}\n{tokens}")).expect("written");
    assert_eq!((status(&server, "gone"), status(&server, "new")), (200, 401));

    server.signal(Signal::HUP);
    assert_eq!(says(&server, "read again")["log_level"], "debug");
    assert_eq!(says(&server, "not taken over")["keys"], "publish.max_batch, services.new");
    assert_eq!((status(&server, "kept"), status(&server, "gone"), status(&server, "new")), (200, 401, 200));
    says(&server, "answered");
    for changed in [&mut less, &mut gone] {
        assert_eq!(changed.recv_close().0.map(|close| u16::from(close.code)), Some(4001));
    }
    let body = json!({"event_name": "a.b", "payload": 1});
    server.request("POST", "/publish").header("Authorization", &bearer("new")).json(body).send().data();
    assert_eq!(kept.recv_json()["payload"], 1, "who has the token as it was goes on");
}

#[test]
fn hup_closes_the_door_that_was_open() {
    let server = Server::builder().backend(Backend::Sqlite).tokens(&[], "").start();
    let mut anybody = server.ws();
    anybody.request(json!({"action": "subscribe", "event_name": "a", "id": 1}));
    fs::write(server.dir().join("tokens.toml"), config(&[("all", ALL)])).expect("written");
    server.signal(Signal::HUP);
    says(&server, "read again");
    assert_eq!(anybody.recv_close().0.map(|close| u16::from(close.code)), Some(4001));
    server.get("/events").error(401);
    eventually("the token is admitted", || (status(&server, "all") == 200).then_some(()));
}

#[test]
fn a_mistake_in_what_hup_has_read_changes_nothing() {
    let server = Server::builder().backend(Backend::Sqlite).tokens(&[("all", ALL)], "").start();
    for mistake in ["[acces]\n", "[access.jwt]\njwks_file = \"none.json\"\n", "[admin]\ntoken = \"abc\"\n"] {
        fs::write(server.dir().join("tokens.toml"), mistake).expect("written");
        let told = server.log_text().matches("the old one stays").count();
        server.signal(Signal::HUP);
        eventually("it says so", || (server.log_text().matches("the old one stays").count() > told).then_some(()));
        assert_eq!(status(&server, "all"), 200);
    }
}

#[test]
fn hup_has_the_files_for_tls_read_again() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
    let server = Server::builder()
        .backend(Backend::Sqlite)
        .file("ca.pem", &certificate.pem())
        .env("EVENT_HANDLER__SERVICES__BILLING__URL", "https://127.0.0.1:1")
        .env("EVENT_HANDLER__SERVICES__BILLING__TLS_CA_FILE", "ca.pem")
        .start();
    server.signal(Signal::HUP);
    assert!(says(&server, "tls files").is_object());
    fs::write(server.dir().join("ca.pem"), "no certificate").expect("written");
    server.signal(Signal::HUP);
    let error = says(&server, "the old one stays");
    assert!(
        error["error"].as_str().is_some_and(|text| text.contains("tls_ca_file") && text.contains("ca.pem")),
        "{error}"
    );
}

#[test]
fn hup_has_the_admin_token_read_again() {
    let server = Server::builder().backend(Backend::Sqlite).file("secret", "the first admin token");
    let server = server.env("EVENT_HANDLER__ADMIN__TOKEN_FILE", "secret").start();
    let status = |token: &str| {
        server.request("GET", "/admin/actors").header("Authorization", &format!("Bearer {token}")).send().status
    };
    assert_eq!((status("the first admin token"), status("the second admin token")), (200, 401));
    fs::write(server.dir().join("secret"), "the second admin token").expect("written");
    server.signal(Signal::HUP);
    says(&server, "read again");
    assert_eq!((status("the first admin token"), status("the second admin token")), (401, 200));
}

#[test]
fn usr1_and_usr2_are_ignored() {
    let mut server = Server::start(Backend::Sqlite);
    for signal in [Signal::USR1, Signal::USR2, Signal::USR1] {
        server.signal(signal);
        server.publish("still.here", json!({}));
    }
    assert!(server.terminate().success());
}

#[test]
fn quit_drains_as_term_does() {
    let mut server = Server::start(Backend::Sqlite);
    let mut ws = server.ws();
    ws.request(json!({"action": "subscribe", "event_name": "a", "id": 1}));
    server.signal(Signal::QUIT);
    assert_eq!(ws.recv_close().0.map(|close| u16::from(close.code)), Some(4200));
    assert!(server.wait_for_exit().success());
    says(&server, "stopped");
}
