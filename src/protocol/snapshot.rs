//! Snapshots of all entities of a type, as subscribers get them.

use bytes::Bytes;

use super::sse;
use super::subscription::RequestId;
use super::wire::Wire;
use crate::domain::entity::EntityId;
use crate::domain::event::EventId;
use crate::domain::log::LogId;
use crate::transport::text_frame;

/// An entity of a snapshot.
pub fn entity(wire: Wire, entity: &EntityId, version: EventId, value: &str) -> Bytes {
    let EntityId { kind, key } = entity;
    let key = serde_json::Value::from(key.as_str());
    let text = format!(r#"{{"type":"entity","entity_type":"{kind}","key":{key},"version":{version},"value":{value}}}"#);
    notice(wire, "entity", None, &text)
}

/// The end of a snapshot: the changes after the event `as_of` follow.
pub fn end(wire: Wire, id: Option<&RequestId>, as_of: EventId, log: Option<LogId>) -> Bytes {
    let log = log.map(|log| format!(r#","log_id":"{log}""#)).unwrap_or_default();
    let id = id.map(|id| format!(r#","id":{id}"#)).unwrap_or_default();
    let text = format!(r#"{{"type":"snapshot_end"{id},"as_of":{as_of}{log}}}"#);
    notice(wire, "snapshot_end", Some(as_of), &text)
}

/// A snapshot replaces what the subscriber has, whose changes since then are no longer kept.
pub fn begin(wire: Wire) -> Bytes {
    notice(wire, "snapshot_begin", None, r#"{"type":"snapshot_begin"}"#)
}

fn notice(wire: Wire, name: &str, position: Option<EventId>, text: &str) -> Bytes {
    match wire {
        Wire::Sse => sse::named_block(position, name, text),
        Wire::WebSocket | Wire::Lines => text_frame(text.as_bytes()),
    }
}
