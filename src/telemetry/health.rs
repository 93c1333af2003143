//! What is well and what is not, for `/health/ready` and the edge.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

/// The health of the process, part by part.
#[derive(Debug, Default)]
pub struct Health {
    pub store: std::sync::Arc<StoreHealth>,
    pub actors: std::sync::Arc<ActorsHealth>,
    draining: AtomicBool,
}

impl Health {
    /// From now on not ready: the process is about to end.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether everything is well, and each part's own word.
    pub fn describe(&self) -> (bool, Value) {
        let (store_ok, actors_ok) = (self.store.is_up(), self.actors.is_well());
        let ready = store_ok && actors_ok && !self.is_draining();
        let checks = json!({
            "store": self.store.describe(),
            "actors": self.actors.describe(),
            "bus": { "status": "not_configured" },
            "draining": self.is_draining(),
        });
        (ready, checks)
    }
}

/// Work of the store that takes longer than this counts as hung, in milliseconds.
const HUNG_AFTER_MS: u64 = 4_000;

/// Whether the store takes writes.
///
/// A store that blocks its only writer cannot be reported by that writer. So the writer leaves the time when it
/// begins something, and whoever asks judges for himself.
#[derive(Debug)]
pub struct StoreHealth {
    up: AtomicBool,
    reason: Mutex<Option<(&'static str, String)>>,
    created: Instant,
    /// Milliseconds from `created`, plus one; 0 while nothing is under way.
    working_since: AtomicU64,
}

const HUNG: &str = "the store has not answered for some seconds";

/// Something under way at the store; see [`StoreHealth::working`].
#[must_use]
pub struct Working<'a>(&'a StoreHealth);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.working_since.store(0, Ordering::Release);
    }
}

impl Default for StoreHealth {
    fn default() -> Self {
        Self {
            up: AtomicBool::new(false),
            reason: Mutex::default(),
            created: Instant::now(),
            working_since: AtomicU64::new(0),
        }
    }
}

impl StoreHealth {
    /// Whether the store takes writes, as far as is known. False until it was opened.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire) && !self.is_hung()
    }

    /// The writer begins something that may block; it is done when the result is dropped.
    pub fn working(&self) -> Working<'_> {
        self.working_since.store(self.elapsed_ms() + 1, Ordering::Release);
        Working(self)
    }

    fn is_hung(&self) -> bool {
        let since = self.working_since.load(Ordering::Acquire);
        since > 0 && self.elapsed_ms().saturating_sub(since) > HUNG_AFTER_MS
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn set_up(&self) {
        *lock(&self.reason) = None;
        self.up.store(true, Ordering::Release);
    }

    /// The store refuses; `kind` is a short name, `message` one line.
    pub fn set_down(&self, kind: &'static str, message: &str) {
        *lock(&self.reason) = Some((kind, message.to_owned()));
        self.up.store(false, Ordering::Release);
    }

    /// Why it refuses, in one line.
    pub fn reason(&self) -> Option<String> {
        let hung = self.is_hung().then(|| HUNG.to_owned());
        hung.or_else(|| lock(&self.reason).as_ref().map(|(_, message)| message.clone()))
    }

    pub fn describe(&self) -> Value {
        if self.is_hung() {
            return json!({ "status": "down", "reason": "hung", "message": HUNG });
        }
        match &*lock(&self.reason) {
            Some((kind, message)) => json!({ "status": "down", "reason": kind, "message": message }),
            None if self.is_up() => json!({ "status": "ok" }),
            None => json!({ "status": "down", "reason": "opening", "message": "not opened yet" }),
        }
    }
}

/// Which supervised actors are at work.
#[derive(Debug, Default)]
pub struct ActorsHealth(Mutex<BTreeMap<String, bool>>);

impl ActorsHealth {
    pub fn set(&self, name: String, running: bool) {
        lock(&self.0).insert(name, running);
    }

    pub fn get(&self, name: &str) -> bool {
        lock(&self.0).get(name).copied().unwrap_or_default()
    }

    /// Whether there are any, and all are at work.
    pub fn is_well(&self) -> bool {
        let actors = lock(&self.0);
        !actors.is_empty() && actors.values().all(|running| *running)
    }

    pub fn describe(&self) -> Value {
        let actors = lock(&self.0);
        let restarting: Vec<&String> = actors.iter().filter(|(_, running)| !**running).map(|(name, _)| name).collect();
        let status = if restarting.is_empty() && !actors.is_empty() { "ok" } else { "down" };
        json!({ "status": status, "running": actors.len() - restarting.len(), "restarting": restarting })
    }
}

/// A panic while holding one of these locks leaves a whole value behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_writer_that_does_not_come_back_is_noticed() {
        let mut store = StoreHealth::default();
        store.set_up();
        let working = store.working();
        assert!(store.is_up(), "at work is well");
        drop(working);
        store.working_since.store(1, Ordering::Release);
        store.created -= Duration::from_millis(HUNG_AFTER_MS + 10);
        assert!(!store.is_up());
        assert_eq!(store.describe()["reason"], "hung");
        drop(store.working());
        assert!(store.is_up(), "back again");
    }
}
