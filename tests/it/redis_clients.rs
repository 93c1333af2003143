//! Clients of Redis that nobody here wrote, as the services of the auction system use them: node-redis 4 under a class
//! of theirs, ioredis, and redis-py. What they publish becomes events, what is published here they receive, and they
//! read the lists.

use crate::python::python;
use crate::redis_pubsub_out::{sending, wait_until_held};
use crate::support::program::{node_with_clients, root};
use crate::support::{Answer, Backend, Redis, Server, Service};

/// An Event Handler that sends and hears, with a service that rejects everything.
fn start(redis: &Redis, rejects: &Service) -> Server {
    let builder = sending(redis, Backend::Sqlite)
        .env("EVENT_HANDLER__REDIS__PUBSUB__IN", "true")
        .env("EVENT_HANDLER__REDIS__PUBSUB__SOURCES", r#"{ api = "EVENT_HANDLER" }"#);
    let server = rejects.configure(builder, "billing", &[("routes", "payment:failed")]).start();
    ["pubsub_in", "pubsub_out"].iter().for_each(|part| wait_until_held(&server, part));
    server
}

fn serves(run: impl Fn(&str, &str) -> String) {
    let (redis, rejects) = (Redis::start(), Service::answering(|_| Answer::Status(400)));
    let server = start(&redis, &rejects);
    let text = run(&redis.url(), &server.addr().to_string());
    assert!(text.ends_with("all clients served\n"), "{text}");
}

fn node_serves(client: &str) {
    serves(|redis, server| {
        let mut node = node_with_clients();
        node.arg(root().join("tests/node/redis_clients.cjs")).args([client, redis, server]);
        let output = node.output().expect("Node can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
}

#[test]
fn the_shared_client_over_node_redis_works_unchanged() {
    node_serves("shared_client.cjs");
}

#[test]
fn ioredis_publishes_and_receives() {
    node_serves("ioredis_client.cjs");
}

#[test]
fn redis_py_publishes_and_receives() {
    serves(|redis, server| python("redis_clients.py", &[redis, server], ""));
}
