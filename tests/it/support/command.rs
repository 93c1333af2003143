//! Commands as child processes.

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use super::server::Builder;
use super::{Backend, Server};

/// A server with `count` events named `a`.
pub fn stocked(count: usize) -> Server {
    let server = Server::start(Backend::Sqlite);
    let items: Vec<Value> = (1..=count).map(|n| json!({"event_name": "a", "payload": n})).collect();
    server.post("/publish/batch", Value::from(items)).data();
    server
}

/// Runs a command with this on its standard input.
pub fn piped_into(spec: &Builder, text: &str) -> Output {
    let mut command = spec.command();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program can be started");
    // Who does not read it closes it.
    let _ = child.stdin.take().expect("piped").write_all(text.as_bytes());
    child.wait_with_output().expect("an end")
}

/// The program with arguments.
pub fn with(builder: Builder, args: &[&str]) -> Builder {
    args.iter().fold(builder, |builder, arg| builder.arg(arg))
}

/// A command for `server`, which its configuration names.
pub fn at(server: &Server, args: &[&str]) -> Builder {
    with(server.spec().env("PORT", server.addr().port()), args)
}

/// Runs a command against `server`.
pub fn command(server: &Server, args: &[&str]) -> Output {
    at(server, args).run()
}

/// Runs a command that must succeed.
pub fn run(server: &Server, args: &[&str]) -> Output {
    let output = command(server, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    output
}

pub fn text(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

pub fn errors(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

/// The ids at the beginning of the lines.
pub fn ids(output: &Output) -> Vec<i64> {
    let id = |line: &str| match serde_json::from_str::<Value>(line) {
        Ok(Value::Object(event)) => event["id"].as_i64(),
        _ => line.split(' ').next().and_then(|id| id.parse().ok()),
    };
    text(output).lines().filter_map(id).collect()
}
