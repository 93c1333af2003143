//! What is well and what is not, for `/health/ready` and the edge.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Notify, OnceCell};

/// The health of the process, part by part.
#[derive(Debug)]
pub struct Health {
    pub store: Arc<StoreHealth>,
    pub actors: Arc<ActorsHealth>,
    draining: AtomicBool,
    /// What is to be said of the bus.
    bus: &'static str,
}

impl Health {
    /// Nothing is well yet; see [`StoreHealth::new`] for `hang_timeout`. `has_bus`: a bus is configured; none is used.
    pub fn new(hang_timeout: Duration, has_bus: bool) -> Self {
        Self {
            store: Arc::new(StoreHealth::new(hang_timeout)),
            actors: Arc::default(),
            draining: AtomicBool::new(false),
            bus: if has_bus { "not_used" } else { "not_configured" },
        }
    }

    /// From now on not ready: the process is about to end.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Ready again, as far as that goes: the process goes on after all.
    pub fn stop_draining(&self) {
        self.draining.store(false, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether everything is well, and each part's own word.
    pub fn describe(&self) -> (bool, Value) {
        let (store_ok, actors_ok) = (self.store.is_well(), self.actors.is_well());
        let ready = store_ok && actors_ok && !self.is_draining();
        let checks = json!({
            "store": self.store.describe(),
            "actors": self.actors.describe(),
            "bus": { "status": self.bus },
            "draining": self.is_draining(),
        });
        (ready, checks)
    }
}

/// Why the store refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// A short name.
    pub kind: &'static str,
    /// What anybody may know.
    pub meaning: &'static str,
    /// The store's own words, in one line: for operators.
    pub message: String,
}

/// Whether the store takes writes, and can be read.
///
/// A store that blocks its only writer cannot be reported by that writer. So the writer leaves the time when it
/// begins something, and whoever asks judges for himself.
#[derive(Debug)]
pub struct StoreHealth {
    up: AtomicBool,
    reason: Mutex<Option<LastError>>,
    unusable: OnceCell<String>,
    found_unusable: Notify,
    hang_timeout: Duration,
    created: Instant,
    /// Milliseconds from `created`, plus one; 0 while nothing is under way.
    busy_since: AtomicU64,
    /// Why it cannot be read.
    unreadable: Mutex<Option<LastError>>,
}

/// Something under way at the store; see [`StoreHealth::begin`].
#[must_use]
pub struct StoreOperation<'a>(&'a StoreHealth);

impl Drop for StoreOperation<'_> {
    fn drop(&mut self) {
        self.0.busy_since.store(0, Ordering::Release);
    }
}

impl StoreHealth {
    /// Not opened yet. An operation that takes longer than `hang_timeout` counts as a failure while it lasts: a server
    /// that hangs says nothing.
    pub fn new(hang_timeout: Duration) -> Self {
        Self {
            up: AtomicBool::new(false),
            reason: Mutex::default(),
            unusable: OnceCell::new(),
            found_unusable: Notify::new(),
            hang_timeout,
            created: Instant::now(),
            busy_since: AtomicU64::new(0),
            unreadable: Mutex::default(),
        }
    }

    /// Whether the store takes writes, as far as is known. False until it was opened.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire) && self.hanging_for().is_none()
    }

    /// Whether it takes writes and gives what is asked of it.
    pub fn is_well(&self) -> bool {
        self.is_up() && self.is_readable()
    }

    /// Whether no read has failed that has not succeeded since.
    pub fn is_readable(&self) -> bool {
        lock(&self.unreadable).is_none()
    }

    /// A read failed.
    pub fn set_unreadable(&self, last_error: LastError) {
        *lock(&self.unreadable) = Some(last_error);
    }

    pub fn set_readable(&self) {
        *lock(&self.unreadable) = None;
    }

    /// The writer begins an operation that may block; it has ended when the result is dropped. One at a time.
    pub fn begin(&self) -> StoreOperation<'_> {
        self.busy_since.store(self.now_ms() + 1, Ordering::Release);
        StoreOperation(self)
    }

    fn hanging_for(&self) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Acquire).checked_sub(1)?;
        let busy = Duration::from_millis(self.now_ms().saturating_sub(since));
        (busy > self.hang_timeout).then_some(busy)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn set_up(&self) {
        *lock(&self.reason) = None;
        self.up.store(true, Ordering::Release);
    }

    /// The store refuses.
    pub fn set_down(&self, last_error: LastError) {
        *lock(&self.reason) = Some(last_error);
        self.up.store(false, Ordering::Release);
    }

    /// Nothing that this process could wait for makes the store usable; `message` is one line.
    pub fn set_unusable(&self, message: &str) {
        let _ = self.unusable.set(message.to_owned());
        self.found_unusable.notify_one();
    }

    /// Why the store cannot be used, as soon as that is known. For one that waits at a time.
    pub async fn unusable(&self) -> String {
        loop {
            if let Some(message) = self.unusable.get() {
                return message.clone();
            }
            self.found_unusable.notified().await;
        }
    }

    /// Why it refuses.
    pub fn reason(&self) -> Option<LastError> {
        let hangs = |time: Duration| LastError {
            kind: "hanging",
            meaning: "it does not answer",
            message: format!("no answer for {} s", time.as_secs()),
        };
        lock(&self.reason).clone().or(self.hanging_for().map(hangs))
    }

    /// For anybody.
    pub fn describe(&self) -> Value {
        let down = |kind: &str, message: &str| json!({ "status": "down", "reason": kind, "message": message });
        match (self.reason(), &*lock(&self.unreadable)) {
            (Some(last_error), _) => down(last_error.kind, last_error.meaning),
            (None, Some(last_error)) => down(last_error.kind, &format!("cannot be read: {}", last_error.meaning)),
            (None, None) if self.is_up() => json!({ "status": "ok" }),
            (None, None) => down("opening", "not opened yet"),
        }
    }

    /// The same for operators, with the store's own words.
    pub fn describe_in_full(&self) -> Value {
        let mut described = self.describe();
        if let Some(LastError { message, .. }) = self.reason().or_else(|| lock(&self.unreadable).clone()) {
            described["details"] = message.into();
        }
        described
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
    use super::*;

    #[test]
    fn a_writer_that_does_not_come_back_is_noticed() {
        let store = StoreHealth::new(Duration::ZERO);
        store.set_up();
        let operation = store.begin();
        while store.is_up() {
            std::thread::yield_now();
        }
        assert_eq!(store.describe()["reason"], "hanging");
        drop(operation);
        assert!(store.is_up(), "back again");
        let patient = StoreHealth::new(Duration::from_secs(3600));
        patient.set_up();
        let _operation = patient.begin();
        assert!(patient.is_up(), "at work is well");
    }
}
