//! The digest of what a service holds of a type, as the server computes its own: see "Digests" in docs/protocol.md.
//!
//! ```sh
//! cargo run --example digest -- 256     # buckets; lines such as {"key":"a1","version":57} on standard input
//! ```

use std::collections::BTreeMap;
use std::io::BufRead as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

fn first_8_bytes(data: &[u8]) -> u64 {
    Sha256::digest(data).first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// In which bucket a key is.
fn bucket(key: &str, buckets: usize) -> usize {
    (first_8_bytes(key.as_bytes()) % buckets as u64) as usize
}

/// Over entities: their versions by key.
fn digest(versions: &BTreeMap<String, u64>, buckets: usize) -> Value {
    let mut sums = vec![0; buckets];
    for (key, version) in versions {
        sums[bucket(key, buckets)] ^= first_8_bytes(format!("{key}\0{version}").as_bytes());
    }
    let sums: Vec<_> = sums.iter().map(|sum| format!("{sum:016x}")).collect();
    json!({ "count": versions.len(), "buckets": sums })
}

fn main() {
    let buckets = std::env::args().nth(1).map_or(256, |text| text.parse().expect("a number of buckets"));
    let entities = std::io::stdin().lock().lines().map(|line| {
        let entity: Value = serde_json::from_str(&line.expect("text")).expect("an entity");
        (entity["key"].as_str().expect("a key").to_owned(), entity["version"].as_u64().expect("a version"))
    });
    println!("{}", digest(&entities.collect(), buckets));
}
