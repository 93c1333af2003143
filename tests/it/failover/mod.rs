//! Replicas that are read, and primaries that fail: with real servers, and the engines that promote them.

mod patroni;
mod replica;
mod sentinel;
mod streaming;

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Server, eventually};

/// For how long publishes may be refused beyond the time that an engine needs to promote another primary.
const BEYOND_THE_ENGINE: Duration = Duration::from_secs(5);

fn ids(server: &Server, query: &str) -> Vec<i64> {
    server.events(query).iter().map(|event| event["id"].as_i64().expect("an id")).collect()
}

/// Waits for the next publish that is acknowledged. `after` says what has happened just now.
fn next_publish(server: &Server, after: &str) {
    let begun = Instant::now();
    eventually("a publish is acknowledged", || {
        (server.post("/publish", json!({"event_name": "after"})).status == 200).then_some(())
    });
    let time = begun.elapsed();
    eprintln!("next publish after {after}: {time:?}");
    assert!(time < BEYOND_THE_ENGINE, "{time:?} after {after}");
}
