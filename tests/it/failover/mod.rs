//! Replicas that are read, and primaries that fail: with real servers, and the engines that promote them.

mod replica;
mod streaming;

use crate::support::Server;

fn ids(server: &Server, query: &str) -> Vec<i64> {
    server.events(query).iter().map(|event| event["id"].as_i64().expect("an id")).collect()
}
