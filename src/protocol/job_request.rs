//! Requests for redrives, replays, moves and cancellations: which deliveries they are about.

use serde_json::Value;

use super::error::{ApiError, ErrorCode};
use super::raw_object::RawObject;
use crate::domain::event::{EventId, Timestamp};
use crate::domain::pattern::Pattern;

const REDRIVE: &[&str] = &["event_id", "service", "since", "until", "from", "to", "event_name", "dry_run"];
const REPLAY: &[&str] = &["service", "since", "until", "from", "to", "event_name", "dry_run"];
/// Most patterns in one request.
const MAX_PATTERNS: usize = 100;

/// Which deliveries: those that match every field that is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobRequest {
    pub service: Option<String>,
    /// Inclusive, as are all bounds.
    pub from: Option<EventId>,
    pub to: Option<EventId>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Events of any of these names or patterns; all events if it is empty.
    pub patterns: Vec<Pattern>,
    /// Only count them.
    pub dry_run: bool,
}

impl JobRequest {
    /// Reads a request to redrive dead deliveries. `event_id` is `from` and `to` in one.
    pub fn redrive(json: &[u8]) -> Result<Self, ApiError> {
        let object = RawObject::parse(json, "body")?;
        object.check(REDRIVE, true)?;
        let mut request = Self::read(&object)?;
        if let Some(id) = event_id(&object, "event_id")? {
            let others = ["since", "until", "from", "to", "event_name"];
            if let Some(field) = others.into_iter().find(|field| is_given(&object, field)) {
                return Err(ApiError::field(ErrorCode::InvalidField, field, "does not go with event_id"));
            }
            (request.from, request.to) = (Some(id), Some(id));
        }
        if request == (Self { dry_run: request.dry_run, ..Self::default() }) {
            let reason =
                "is required, or any other field that says which: event_id, since, until, from, to, event_name";
            return Err(ApiError::field(ErrorCode::MissingField, "service", reason));
        }
        Ok(request)
    }

    /// Reads a request to replay stored events to a service.
    pub fn replay(json: &[u8]) -> Result<Self, ApiError> {
        let object = RawObject::parse(json, "body")?;
        object.check(REPLAY, true)?;
        let request = Self::read(&object)?;
        object.required_text("service")?;
        if request.from.is_none() && request.since.is_none() {
            let reason = "is required, or since; 1 is the first event";
            return Err(ApiError::field(ErrorCode::MissingField, "from", reason));
        }
        Ok(request)
    }

    fn read(object: &RawObject<'_>) -> Result<Self, ApiError> {
        Ok(Self {
            service: object.text("service")?.map(Into::into),
            from: event_id(object, "from")?,
            to: event_id(object, "to")?,
            since: time(object, "since")?,
            until: time(object, "until")?,
            patterns: patterns(object)?,
            dry_run: flag(object, "dry_run")?,
        })
    }
}

/// A request to move the deliveries of one service to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveRequest {
    pub from: String,
    pub to: String,
    /// Only count them.
    pub dry_run: bool,
}

impl MoveRequest {
    /// Reads the body of `POST /admin/deliveries/move`.
    pub fn parse(json: &[u8]) -> Result<Self, ApiError> {
        let object = RawObject::parse(json, "body")?;
        object.check(&["from", "to", "dry_run"], true)?;
        let text = |field| object.required_text(field).map(Into::into);
        Ok(Self { from: text("from")?, to: text("to")?, dry_run: flag(&object, "dry_run")? })
    }
}

/// A request to cancel the deliveries of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelRequest {
    pub service: String,
    /// Only count them.
    pub dry_run: bool,
}

impl CancelRequest {
    /// Reads the body of `POST /admin/deliveries/cancel`.
    pub fn parse(json: &[u8]) -> Result<Self, ApiError> {
        let object = RawObject::parse(json, "body")?;
        object.check(&["service", "dry_run"], true)?;
        Ok(Self { service: object.required_text("service")?.into(), dry_run: flag(&object, "dry_run")? })
    }
}

fn is_given(object: &RawObject<'_>, field: &str) -> bool {
    object.raw(field).is_some_and(|raw| raw != "null")
}

fn read<T>(
    object: &RawObject<'_>,
    field: &str,
    expected: &str,
    read: fn(Value) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    let Some(raw) = object.raw(field).filter(|raw| *raw != "null") else { return Ok(None) };
    let value = serde_json::from_str(raw).ok().and_then(read);
    let refuse = || ApiError::field(ErrorCode::InvalidField, field, format!("must be {expected}"));
    value.map(Some).ok_or_else(refuse)
}

fn event_id(object: &RawObject<'_>, field: &str) -> Result<Option<EventId>, ApiError> {
    read(object, field, "an event id: an integer from 1", |value| value.as_i64().filter(|id| *id > 0))
}

fn time(object: &RawObject<'_>, field: &str) -> Result<Option<Timestamp>, ApiError> {
    read(object, field, "an RFC 3339 time like 2026-01-31T12:00:00Z", |value| Timestamp::parse(value.as_str()?))
}

fn flag(object: &RawObject<'_>, field: &str) -> Result<bool, ApiError> {
    Ok(read(object, field, "true or false", |value| value.as_bool())?.unwrap_or_default())
}

/// One pattern, or a list of them.
fn patterns(object: &RawObject<'_>) -> Result<Vec<Pattern>, ApiError> {
    let texts = read(object, "event_name", "a pattern, or a list of at least one", |value| match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(items) if (1..=MAX_PATTERNS).contains(&items.len()) => {
            items.into_iter().map(|item| item.as_str().map(str::to_owned)).collect()
        }
        _ => None,
    })?;
    let pattern = |text: String| {
        Pattern::parse(text).map_err(|reason| ApiError::field(ErrorCode::InvalidField, "event_name", reason))
    };
    texts.unwrap_or_default().into_iter().map(pattern).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_given() {
        let json =
            br#"{"service":"a","from":3,"until":"2026-01-31T12:00:00Z","event_name":["a.*","b"],"dry_run":true}"#;
        let request = JobRequest::redrive(json).expect("valid");
        assert_eq!(JobRequest::replay(json), Ok(request.clone()));
        assert_eq!((request.service.as_deref(), request.from, request.to), (Some("a"), Some(3), None));
        assert_eq!(request.until, Timestamp::parse("2026-01-31T12:00:00Z"));
        assert_eq!(request.patterns.iter().map(Pattern::as_str).collect::<Vec<_>>(), ["a.*", "b"]);
        assert!(request.dry_run);
        let one = JobRequest::redrive(br#"{"event_id":7,"event_name":null}"#).expect("valid");
        assert_eq!(one, JobRequest { from: Some(7), to: Some(7), ..JobRequest::default() });
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        type Read = fn(&[u8]) -> Result<JobRequest, ApiError>;
        let (redrive, replay): (Read, Read) = (JobRequest::redrive, JobRequest::replay);
        for (read, json, code, field) in [
            (redrive, "{}", ErrorCode::MissingField, "service"),
            (redrive, r#"{"dry_run":true}"#, ErrorCode::MissingField, "service"),
            (redrive, r#"{"event_id":0}"#, ErrorCode::InvalidField, "event_id"),
            (redrive, r#"{"event_id":1,"to":2}"#, ErrorCode::InvalidField, "to"),
            (redrive, r#"{"services":"a"}"#, ErrorCode::UnknownField, "services"),
            (redrive, r#"{"service":1}"#, ErrorCode::InvalidField, "service"),
            (redrive, r#"{"since":"yesterday"}"#, ErrorCode::InvalidField, "since"),
            (redrive, r#"{"event_name":[]}"#, ErrorCode::InvalidField, "event_name"),
            (redrive, r#"{"event_name":"a..b"}"#, ErrorCode::InvalidField, "event_name"),
            (redrive, r#"{"service":"a","dry_run":1}"#, ErrorCode::InvalidField, "dry_run"),
            (redrive, r#"{"service":"a","service":"b"}"#, ErrorCode::DuplicateField, "service"),
            (replay, r#"{"from":1}"#, ErrorCode::MissingField, "service"),
            (replay, r#"{"service":"a"}"#, ErrorCode::MissingField, "from"),
            (replay, r#"{"service":"a","event_id":1}"#, ErrorCode::UnknownField, "event_id"),
        ] {
            let error = read(json.as_bytes()).expect_err("refused");
            assert_eq!((error.code(), error.details()["field"].as_str()), (code, Some(field)), "{json}");
        }
    }
}
