//! Whether the bus works, for `/health/ready` and for operators.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::last_error::LastError;

/// The parts of the bus that this node uses, each with why it does not work.
#[derive(Debug, Default)]
pub struct BusHealth(Mutex<Parts>);

type Parts = BTreeMap<&'static str, Option<LastError>>;

/// How all parts together are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusState {
    Up,
    /// The first part that does not work, and why.
    Down(&'static str, LastError),
}

impl BusHealth {
    /// Notes how a part is. Returns how all of them are, if that has changed; another text alone is no change.
    pub fn set(&self, part: &'static str, trouble: Option<LastError>) -> Option<BusState> {
        let mut parts = self.lock();
        let before = state(&parts);
        parts.insert(part, trouble);
        let after = state(&parts);
        let kind = |state: &BusState| match state {
            BusState::Up => None,
            BusState::Down(part, LastError { kind, .. }) => Some((*part, *kind)),
        };
        (kind(&before) != kind(&after)).then_some(after)
    }

    /// Whether every part works that is in use.
    pub fn is_up(&self) -> bool {
        state(&self.lock()) == BusState::Up
    }

    /// The status for any caller.
    pub fn describe(&self) -> Value {
        match state(&self.lock()) {
            BusState::Up => json!({ "status": "ok" }),
            BusState::Down(part, LastError { meaning, .. }) => {
                json!({ "status": "down", "reason": format!("{part}: {meaning}") })
            }
        }
    }

    /// The status with the server's own message, for operators.
    pub fn describe_in_full(&self) -> Value {
        let mut described = self.describe();
        if let BusState::Down(_, LastError { message, .. }) = state(&self.lock()) {
            described["details"] = message.into();
        }
        described
    }

    /// A poisoned lock is used all the same: a panic cannot leave the map half changed.
    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn state(parts: &Parts) -> BusState {
    let connecting =
        || LastError { kind: "connecting", meaning: "is not connected yet", message: "no connection yet".to_owned() };
    let mut troubled = parts.iter().filter_map(|(part, trouble)| Some((*part, trouble.clone()?)));
    match troubled.next() {
        Some((part, trouble)) => BusState::Down(part, trouble),
        None if parts.is_empty() => BusState::Down("connection", connecting()),
        None => BusState::Up,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(kind: &'static str, message: &str) -> Option<LastError> {
        Some(LastError { kind, meaning: "does not work", message: message.to_owned() })
    }

    #[test]
    fn the_bus_is_up_while_all_its_parts_are() {
        let bus = BusHealth::default();
        assert!(!bus.is_up() && bus.describe()["reason"] == "connection: is not connected yet");
        assert!(matches!(bus.set("connection", trouble("lost", "a")), Some(BusState::Down("connection", _))));
        assert_eq!(bus.set("connection", trouble("lost", "b")), None, "it is still so");
        assert_eq!(bus.set("connection", None), Some(BusState::Up));
        assert_eq!(bus.set("ingest", None), None);
        assert!(matches!(bus.set("ingest", trouble("loading", "a")), Some(BusState::Down("ingest", _))));
        assert_eq!(bus.set("ingest", trouble("loading", "b")), None, "another text alone");
        assert!(matches!(bus.set("connection", trouble("lost", "c")), Some(BusState::Down("connection", _))));
        assert_eq!(bus.describe(), json!({ "status": "down", "reason": "connection: does not work" }));
        assert_eq!(bus.set("ingest", None), None);
        assert_eq!(bus.describe_in_full()["details"], "c");
        assert_eq!(bus.set("connection", None), Some(BusState::Up));
    }
}
