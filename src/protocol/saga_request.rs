//! Requests about instances of sagas: what operators say, to one or to many, and how one is begun by hand.

use bytestring::ByteString;

use super::error::{ApiError, ErrorCode};
use super::raw_object::RawObject;
use crate::domain::event::Timestamp;
use crate::domain::saga::{Correlation, Json, State, Verb};

/// All that operators may say.
pub const VERBS: [&str; 6] = ["retry", "skip", "compensate", "abort", "pause", "resume"];
/// Most instances that one request is about, and how many it is about if it does not say so.
pub const MAX_MANY: usize = 10_000;
const DEFAULT_MANY: usize = 1000;
/// Longest reason, in bytes.
const MAX_REASON: usize = 1024;

/// What the values of filters must be.
pub const EXPECTED_NAME: &str = "the name of a saga: 1 to 63 of a-z, 0-9, - and _";
pub const EXPECTED_ID: &str = "the id of an instance";
pub const EXPECTED_STATE: &str =
    "one of queued, running, waiting, compensating, completed, compensated, aborted, needs_operator";
pub const EXPECTED_CORRELATION: &str = "JSON: a string, a number, true or false";
pub const EXPECTED_TIME: &str = "an RFC 3339 time like 2026-01-31T12:00:00Z";

/// An operator's word, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub verb: Verb,
    pub reason: String,
}

/// An operator's word to many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManyRequest {
    pub order: Order,
    pub name: Option<String>,
    pub state: Option<State>,
    pub correlation: Option<Correlation>,
    pub started_before: Option<Timestamp>,
    /// Only those that are older than this one.
    pub after: Option<String>,
    pub limit: usize,
    /// Only count them.
    pub dry_run: bool,
}

/// Whether there is such a verb.
pub fn check_verb(verb: &str) -> Result<(), ApiError> {
    if VERBS.contains(&verb) { Ok(()) } else { Err(unknown(verb)) }
}

fn unknown(verb: &str) -> ApiError {
    let message = format!("a saga cannot be told to {verb:?}; known are {}", VERBS.join(", "));
    ApiError::new(ErrorCode::NotFound, message).with("known", VERBS.to_vec())
}

impl Order {
    /// Reads the body of a request to one instance. An empty one lacks its reason.
    pub fn parse(verb: &str, json: &[u8]) -> Result<Self, ApiError> {
        check_verb(verb)?;
        let object = RawObject::parse(or_empty(json), "body")?;
        object.check(fields(verb, &["reason"], &["reason", "result"]), true)?;
        Self::read(verb, &object)
    }

    fn read(verb: &str, object: &RawObject<'_>) -> Result<Self, ApiError> {
        let reason = object.required_text("reason")?.trim().to_owned();
        if reason.is_empty() || reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
            let expected = format!("must be 1 to {MAX_REASON} bytes without control characters");
            return Err(ApiError::field(ErrorCode::InvalidField, "reason", expected));
        }
        let verb = match verb {
            "retry" => Verb::Retry,
            "skip" => Verb::Skip { result: object.raw("result").and_then(Json::parse) },
            "compensate" => Verb::Compensate,
            "abort" => Verb::Abort,
            "pause" => Verb::Pause,
            "resume" => Verb::Resume,
            _ => return Err(unknown(verb)),
        };
        Ok(Self { verb, reason })
    }
}

impl ManyRequest {
    /// Reads the body of a request to many instances, which says which.
    pub fn parse(verb: &str, json: &[u8]) -> Result<Self, ApiError> {
        const FIELDS: [&str; 9] =
            ["name", "state", "correlation", "started_before", "after", "limit", "dry_run", "reason", "result"];
        check_verb(verb)?;
        let object = RawObject::parse(or_empty(json), "body")?;
        object.check(fields(verb, &FIELDS[..8], &FIELDS), true)?;
        let text = |raw: &str| serde_json::from_str::<String>(raw).ok();
        let request = Self {
            order: Order::read(verb, &object)?,
            name: read(&object, "name", EXPECTED_NAME, |raw| saga_name(&text(raw)?))?,
            state: read(&object, "state", EXPECTED_STATE, |raw| State::parse(&text(raw)?))?,
            correlation: read(&object, "correlation", EXPECTED_CORRELATION, Correlation::of)?,
            started_before: read(&object, "started_before", EXPECTED_TIME, |raw| Timestamp::parse(&text(raw)?))?,
            after: read(&object, "after", EXPECTED_ID, |raw| instance_id(&text(raw)?))?,
            limit: read(&object, "limit", &format!("an integer from 1 to {MAX_MANY}"), |raw| {
                raw.parse().ok().filter(|limit| (1..=MAX_MANY).contains(limit))
            })?
            .unwrap_or(DEFAULT_MANY),
            dry_run: read(&object, "dry_run", "true or false", |raw| raw.parse().ok())?.unwrap_or_default(),
        };
        let Self { name, state, correlation, started_before, .. } = &request;
        if name.is_none() && state.is_none() && correlation.is_none() && started_before.is_none() {
            let reason = "is required, or any other field that says which: state, correlation, started_before";
            return Err(ApiError::field(ErrorCode::MissingField, "name", reason));
        }
        Ok(request)
    }
}

/// Reads the body of a request that begins an instance by hand: its payload, `{}` if there is none.
pub fn start_payload(json: &[u8]) -> Result<ByteString, ApiError> {
    let object = RawObject::parse(or_empty(json), "body")?;
    object.check(&["payload"], true)?;
    Ok(object.raw("payload").unwrap_or("{}").into())
}

/// The payload that an instance was begun with by hand.
pub fn payload_of(trigger: &str) -> Option<&str> {
    RawObject::parse(trigger.as_bytes(), "trigger").ok()?.raw("payload")
}

/// A text that can be the name of a saga.
pub fn saga_name(text: &str) -> Option<String> {
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    ((1..=63).contains(&text.len()) && text.bytes().all(is_known)).then(|| text.to_owned())
}

/// A text that can be the id of an instance: a UUID.
pub fn instance_id(text: &str) -> Option<String> {
    let is_right = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    (text.len() == 36 && text.bytes().enumerate().all(is_right)).then(|| text.to_ascii_lowercase())
}

fn or_empty(json: &[u8]) -> &[u8] {
    if json.is_empty() { b"{}" } else { json }
}

/// Only `skip` has a result.
fn fields<'a>(verb: &str, without: &'a [&'a str], with: &'a [&'a str]) -> &'a [&'a str] {
    if verb == "skip" { with } else { without }
}

fn read<T>(
    object: &RawObject<'_>,
    field: &str,
    expected: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    let Some(raw) = object.raw(field).filter(|raw| *raw != "null") else { return Ok(None) };
    let refuse = || ApiError::field(ErrorCode::InvalidField, field, format!("must be {expected}"));
    read(raw).map(Some).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_a_reason() {
        let read = |verb: &str, json: &str| Order::parse(verb, json.as_bytes());
        let order = read("skip", r#"{"reason":" paid by hand ","result":{"n":1e400}}"#).expect("an order");
        assert_eq!(order.reason, "paid by hand");
        assert_eq!(order.verb, Verb::Skip { result: Json::parse(r#"{"n":1e400}"#) });
        for (verb, json, code, field) in [
            ("retry", "", ErrorCode::MissingField, "reason"),
            ("retry", r#"{"reason":" "}"#, ErrorCode::InvalidField, "reason"),
            ("retry", r#"{"reason":1}"#, ErrorCode::InvalidField, "reason"),
            ("retry", r#"{"reason":"a\nb"}"#, ErrorCode::InvalidField, "reason"),
            ("retry", r#"{"reason":"x","result":1}"#, ErrorCode::UnknownField, "result"),
            ("skip", r#"{"reason":"x","resutl":1}"#, ErrorCode::UnknownField, "resutl"),
        ] {
            let error = read(verb, json).expect_err("refused");
            assert_eq!((error.code(), error.details()["field"].as_str()), (code, Some(field)), "{json}");
        }
        assert_eq!(read("begin", r#"{"reason":"x"}"#).expect_err("refused").code(), ErrorCode::NotFound);
        assert!(VERBS.iter().all(|verb| read(verb, r#"{"reason":"x"}"#).is_ok()));
    }

    #[test]
    fn a_request_to_many_says_to_which() {
        let read = |json: &str| ManyRequest::parse("abort", json.as_bytes());
        let json = r#"{"reason":"x","name":"pay","state":"waiting","correlation":"a","dry_run":true,"limit":5,
            "started_before":"2026-01-31T12:00:00Z","after":"0190A000-0000-7000-8000-000000000000"}"#;
        let request = read(json).expect("a request");
        assert_eq!((request.name.as_deref(), request.state), (Some("pay"), Some(State::Waiting)));
        assert_eq!(request.correlation, Correlation::of("\"a\""));
        assert_eq!(request.after.as_deref(), Some("0190a000-0000-7000-8000-000000000000"));
        assert_eq!((request.limit, request.dry_run), (5, true));
        for (fields, code, field) in [
            ("", ErrorCode::MissingField, "name"),
            (r#","dry_run":true,"limit":7"#, ErrorCode::MissingField, "name"),
            (r#","name":"Pay""#, ErrorCode::InvalidField, "name"),
            (r#","state":"done""#, ErrorCode::InvalidField, "state"),
            (r#","correlation":[1]"#, ErrorCode::InvalidField, "correlation"),
            (r#","started_before":"soon""#, ErrorCode::InvalidField, "started_before"),
            (r#","name":"pay","after":"1""#, ErrorCode::InvalidField, "after"),
            (r#","name":"pay","limit":0"#, ErrorCode::InvalidField, "limit"),
            (r#","name":"pay","limit":10001"#, ErrorCode::InvalidField, "limit"),
            (r#","name":"pay","dry_run":1"#, ErrorCode::InvalidField, "dry_run"),
            (r#","nmae":"pay""#, ErrorCode::UnknownField, "nmae"),
        ] {
            let error = read(&format!(r#"{{"reason":"x"{fields}}}"#)).expect_err("refused");
            assert_eq!((error.code(), error.details()["field"].as_str()), (code, Some(field)), "{fields}");
        }
    }
}
