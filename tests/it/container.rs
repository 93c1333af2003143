//! The image and the composition of containers, as far as they can be tried without an engine.

use std::process::Output;

use serde_json::json;

use crate::support::Server;
use crate::support::server::Builder;

const DOCKERFILE: &str = include_str!("../../Dockerfile");
const COMPOSE: &str = include_str!("../../deploy/compose.yaml");
const CONFIGURATION: &str = include_str!("../../deploy/event-handler.toml");

/// The variables of the image, by name.
fn variables() -> Vec<(&'static str, &'static str)> {
    let (_, rest) = DOCKERFILE.split_once("\nENV ").expect("an instruction ENV");
    let mut lines = Vec::new();
    for line in rest.lines() {
        lines.push(line.trim().trim_end_matches(" \\"));
        if !line.ends_with('\\') {
            break;
        }
    }
    lines.iter().map(|line| line.split_once('=').expect("NAME=VALUE")).collect()
}

/// What runs in the image; its folders are that of the test.
fn image() -> Builder {
    let builder = Server::builder();
    let dir = builder.dir().display().to_string();
    let here = |value: &str| value.replace("/etc/event-handler", &dir).replace("/data", &dir);
    let builder = variables().into_iter().fold(builder, |builder, (name, value)| builder.env(name, here(value)));
    builder.env("PORT", 0)
}

fn run(server: &Server, args: &[&str]) -> Output {
    let builder = server.spec().env("PORT", server.addr().port());
    args.iter().fold(builder, |builder, arg| builder.arg(arg)).run()
}

#[test]
fn the_image_takes_a_configuration_and_tells_how_to_reach_admin() {
    let server = image().file("event-handler.toml", "[publish]\nmax_batch = 1\n").start();
    let batch = json!([{"event_name": "a"}, {"event_name": "b"}]);
    server.post("/publish/batch", batch).error(422);
    let line = server.wait_for_log(|line| line["file"].is_string());
    assert!(line["file"].as_str().is_some_and(|file| file.ends_with("/admin.token")), "{line}");
    server.get("/admin/actors").data();
    assert!(run(&server, &["services"]).status.success(), "a command in the container finds the token");
}

#[test]
fn the_check_of_the_image_is_for_liveness_and_that_of_compose_for_readiness() {
    assert!(DOCKERFILE.contains("\nHEALTHCHECK ") && DOCKERFILE.contains(r#" CMD ["event-handler", "health"]"#));
    assert!(COMPOSE.contains(r#"test: ["CMD", "event-handler", "health", "--ready"]"#));
    let server = image().file("event-handler.toml", "").start();
    assert!(run(&server, &["health"]).status.success() && run(&server, &["health", "--ready"]).status.success());
    server.post("/admin/drain", "").data();
    assert!(run(&server, &["health"]).status.success() && !run(&server, &["health", "--ready"]).status.success());
}

#[test]
fn compose_is_reached_from_this_machine_alone_and_takes_a_token_and_a_configuration() {
    let (_, mounted) = variables().into_iter().find(|(name, _)| *name == "EVENT_HANDLER_CONFIG").expect("it is set");
    for part in [
        r#""${LISTEN:-127.0.0.1}:4300:4300""#,
        r#"user: "10001:10001""#,
        "ADMIN_TOKEN: ${ADMIN_TOKEN:-}",
        "source: ${CONFIG:-./event-handler.toml}",
        &format!("target: {mounted}\n"),
    ] {
        assert!(COMPOSE.contains(part), "{part} is not in deploy/compose.yaml");
    }
    assert!(DOCKERFILE.contains("\nUSER 10001:10001\n"));
    assert!(!COMPOSE.to_lowercase().contains("redis"), "it is not used");
    let check = image().file("event-handler.toml", CONFIGURATION).env("ADMIN_TOKEN", "").arg("check-config").run();
    assert!(check.status.success(), "{check:?}");
}
