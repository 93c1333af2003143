//! The health of the process, for `/health/ready` and for refusals at the edge.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Notify, OnceCell};

use super::bus_health::BusHealth;
use super::last_error::LastError;
use super::replica_health::ReplicaHealth;
use crate::domain::follow::Awaited;
use crate::protocol::error::ApiError;

/// The health of the process and its parts.
#[derive(Debug)]
pub struct Health {
    pub store: Arc<StoreHealth>,
    pub actors: Arc<ActorsHealth>,
    draining: AtomicBool,
    /// The whole system drains.
    system_draining: AtomicBool,
    /// None if there is no bus.
    pub bus: Option<Arc<BusHealth>>,
}

impl Health {
    /// Everything begins as down. See [`StoreHealth::new`] for `hang_timeout`. `has_bus` says whether a bus is
    /// configured.
    pub fn new(hang_timeout: Duration, has_bus: bool) -> Self {
        Self {
            store: Arc::new(StoreHealth::new(hang_timeout)),
            actors: Arc::default(),
            draining: AtomicBool::new(false),
            system_draining: AtomicBool::new(false),
            bus: has_bus.then(Arc::default),
        }
    }

    /// Reports not ready from now on, because the process is about to end.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Ends draining, because the process goes on after all. It may still not be ready for other reasons.
    pub fn stop_draining(&self) {
        self.draining.store(false, Ordering::Release);
    }

    /// Notes whether this process drains because all do. It may drain for itself besides.
    pub fn set_system_draining(&self, drains: bool) {
        self.system_draining.store(drains, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire) || self.system_draining.load(Ordering::Acquire)
    }

    /// Whether the process is ready, and the status of each part. Without the bus it is ready too, and without the
    /// replica.
    pub fn describe(&self) -> (bool, Value) {
        let (store_ok, actors_ok) = (self.store.is_well(), self.actors.is_well());
        let ready = store_ok && actors_ok && !self.is_draining();
        let mut checks = json!({
            "store": self.store.describe(),
            "actors": self.actors.describe(),
            "bus": self.bus.as_ref().map_or_else(|| json!({ "status": "not_configured" }), |bus| bus.describe()),
            "draining": self.is_draining(),
        });
        if let Some(replica) = self.store.replica.describe() {
            checks["replica"] = replica;
        }
        if let Some(awaited) = *lock(&self.store.retention_waits_for) {
            let awaited = awaited.as_str();
            let reason = format!("the {awaited} has not read the oldest events");
            checks["retention"] = json!({ "status": "waits", "for": awaited, "reason": reason });
        }
        (ready, checks)
    }
}

/// Why a store can never be used with this configuration.
#[derive(Debug, Clone, PartialEq)]
pub enum Unusable {
    /// Of the store itself, in one line.
    Store(String),
    /// It has this version of a saga, with another content.
    Saga { name: String, version: u32 },
    /// The event type of this name, as a file has it, cannot be put.
    EventType { name: String, error: ApiError },
}

/// Whether the store takes writes and can be read.
///
/// A writer that is blocked by the store cannot report that. So it notes when it begins an operation, and whoever asks
/// decides whether it has taken too long.
#[derive(Debug)]
pub struct StoreHealth {
    up: AtomicBool,
    reason: Mutex<Option<LastError>>,
    unusable: OnceCell<Unusable>,
    found_unusable: Notify,
    hang_timeout: Duration,
    created: Instant,
    /// Milliseconds since `created`, plus one; 0 while the writer is idle.
    busy_since: AtomicU64,
    /// Why the store cannot be read; `None` if it can.
    unreadable: Mutex<Option<LastError>>,
    /// How its replica is.
    pub replica: ReplicaHealth,
    /// Who must read events before retention removes them, though they are no longer to be kept.
    retention_waits_for: Mutex<Option<Awaited>>,
}

/// An operation of the writer; see [`StoreHealth::begin`].
#[must_use]
pub struct StoreOperation<'a>(&'a StoreHealth);

impl Drop for StoreOperation<'_> {
    fn drop(&mut self) {
        self.0.busy_since.store(0, Ordering::Release);
    }
}

impl StoreHealth {
    /// A store that is not open yet. While an operation takes longer than `hang_timeout`, the store counts as down,
    /// because a server that hangs reports no error.
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
            replica: ReplicaHealth::default(),
            retention_waits_for: Mutex::default(),
        }
    }

    /// Whether the store takes writes, as far as is known. False until it was opened.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire) && self.hanging_for().is_none()
    }

    /// Whether the store takes writes and can be read.
    pub fn is_well(&self) -> bool {
        self.is_up() && self.is_readable()
    }

    /// Whether the last failed read, if there was one, has succeeded since.
    pub fn is_readable(&self) -> bool {
        lock(&self.unreadable).is_none()
    }

    /// Notes for whom retention waits; whether that is news.
    pub fn retention_waits_for(&self, awaited: Option<Awaited>) -> bool {
        std::mem::replace(&mut *lock(&self.retention_waits_for), awaited) != awaited
    }

    /// Notes that a read has failed.
    pub fn set_unreadable(&self, last_error: LastError) {
        *lock(&self.unreadable) = Some(last_error);
    }

    pub fn set_readable(&self) {
        *lock(&self.unreadable) = None;
    }

    /// Notes that the writer begins an operation that may block. The operation lasts until the result is dropped; there
    /// is one at a time.
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

    /// Notes that the store refuses writes.
    pub fn set_down(&self, last_error: LastError) {
        *lock(&self.reason) = Some(last_error);
        self.up.store(false, Ordering::Release);
    }

    /// Notes that waiting cannot make the store usable, so that the process has to end.
    pub fn set_unusable(&self, unusable: Unusable) {
        let _ = self.unusable.set(unusable);
        self.found_unusable.notify_one();
    }

    /// Whether the store was found unusable.
    pub fn is_unusable(&self) -> bool {
        self.unusable.get().is_some()
    }

    /// Waits until the store is found unusable, and returns why. Only one task may wait at a time.
    pub async fn unusable(&self) -> Unusable {
        loop {
            if let Some(unusable) = self.unusable.get() {
                return unusable.clone();
            }
            self.found_unusable.notified().await;
        }
    }

    /// Why the store refuses writes; `None` if it does not.
    pub fn reason(&self) -> Option<LastError> {
        let hangs = |time: Duration| LastError {
            kind: "hanging",
            meaning: "it does not answer",
            message: format!("no answer for {} s", time.as_secs()),
        };
        lock(&self.reason).clone().or(self.hanging_for().map(hangs))
    }

    /// The status for any caller.
    pub fn describe(&self) -> Value {
        let down = |kind: &str, message: &str| json!({ "status": "down", "reason": kind, "message": message });
        match (self.reason(), &*lock(&self.unreadable)) {
            (Some(last_error), _) => down(last_error.kind, last_error.meaning),
            (None, Some(last_error)) => down(last_error.kind, &format!("cannot be read: {}", last_error.meaning)),
            (None, None) if self.is_up() => json!({ "status": "ok" }),
            (None, None) => down("opening", "not opened yet"),
        }
    }

    /// The status with the store's own message, for operators.
    pub fn describe_in_full(&self) -> Value {
        let mut described = self.describe();
        if let Some(LastError { message, .. }) = self.reason().or_else(|| lock(&self.unreadable).clone()) {
            described["details"] = message.into();
        }
        if let Some(replica) = self.replica.describe_in_full() {
            described["replica"] = replica;
        }
        described
    }
}

/// Which supervised actors are running.
#[derive(Debug, Default)]
pub struct ActorsHealth(Mutex<BTreeMap<String, bool>>);

impl ActorsHealth {
    pub fn set(&self, name: String, running: bool) {
        lock(&self.0).insert(name, running);
    }

    pub fn get(&self, name: &str) -> bool {
        lock(&self.0).get(name).copied().unwrap_or_default()
    }

    /// Whether there are actors and all of them are running.
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

/// A poisoned lock is used all the same: a panic cannot leave one of these values half changed.
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
