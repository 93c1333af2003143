//! The command line beside `serve`.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::{Backend, Server, for_each_backend};

#[test]
fn publish_and_events_talk_to_a_running_server() {
    for_each_backend(|backend| {
        let server = Server::start(backend);
        run(&server, &["publish", "user.created", r#"{"user_id":"123"}"#]);
        let stored = server.events("");
        assert_eq!((stored.len(), &stored[0]["payload"]), (1, &json!({"user_id": "123"})));
        let printed = run(&server, &["events", "--event-name", "user.created"]);
        assert!(text(&printed).contains("user.created"), "{}", text(&printed));
    });
}

#[test]
fn publish_fails_with_the_servers_reason() {
    let server = Server::start(Backend::Sqlite);
    let output = command(&server, &["publish", "a..b", "{}"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("segment"), "{output:?}");
}

#[test]
fn health_tells_by_its_exit_code() {
    let mut server = Server::start(Backend::Sqlite);
    run(&server, &["health"]);
    server.kill9();
    assert!(!command(&server, &["health"]).status.success());
}

#[test]
fn migrate_prepares_the_database_and_ends() {
    for_each_backend(|backend| {
        let builder = Server::builder().backend(backend);
        for _ in 0..2 {
            let output = builder.clone().arg("migrate").run();
            assert!(output.status.success(), "{output:?}");
        }
        let server = builder.start();
        server.publish("a", json!({}));
    });
}

#[test]
fn unknown_commands_are_refused_with_help() {
    let output = Server::builder().arg("dance").run();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--help"), "{output:?}");
    let output = Server::builder().arg("--help").run();
    assert!(output.status.success());
    for name in ["serve", "publish", "tail", "events", "check-config", "migrate", "health"] {
        assert!(text(&output).contains(name), "{name} in {}", text(&output));
    }
    let output = Server::builder().arg("--version").run();
    assert!(text(&output).contains(env!("CARGO_PKG_VERSION")), "{output:?}");
}

#[test]
fn events_can_be_printed_as_json() {
    let server = Server::start(Backend::Sqlite);
    server.publish("a", json!({"n": 1}));
    let printed = run(&server, &["events", "--json"]);
    let first = text(&printed).lines().next().expect("a line").to_owned();
    let event: Value = serde_json::from_str(&first).expect("one event a line");
    assert_eq!((&event["id"], &event["payload"]), (&json!(1), &json!({"n": 1})));
}

/// Runs a command against `server`.
fn command(server: &Server, args: &[&str]) -> Output {
    let builder = server.spec().env("PORT", server.addr().port());
    args.iter().fold(builder, |builder, arg| builder.arg(arg)).run()
}

/// Runs a command that must succeed.
fn run(server: &Server, args: &[&str]) -> Output {
    let output = command(server, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    output
}

fn text(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}
