//! Events as JSON: in `/events` and in frames.
//!
//! Written by hand because payloads and metadata go in as the text they are, and because event names
//! need no escaping.

use std::fmt::Write as _;
use std::io::Write as _;

use serde::Deserialize;
use serde_json::json;

use crate::domain::delivery::{DeadReason, EventStatus};
use crate::domain::event::{Event, EventId, NewEvent, Priority, Schedule, Timestamp};

/// Appends the event as `/events` shows it: six members that every event has, and what was given beyond them.
pub fn write_event(out: &mut Vec<u8>, event: &Event, status: EventStatus) {
    let Event { id, created_at, name, payload, source, priority, key, metadata, traceparent } = event;
    let _ =
        write!(out, r#"{{"id":{id},"event_name":"{name}","payload":{payload},"created_at":"{created_at}","source":"#);
    write_string(out, source);
    let _ = write!(out, r#","status":"{}""#, status.as_str());
    if *priority != Priority::default() {
        let _ = write!(out, r#","priority":"{}""#, priority.as_str());
    }
    write_key_and_metadata(out, key.as_deref(), metadata.as_deref());
    if let Some(traceparent) = traceparent {
        let _ = write!(out, r#","traceparent":"{traceparent}""#);
    }
    out.push(b'}');
}

const DELIVERY_DEAD: &str = "$sys.delivery.dead";

/// `$sys.delivery.dead`: the delivery of `event` to `service`, or to the durable subscription of this name, was given up.
/// Nothing for the Event Handler's own events: what is told of their deliveries could die for ever.
pub fn delivery_dead(
    service: &str,
    durable: Option<&str>,
    event: &Event,
    reason: DeadReason,
    attempts: u32,
    error: Option<&str>,
) -> Option<NewEvent> {
    if event.name.is_system() {
        return None;
    }
    let mut payload = json!({
        "service": service,
        "event_id": event.id,
        "event_name": event.name.as_str(),
        "key": event.key.as_deref(),
        "reason": reason.as_str(),
        "attempts": attempts,
        "error": error,
    });
    durable.into_iter().for_each(|durable| payload["durable"] = durable.into());
    Some(NewEvent::own(DELIVERY_DEAD, payload.to_string()))
}

/// What `$sys.delivery.dead` tells.
#[derive(Debug, Deserialize)]
pub struct DeadDelivery {
    pub service: String,
    pub event_id: EventId,
    pub reason: String,
    pub attempts: u32,
    pub error: Option<String>,
    /// Of the members of this durable subscription, and not of a service.
    pub durable: Option<String>,
}

impl DeadDelivery {
    /// Reads what [`delivery_dead`] has written; none if `event` is another one.
    pub fn of(event: &Event) -> Option<Self> {
        let is_it = event.name.as_str() == DELIVERY_DEAD;
        is_it.then(|| serde_json::from_str(&event.payload).ok()).flatten()
    }
}

/// Appends an event that waits until it is due, as `/schedules` shows it.
pub fn write_schedule(out: &mut Vec<u8>, schedule: Schedule, event: &NewEvent, created_at: Timestamp) {
    let Schedule { id, due_at } = schedule;
    let NewEvent { name, payload, source, priority, key, metadata, traceparent: _, idempotency: _, change: _ } = event;
    let _ = write!(
        out,
        r#"{{"schedule_id":"{id}","deliver_at":"{due_at}","created_at":"{created_at}","event_name":"{name}","payload":{payload},"priority":"{}","source":"#,
        priority.as_str()
    );
    write_string(out, source);
    write_key_and_metadata(out, key.as_deref(), metadata.as_deref());
    out.push(b'}');
}

/// The plain frame: exactly `event_name` and `payload`.
pub fn plain_frame_text(event: &Event) -> String {
    let Event { name, payload, .. } = event;
    let mut text = String::with_capacity(name.as_str().len() + payload.len() + 32);
    let _ = write!(text, r#"{{"event_name":"{name}","payload":{payload}}}"#);
    text
}

/// The frame of a subscription with `"envelope":"full"`.
pub fn full_frame_text(event: &Event) -> String {
    let Event { id, created_at, name, payload, source, key, .. } = event;
    let mut text = Vec::with_capacity(name.as_str().len() + payload.len() + source.len() + 128);
    let _ = write!(
        text,
        r#"{{"type":"event","id":{id},"event_name":"{name}","payload":{payload},"created_at":"{created_at}","source":"#
    );
    write_string(&mut text, source);
    text.extend_from_slice(br#","key":"#);
    match key {
        Some(key) => write_string(&mut text, key),
        None => text.extend_from_slice(b"null"),
    }
    text.push(b'}');
    String::from_utf8(text).expect("invariant: every part is UTF-8")
}

/// Appends the members `key` and `metadata`, those of them that there are.
pub(super) fn write_key_and_metadata(out: &mut Vec<u8>, key: Option<&str>, metadata: Option<&str>) {
    if let Some(key) = key {
        out.extend_from_slice(br#","key":"#);
        write_string(out, key);
    }
    if let Some(metadata) = metadata {
        let _ = write!(out, r#","metadata":{metadata}"#);
    }
}

pub(super) fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("invariant: a string can be written to memory");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            source: "a \"b\"\n".into(),
            priority: Priority::High,
            key: Some("k".into()),
            metadata: Some(r#"{"a":"1"}"#.into()),
            ..Event::plain(58, "user.created", r#"{"n": 1e400}"#)
        }
    }

    #[test]
    fn spells_events_exactly() {
        let mut out = Vec::new();
        write_event(&mut out, &event(), EventStatus::Processed);
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            r#"{"id":58,"event_name":"user.created","payload":{"n": 1e400},"created_at":"2023-08-01T12:00:00.000000Z","source":"a \"b\"\n","status":"processed","priority":"high","key":"k","metadata":{"a":"1"}}"#
        );
        assert_eq!(plain_frame_text(&event()), r#"{"event_name":"user.created","payload":{"n": 1e400}}"#);
        assert_eq!(
            full_frame_text(&event()),
            r#"{"type":"event","id":58,"event_name":"user.created","payload":{"n": 1e400},"created_at":"2023-08-01T12:00:00.000000Z","source":"a \"b\"\n","key":"k"}"#
        );
    }
}
