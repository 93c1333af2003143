//! The Event Handler's own events.

use crate::domain::event::{NewEvent, Priority};
use crate::domain::name::EventName;

/// Their source.
const OWN_SOURCE: &str = "event-handler";

/// An event `$sys.…`, which only the Event Handler itself publishes.
pub fn own_event(name: &str, payload: &serde_json::Value) -> NewEvent {
    NewEvent {
        name: EventName::from_store(name.to_owned()),
        payload: payload.to_string().into(),
        source: OWN_SOURCE.into(),
        priority: Priority::Normal,
        key: None,
        metadata: None,
        traceparent: None,
        idempotency: None,
    }
}
