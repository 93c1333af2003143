//! The command line beside `serve`.

use std::process::Output;

use serde_json::json;

use crate::support::{Backend, Server, for_each_backend};

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
    for name in ["serve", "check-config", "migrate", "health"] {
        assert!(text(&output).contains(name), "{name} in {}", text(&output));
    }
    let output = Server::builder().arg("--version").run();
    assert!(text(&output).contains(env!("CARGO_PKG_VERSION")), "{output:?}");
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
