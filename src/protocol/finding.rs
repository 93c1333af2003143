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

/// `[{"id","errors"}…]`: stored events that would be refused, with the errors of as many as have room.
pub fn history_json(failing: &[(EventId, Finding)]) -> Value {
    bounded(failing.iter().map(|(id, finding)| {
        let errors = match &finding.fault {
            Fault::Violations(violations) => errors_json(violations),
            _ => {
                let message = refusal(finding).message().to_owned();
                json!([{ "instance_path": "", "schema_path": "", "message": message }])
            }
        };
        json!({ "id": id, "errors": errors })
    }))
}

/// The list of these, cut where it is too long: all come without their `errors` before any comes with them.
fn bounded(items: impl Iterator<Item = Value>) -> Value {
    let mut room = MAX_BYTES;
    let mut takes = |value: &Value| {
        let left = room.checked_sub(value.to_string().len() + 1);
        room = left.unwrap_or(room);
        left.is_some()
    };
    let mut split = |mut item: Value| {
        let errors = item.get_mut("errors").map(|errors| std::mem::replace(errors, json!([])));
        takes(&item).then_some((item, errors))
    };
    let taken: Vec<(Value, Option<Value>)> = items.map_while(&mut split).collect();
    let with_errors = taken.into_iter().map(|(mut item, errors)| {
        if let Some(errors) = errors.filter(&mut takes) {
            item["errors"] = errors;
        }
        item
    });
    with_errors.collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(violations: usize, bytes: usize) -> Finding {
        let text = || "x".repeat(bytes);
        let violation = Violation { instance_path: text(), schema_path: text(), message: text() };
        Finding { of: None, refuses: true, fault: Fault::Violations(vec![violation; violations]) }
    }

    #[test]
    fn all_are_named_before_any_is_explained() {
        let refused: Vec<_> = (0..3).map(|index| (index, finding(20, 1024))).collect();
        let error = refusals(&refused, true);
        let errors = error.details()["errors"].as_array().expect("a list");
        let named: Vec<_> = errors.iter().map(|item| (item["index"].as_u64(), item["code"].as_str())).collect();
        assert_eq!(named, [0, 1, 2].map(|index| (Some(index), Some("schema_violation"))));
        assert!(error.details()["errors"].to_string().len() <= MAX_BYTES);

        let failing: Vec<_> = (0..1000).map(|id| (id, finding(1, 50))).collect();
        let history = history_json(&failing);
        assert_eq!(history.as_array().map(Vec::len), Some(1000));
        assert_eq!(
            (&history[0]["errors"][0]["message"], &history[999]["errors"]),
            (&json!("x".repeat(50)), &json!([]))
        );
        assert!(history.to_string().len() <= MAX_BYTES + 2);
    }
}
