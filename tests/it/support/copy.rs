//! A service that keeps a copy of entities: it applies what is delivered to it, and answers with digests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::service::{Answer, Delivery, Service};

/// What the copy has.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// The version of each key that is there.
    pub entities: BTreeMap<String, i64>,
    /// The newest version of each key that it has seen, deleted ones included.
    pub seen: BTreeMap<String, i64>,
    /// The newest event that it has applied.
    pub as_of: i64,
    /// The keys that came as repairs, in order, with their versions.
    pub repairs: Vec<(String, i64)>,
    /// It answers repairs with 200, and does nothing.
    pub ignores_repairs: bool,
    /// It drops each event that it has seen before.
    pub deduplicates: bool,
}

/// See the module.
pub struct Replica {
    pub service: Service,
    kept: Arc<Mutex<Kept>>,
}

impl Replica {
    pub fn start() -> Self {
        let kept = Arc::<Mutex<Kept>>::default();
        let service = Service::answering(behaviour(&kept));
        Self { service, kept }
    }

    /// What it has; to be changed at will.
    pub fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }

    /// From now on it answers so to what `answer` has an answer for, and otherwise as ever.
    pub fn answer(&self, answer: impl Fn(&Delivery) -> Option<Answer> + Send + Sync + 'static) {
        let usual = behaviour(&self.kept);
        self.service.behave(move |delivery| answer(delivery).unwrap_or_else(|| usual(delivery)));
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

fn behaviour(kept: &Arc<Mutex<Kept>>) -> impl Fn(&Delivery) -> Answer + Send + Sync + 'static {
    let kept = Arc::clone(kept);
    move |delivery| match delivery.path.strip_prefix("/sync/") {
        Some(question) => Answer::Full(200, vec!["Content-Type: application/json".to_owned()], {
            let envelope = question.contains("buckets=256");
            let data = lock(&kept).answer(question);
            if envelope { json!({"status": "success", "data": data}).to_string() } else { data.to_string() }
        }),
        None => {
            lock(&kept).apply(delivery);
            Answer::Status(200)
        }
    }
}

impl Kept {
    /// A version that is newer than what it has of the key is applied.
    fn apply(&mut self, delivery: &Delivery) {
        let event = delivery.json();
        let (payload, version) = (&event["payload"], event["id"].as_i64().unwrap_or_default());
        let Some(key) = payload["key"].as_str().map(str::to_owned) else { return };
        if delivery.header("event-repair") == Some("true") {
            self.repairs.push((key.clone(), version));
            if self.ignores_repairs {
                return;
            }
        }
        let seen = self.seen.get(&key).copied().unwrap_or(0);
        if version < seen || version == seen && self.deduplicates {
            return;
        }
        self.seen.insert(key.clone(), version);
        self.as_of = self.as_of.max(version);
        match payload["op"].as_str() {
            Some("put") => self.entities.insert(key, version),
            _ => self.entities.remove(&key),
        };
    }

    /// What `<type>/digest[/<bucket>]?buckets=<n>` asks for.
    fn answer(&self, question: &str) -> Value {
        let (path, buckets) = question.split_once("?buckets=").expect("a query");
        let buckets: u64 = buckets.parse().expect("a number");
        let mut parts = path.split('/');
        let (kind, bucket) = (parts.next().expect("a type"), parts.nth(1));
        if let Some(bucket) = bucket {
            let bucket: u64 = bucket.parse().expect("a number");
            let of_bucket = self.entities.iter().filter(|(key, _)| hash(key.as_bytes()) % buckets == bucket);
            return of_bucket.map(|(key, version)| json!({"key": key, "version": version})).collect();
        }
        let mut sums = vec![0u64; buckets as usize];
        for (key, version) in &self.entities {
            sums[(hash(key.as_bytes()) % buckets) as usize] ^= hash(format!("{key}\0{version}").as_bytes());
        }
        let sums: Vec<String> = sums.into_iter().map(|sum| format!("{sum:016x}")).collect();
        json!({"type": kind, "as_of": self.as_of, "count": self.entities.len(), "buckets": sums})
    }
}

fn hash(text: &[u8]) -> u64 {
    u64::from_be_bytes(Sha256::digest(text)[..8].try_into().expect("8 bytes"))
}
