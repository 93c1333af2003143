//! Two nodes on one PostgreSQL and one Redis: one reads the stream at a time.

use rustix::process::Signal;
use serde_json::Value;

use crate::redis_ingest::{IN, payloads, reading};
use crate::support::postgres::Postgres;
use crate::support::{Backend, Redis, Server, eventually};

fn start_two(redis: &Redis) -> [Server; 2] {
    let url = Postgres::shared().url();
    ["one", "two"].map(|name| {
        let node = reading(redis, Backend::Sqlite).env("DATABASE_URL", &url);
        // What was stored and not acknowledged by a node that is gone is in its hands for so long.
        node.env("EVENT_HANDLER__NODE__NAME", name).env("EVENT_HANDLER__REDIS__INGEST__CLAIM_AFTER", "1s").start()
    })
}

/// The names of the nodes that have the lease, as this node knows them.
fn holders(node: &Server) -> Vec<String> {
    let nodes = node.get("/admin/nodes").data();
    let holds = |node: &&Value| node["holds"].as_array().is_some_and(|held| held.iter().any(|name| name == "ingest"));
    let names = nodes.as_array().expect("a list").iter().filter(holds).map(|node| node["name"].as_str());
    names.map(|name| name.expect("a name").to_owned()).collect()
}

/// The one of the nodes that reads, and the other.
fn by_lease(nodes: [Server; 2]) -> (Server, Server) {
    let holder = eventually("one of them reads", || {
        let names = holders(&nodes[0]);
        (names.len() == 1).then(|| names[0].clone())
    });
    let [one, two] = nodes;
    if holder == "one" { (one, two) } else { (two, one) }
}

fn consumers(redis: &Redis) -> usize {
    redis.run::<Vec<redis::Value>>(&["XINFO", "CONSUMERS", IN, "event-handler"]).len()
}

#[test]
fn one_node_reads_and_another_goes_on_when_it_is_killed() {
    let redis = Redis::start();
    let (mut holder, other) = by_lease(start_two(&redis));
    redis.add_many(IN, "a", 0..1000);
    redis.wait_until_taken(IN);
    assert_eq!(consumers(&redis), 1, "the other one was given nothing");
    const COUNT: usize = 30_000;
    (1000..COUNT).step_by(1000).for_each(|n| redis.add_many(IN, "a", n..n + 1000));
    holder.kill9();
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&other, "a"), (0..COUNT as i64).collect::<Vec<_>>(), "all, in order, and once");
    assert_eq!(consumers(&redis), 2);
}

#[test]
fn a_node_that_was_frozen_changes_nothing_that_another_has_taken_over() {
    let redis = Redis::start();
    let (holder, other) = by_lease(start_two(&redis));
    const COUNT: usize = 30_000;
    (0..COUNT).step_by(1000).for_each(|n| redis.add_many(IN, "a", n..n + 1000));
    holder.signal(Signal::STOP);
    redis.wait_until_taken(IN);
    holder.signal(Signal::CONT);
    redis.add_many(IN, "a", COUNT..COUNT + 1000);
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&other, "a"), (0..COUNT as i64 + 1000).collect::<Vec<_>>(), "all, in order, and once");
}

#[test]
fn a_node_that_leaves_hands_over() {
    let redis = Redis::start();
    let (mut holder, other) = by_lease(start_two(&redis));
    (0..10_000).step_by(1000).for_each(|n| redis.add_many(IN, "a", n..n + 1000));
    assert!(holder.terminate().success());
    redis.wait_until_taken(IN);
    assert_eq!(payloads(&other, "a"), (0..10_000).collect::<Vec<_>>());
    assert_eq!(holders(&other).len(), 1);
}
