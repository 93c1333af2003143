//! What a publisher is told of payloads that the catalogue refuses.

use serde_json::{Value, json};

use super::error::{ApiError, ErrorCode};
use crate::domain::event::EventId;
use crate::domain::judgement::{Fault, Finding};
use crate::domain::schema::Violation;

/// Most bytes of the errors of one answer, so that with all else it has at most 64 KiB.
const MAX_BYTES: usize = 60 * 1024;

/// Why an event is refused.
pub fn refusal(finding: &Finding) -> ApiError {
    let (code, message) = match &finding.fault {
        Fault::Violations(violations) => {
            let first = violations.first().map_or(String::new(), |first| {
                let at = if first.instance_path.is_empty() { "the payload" } else { &first.instance_path };
                format!(": {at}: {}", first.message)
            });
            (ErrorCode::SchemaViolation, format!("the payload violates the schema of its event type{first}"))
        }
        Fault::DuplicateKey { key, .. } => {
            (ErrorCode::DuplicateKey, format!("an object of the payload has the key {key:?} twice"))
        }
        Fault::UnknownType => {
            (ErrorCode::UnknownEventType, "there is no event type for events of this name".to_owned())
        }
    };
    let mut error = ApiError::new(code, message);
    if let Some((name, version)) = &finding.of {
        error = error.with("event_type", name.as_str()).with("version", *version);
    }
    match &finding.fault {
        Fault::Violations(violations) => error.with("errors", errors_json(violations)),
        Fault::DuplicateKey { path, key } => error.with("instance_path", path.as_str()).with("key", key.as_str()),
        Fault::UnknownType => error,
    }
}

/// `[{"instance_path","schema_path","message"}…]`, as many as have room.
pub fn errors_json(violations: &[Violation]) -> Value {
    let one = |Violation { instance_path, schema_path, message }: &Violation| json!({ "instance_path": instance_path, "schema_path": schema_path, "message": message });
    bounded(violations.iter().map(one))
}

/// `[{"id","errors"}…]`: stored events that would be refused, as many as have room.
pub fn history_json(failing: &[(EventId, Finding)]) -> Value {
    bounded(failing.iter().map(|(id, finding)| match &finding.fault {
        Fault::Violations(violations) => json!({ "id": id, "errors": errors_json(violations) }),
        _ => {
            let message = refusal(finding).message().to_owned();
            json!({ "id": id, "errors": [{ "instance_path": "", "schema_path": "", "message": message }] })
        }
    }))
}

/// The list of these, cut where it is too long.
fn bounded(items: impl Iterator<Item = Value>) -> Value {
    let mut room = MAX_BYTES;
    let has_room = |item: &Value| {
        room = room.saturating_sub(item.to_string().len());
        room > 0
    };
    items.take_while(has_room).collect()
}

/// What a publisher is told of refused events, each with its index; in a batch, of all that have room.
pub fn refusals(refused: &[(usize, Finding)], is_batch: bool) -> ApiError {
    match refused {
        [(_, finding), ..] if !is_batch => refusal(finding),
        _ => {
            let message = format!("{} events of the batch are refused; nothing was stored", refused.len());
            let errors = bounded(refused.iter().map(|(index, finding)| refusal(finding).to_item(*index)));
            ApiError::new(ErrorCode::InvalidBatch, message).with("errors", errors)
        }
    }
}
