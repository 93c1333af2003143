//! A system that is degraded, by itself: while a critical service or the store is in trouble.

use serde_json::json;

use crate::support::postgres::Postgres;
use crate::support::{Answer, Backend, Server, Service, eventually, for_each_backend};
use crate::system::{put, state, steps, taken, wait_for_state, with};

#[test]
fn the_system_is_degraded_while_a_critical_service_is_away() {
    for_each_backend(|backend| {
        let (critical, other) = (Service::start(), Service::start());
        let builder = critical.configure(Server::builder().backend(backend), "billing", &critical_options());
        let server = with(builder, &[("other", &other)]).start();
        critical.answer(500);
        let id = server.publish("order.paid", json!({}));
        let seen = wait_for_state(&server, "degraded");
        assert!(seen["reason"].as_str().is_some_and(|reason| reason.contains("billing")), "{seen}");
        eventually("it is told", || (steps(&server) == ["changed running degraded"]).then_some(()));
        assert_eq!(server.get("/health/ready").json()["checks"]["system"]["state"], "degraded");
        critical.answer(200);
        critical.wait_for_accepted(&[id]);
        wait_for_state(&server, "running");
        let both = ["changed running degraded", "changed degraded running"];
        eventually("it is told", || (steps(&server) == both).then_some(()));
        assert_eq!(taken(&other), [] as [&str; 0], "it is in no barrier");
    });
}

#[test]
fn both_nodes_are_degraded_and_it_is_told_once() {
    let critical = Service::answering(|_| Answer::Status(500));
    let url = Postgres::shared().url();
    let nodes = ["one", "two"].map(|name| {
        let builder = Server::builder().env("DATABASE_URL", &url).env("EVENT_HANDLER__NODE__NAME", name);
        critical.configure(builder.operated("the operator's token"), "billing", &critical_options()).start()
    });
    let id = nodes[0].publish("order.paid", json!({}));
    nodes.iter().for_each(|node| drop(wait_for_state(node, "degraded")));
    eventually("it is told", || (steps(&nodes[1]) == ["changed running degraded"]).then_some(()));
    // A change that is put ends it first.
    put(&nodes[1], json!({"state": "maintenance"}));
    nodes.iter().for_each(|node| drop(wait_for_state(node, "maintenance")));
    put(&nodes[0], json!({"state": "running"}));
    nodes.iter().for_each(|node| drop(wait_for_state(node, "degraded")));
    // What is over before it was told is not told.
    eventually("it is told again", || (steps(&nodes[1]).len() == 7).then_some(()));
    critical.answer(200);
    critical.wait_for_accepted(&[id]);
    nodes.iter().for_each(|node| drop(wait_for_state(node, "running")));
    let told = [
        "changed running degraded",
        "changed degraded running",
        "changing running maintenance",
        "changed running maintenance",
        "changing maintenance running",
        "changed maintenance running",
        "changed running degraded",
        "changed degraded running",
    ];
    eventually("each is told once", || (steps(&nodes[1]) == told).then_some(()));
}

#[test]
fn store_trouble_is_told_when_it_is_over() {
    let server = Server::start(Backend::Sqlite);
    let away = server.dir().join("away");
    std::fs::create_dir(&away).expect("a folder");
    let names = ["events.db", "events.db-wal", "events.db-shm"];
    let shift = |from: &std::path::Path, to: &std::path::Path| {
        for name in names {
            std::fs::rename(from.join(name), to.join(name)).expect("a file");
        }
    };
    shift(&server.dir(), &away);
    let seen = eventually("it is degraded", || Some(state(&server)).filter(|seen| seen["state"] == "degraded"));
    assert!(seen["reason"].as_str().is_some_and(|reason| reason.contains("store")), "{seen}");
    shift(&away, &server.dir());
    eventually("it is running", || (state(&server)["state"] == "running").then_some(()));
    let both = ["changed running degraded", "changed degraded running"];
    eventually("both are told", || (steps(&server) == both).then_some(()));
}

/// Its breaker opens soon, and closes soon after it is well.
fn critical_options() -> Vec<(&'static str, &'static str)> {
    vec![
        ("critical", "true"),
        ("routes", "order.>"),
        ("breaker_consecutive", "2"),
        ("breaker_open_for", "200ms"),
        ("breaker_open_cap", "200ms"),
        ("max_attempts", "1000"),
        ("retry_base", "20ms"),
        ("retry_cap", "50ms"),
    ]
}
