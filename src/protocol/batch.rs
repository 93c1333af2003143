//! Batches of events: a JSON array, or one event a line.

use super::error::{ApiError, ErrorCode};
use super::publish::{Events, PublishHeaders, PublishRules, checked_text, fingerprint, parse_events};
use super::raw_object::without_bom;
use crate::domain::event::{Append, Idempotency};

/// Reads a batch: a JSON array of events.
pub fn parse_array(json: &[u8], headers: &PublishHeaders<'_>, rules: &PublishRules) -> Result<Append, ApiError> {
    parse_array_of((parse_events, 1), json, headers, rules)
}

/// Reads a batch: a JSON array of what the first part reads, and at least so many of them.
pub(super) fn parse_array_of(
    items_of: (ParseItem, usize),
    json: &[u8],
    headers: &PublishHeaders<'_>,
    rules: &PublishRules,
) -> Result<Append, ApiError> {
    let json = without_bom(json);
    let items: Vec<&serde_json::value::RawValue> = serde_json::from_slice(json).map_err(|error| {
        if error.is_data() && serde_json::from_slice::<&serde_json::value::RawValue>(json).is_ok() {
            ApiError::field(ErrorCode::InvalidField, "body", "must be a JSON array of events")
        } else {
            ApiError::new(ErrorCode::MalformedJson, format!("not valid JSON: {error}"))
        }
    })?;
    batch(items.iter().map(|item| item.get().as_bytes()), items.len(), headers, rules, items_of)
}

/// Reads a batch: one event a line. Empty lines are skipped.
pub fn parse_ndjson(text: &[u8], headers: &PublishHeaders<'_>, rules: &PublishRules) -> Result<Append, ApiError> {
    let text = without_bom(text);
    let lines = || text.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty());
    batch(lines(), lines().count(), headers, rules, (parse_events, 1))
}

/// How one item of a batch is read.
type ParseItem = fn(&[u8], &PublishHeaders<'_>, &PublishRules) -> Result<Events, ApiError>;

fn batch<'a>(
    items: impl Iterator<Item = &'a [u8]>,
    count: usize,
    headers: &PublishHeaders<'_>,
    rules: &PublishRules,
    (parse, least): (ParseItem, usize),
) -> Result<Append, ApiError> {
    if count < least || count > rules.max_batch {
        let reason = format!("must hold {least} to {} events, not {count}", rules.max_batch);
        return Err(ApiError::field(ErrorCode::InvalidField, "body", reason));
    }
    let item_headers = PublishHeaders { traceparent: headers.traceparent, idempotency_key: None };
    let mut events = smallvec::SmallVec::with_capacity(count);
    let mut errors = Vec::new();
    for (index, item) in items.enumerate() {
        let event = if item.len() > rules.max_event_bytes {
            Err(ApiError::new(ErrorCode::BodyTooLarge, format!("longer than {} bytes", rules.max_event_bytes)))
        } else {
            parse(item, &item_headers, rules)
        };
        match event {
            Ok(item) => events.extend(item),
            Err(error) => errors.push(error.to_item(index)),
        }
    }
    if !errors.is_empty() {
        let message = format!("{} of {count} events are invalid; nothing was stored", errors.len());
        return Err(ApiError::new(ErrorCode::InvalidBatch, message).with("errors", errors));
    }
    let idempotency = match headers.idempotency_key {
        Some(key) => {
            Some(Idempotency { key: checked_text("Idempotency-Key", key.into())?, fingerprint: fingerprint(&events) })
        }
        None => None,
    };
    Ok(Append::of(events, idempotency))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: PublishRules = PublishRules { refuse_unknown: true, max_batch: 3, max_event_bytes: 200 };

    #[test]
    fn a_batch_lists_every_bad_item() {
        let headers = PublishHeaders::default();
        let error = parse_array(br#"[{"event_name":"a"},{"event_name":""},7]"#, &headers, &RULES).expect_err("refused");
        let indexes: Vec<_> =
            error.details()["errors"].as_array().expect("a list").iter().map(|e| e["index"].as_u64()).collect();
        assert_eq!(indexes, [Some(1), Some(2)]);
        let lines =
            parse_ndjson(b"{\"event_name\":\"a\"}\n\n{\"event_name\":\"b\"}\r\n", &headers, &RULES).expect("valid");
        assert_eq!(lines.events.len(), 2);
        for too_many_or_none in ["[]", "[{},{},{},{}]", "{}"] {
            let error = parse_array(too_many_or_none.as_bytes(), &headers, &RULES).expect_err("refused");
            assert_eq!(error.code(), ErrorCode::InvalidField, "{too_many_or_none}");
        }
    }
}
