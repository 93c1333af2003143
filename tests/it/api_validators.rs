//! The documents before the validators that others have written, and the server before what one of them makes of its
//! document. `tests/run` installs them.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::event_types::accept;
use crate::support::http::Response;
use crate::support::program::root;
use crate::support::{Backend, Server};

const DRAFT_07: &str = "http://json-schema.org/draft-07/schema#";

fn installed() -> PathBuf {
    root().join("target/validators")
}

/// A command that finds the packages.
fn node(script: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(root().join(script)).env("NODE_PATH", installed().join("node_modules"));
    command
}

fn succeeds(mut command: Command) -> String {
    let output = command.output().expect("the validator can be started");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{said}");
    said
}

fn saved(folder: &TempDir, name: &str, answer: &Response) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, &answer.body).expect("a writable folder");
    path
}

#[test]
fn the_documents_pass_their_validators() {
    let (types, folder) = (root().join("config/examples/event-types"), TempDir::new().expect("a folder"));
    let server = Server::builder().env("EVENT_HANDLER__CATALOGUE__DIR", types.display()).start();
    for (name, schema) in [
        ("lot:*", json!({"items": {"$ref": "#/$defs/lot"}, "$defs": {"lot": {"type": "integer"}}})),
        (
            "old.>",
            json!({"$schema": DRAFT_07, "properties": {"a": {"$ref": "#/definitions/a"}}, "definitions": {"a": {"minimum": 1}}}),
        ),
        ("any.payload", json!(true)),
    ] {
        accept(&server, name, json!({"schema": schema}));
    }
    let openapi = saved(&folder, "openapi.json", &server.get("/openapi.json"));
    let asyncapi = saved(&folder, "asyncapi.json", &server.get("/asyncapi.json"));
    let rules = root().join("tests/validators");

    let mut redocly = node("target/validators/node_modules/@redocly/cli/bin/cli.js");
    redocly.arg("lint").arg(&openapi).arg("--config").arg(rules.join("redocly.yaml")).env("REDOCLY_TELEMETRY", "off");
    let said = succeeds(redocly);
    assert!(said.contains("is valid") && !said.contains("You have "), "{said}");

    let mut spectral = node("target/validators/node_modules/@stoplight/spectral-cli/dist/index.js");
    spectral.args(["lint", "--fail-severity=warn", "--ruleset"]).arg(rules.join("spectral.yaml"));
    succeeds({
        spectral.args([&openapi, &asyncapi]);
        spectral
    });

    let mut parser = node("tests/validators/parse.cjs");
    parser.arg(&asyncapi);
    let said = succeeds(parser);
    assert!(said.contains("asyncapi.json: ") && !said.contains("no messages"), "{said}");
}

/// Requests that somebody makes who has read nothing but the document, most of them wrong in some way.
#[test]
fn requests_made_of_the_document_are_answered_as_it_says() {
    let server = Server::builder().backend(Backend::Sqlite).operated("token-of-operators").start();
    let folder = TempDir::new().expect("a folder");
    let mut schemathesis = Command::new(installed().join("venv/bin/schemathesis"));
    schemathesis
        .args(["run", &format!("http://{}/openapi.json", server.addr()), "--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", "10", "--seed", "1", "--workers", "2", "--request-timeout", "20"])
        .args(["--continue-on-failure", "--no-color", "--warnings", "off"])
        .args(["--checks", CHECKS])
        .args(["-H", "Authorization: Bearer token-of-operators"])
        // Those after which the server refuses what is well-formed, and answers without an end.
        .args(
            ["drain", "changeSystem", "streamEvents", "followSamples", "connect"]
                .iter()
                .flat_map(|id| ["--exclude-operation-id", id]),
        )
        .current_dir(folder.path());
    succeeds(schemathesis);
    assert_eq!(server.get("/health/ready").status, 200);
}

/// That of the header Allow is not among them: it knows no path that means something else by another method.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,unsupported_method";
