//! Whether the replica of the store can be read, for `/health/ready` and for operators.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::last_error::LastError;

/// How the replica is. Whatever it does not serve, the primary does, so nothing depends on it.
#[derive(Debug)]
pub struct ReplicaHealth(Mutex<State>);

#[derive(Debug)]
enum State {
    /// There is none.
    None,
    /// It is so many events behind the primary.
    Up(i64),
    Down(LastError),
}

/// There is no replica.
impl Default for ReplicaHealth {
    fn default() -> Self {
        Self(Mutex::new(State::None))
    }
}

impl ReplicaHealth {
    /// There is one, which was not read yet.
    pub fn set_connecting(&self) {
        let message = "no connection yet".to_owned();
        *self.lock() = State::Down(LastError { kind: "connecting", meaning: "it is not connected yet", message });
    }

    /// Whether it is to be asked.
    pub fn is_up(&self) -> bool {
        matches!(*self.lock(), State::Up(_))
    }

    /// It was read, and is `lag` events behind. Returns whether it was down.
    pub fn set_up(&self, lag: i64) -> bool {
        !matches!(std::mem::replace(&mut *self.lock(), State::Up(lag)), State::Up(_))
    }

    /// It could not be read. Returns whether that is news; another text alone is none.
    pub fn set_down(&self, error: LastError) -> bool {
        let kind = error.kind;
        match std::mem::replace(&mut *self.lock(), State::Down(error)) {
            State::None | State::Up(_) => true,
            State::Down(before) => before.kind != kind,
        }
    }

    /// The status for any caller; none without a replica.
    pub fn describe(&self) -> Option<Value> {
        match &*self.lock() {
            State::None => None,
            State::Up(lag) => Some(json!({ "status": "ok", "lag_events": lag })),
            State::Down(LastError { kind, meaning, .. }) => {
                Some(json!({ "status": "down", "reason": kind, "message": format!("{meaning}; the primary is read") }))
            }
        }
    }

    /// The status with the server's own message, for operators.
    pub fn describe_in_full(&self) -> Option<Value> {
        let mut described = self.describe()?;
        if let State::Down(LastError { message, .. }) = &*self.lock() {
            described["details"] = message.clone().into();
        }
        Some(described)
    }

    /// A poisoned lock is used all the same: a panic cannot leave the state half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
