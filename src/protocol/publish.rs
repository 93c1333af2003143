//! The publish request: from JSON to a valid [`NewEvent`], or an error that names the field.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytestring::ByteString;
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use super::entity::change_from;
use super::error::{ApiError, ErrorCode};
use super::raw_object::RawObject;
use crate::domain::access::Caller;
use crate::domain::entity::EntityType;
use crate::domain::event::{Append, DEFAULT_SOURCE, Idempotency, NewEvent, Priority, Schedule, ScheduleId, Timestamp};
use crate::domain::name::EventName;

/// The fields of a publish request.
pub const FIELDS: &[&str] =
    &["event_name", "payload", "source", "priority", "key", "idempotency_key", "metadata", "entity", "deliver_at"];
/// Those of an event in a batch.
const BATCH_FIELDS: &[&str] = FIELDS.split_at(FIELDS.len() - 1).0;

/// Longest `source`, `key` and `idempotency_key`, in bytes.
pub const MAX_TEXT_BYTES: usize = 255;
/// Longest `metadata` as JSON text, in bytes.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;

/// How publish requests are read.
#[derive(Debug, Clone, Copy)]
pub struct PublishRules {
    /// Whether unknown fields are refused (the default) or ignored.
    pub refuse_unknown: bool,
    /// Most events in one batch.
    pub max_batch: usize,
    /// Longest single event as JSON text, in bytes.
    pub max_event_bytes: usize,
}

/// What the request's headers add to its body.
#[derive(Debug, Clone, Default)]
pub struct PublishHeaders<'a> {
    pub traceparent: Option<&'a str>,
    pub idempotency_key: Option<&'a str>,
}

/// What a scheduled publish needs and this module does not have: the time, and a random number.
#[derive(Debug, Clone, Copy)]
pub struct Scheduling {
    /// `deliver_at` has to be later.
    pub now: Timestamp,
    /// Names a schedule without an idempotency key.
    pub random: u128,
}

/// Reads `{"event_name":…,"payload":…,…}`.
pub fn parse_publish(
    json: &[u8],
    headers: &PublishHeaders<'_>,
    rules: &PublishRules,
    scheduling: impl FnOnce() -> Scheduling,
) -> Result<Append, ApiError> {
    let object = RawObject::parse(json, "body")?;
    object.check(FIELDS, rules.refuse_unknown)?;
    append_from(&object, headers, scheduling)
}

/// Reads the event in a frame or body whose fields are known to be allowed, and when it is to be appended.
pub fn append_from(
    object: &RawObject<'_>,
    headers: &PublishHeaders<'_>,
    scheduling: impl FnOnce() -> Scheduling,
) -> Result<Append, ApiError> {
    timed(object, events_from(object, headers)?, scheduling)
}

/// An event, and the change of an entity that belongs to it.
pub type Events = SmallVec<[NewEvent; 1]>;

/// The request to append `events` at the time that `object` has, if it has one.
pub(super) fn timed(
    object: &RawObject<'_>,
    mut events: Events,
    scheduling: impl FnOnce() -> Scheduling,
) -> Result<Append, ApiError> {
    let Some(text) = object.text("deliver_at")? else {
        return Ok(Append::of(events, None));
    };
    if events.len() > 1 {
        let reason = "cannot be changed later: give it without deliver_at";
        return Err(ApiError::field(ErrorCode::InvalidField, "entity", reason));
    }
    let mut event = events.remove(0);
    let Scheduling { now, random } = scheduling();
    let invalid = |reason| ApiError::field(ErrorCode::InvalidField, "deliver_at", reason);
    let due_at =
        Timestamp::parse(&text).ok_or_else(|| invalid("must be an RFC 3339 time like 2026-01-31T12:00:00Z"))?;
    // A repeated request is answered as the first one was, however late it comes.
    if due_at <= now && event.idempotency.is_none() {
        return Err(invalid("must be in the future"));
    }
    let id = match &mut event.idempotency {
        None => random,
        // The same key names the same schedule; with another time it is another request.
        Some(Idempotency { key, fingerprint }) => {
            *fingerprint = short_digest([&fingerprint[..], &due_at.0.to_le_bytes()]);
            schedule_of(key)
        }
    };
    Ok(Append::scheduled(event, Schedule { id: ScheduleId(id), due_at }))
}

/// Puts the idempotency keys of a request into the scope of `caller`, so that equal keys of other callers neither match
/// nor show. Callers without a token share one scope.
pub fn scope_keys(append: &mut Append, caller: &Caller) {
    let Some(principal) = caller.principal() else { return };
    let scope = |key: &str| Idempotency::scoped_key(principal.identity.kind(), principal.identity.value(), key);
    for event in &mut append.events {
        let Some(idempotency) = &mut event.idempotency else { continue };
        idempotency.key = scope(&idempotency.key);
        if let Some(schedule) = &mut append.schedule {
            schedule.id = ScheduleId(schedule_of(&idempotency.key));
        }
    }
    if let Some(idempotency) = &mut append.idempotency {
        idempotency.key = scope(&idempotency.key);
    }
}

fn schedule_of(key: &str) -> u128 {
    u128::from_be_bytes(short_digest([b"schedule", key.as_bytes()]))
}

pub(super) fn short_digest(parts: [&[u8]; 2]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(parts.concat())[..16]);
    short
}

/// Reads one event that is not to be appended later: of a batch, or to be explained.
pub fn parse_events(json: &[u8], headers: &PublishHeaders<'_>, rules: &PublishRules) -> Result<Events, ApiError> {
    let object = RawObject::parse(json, "body")?;
    object.check(BATCH_FIELDS, rules.refuse_unknown)?;
    events_from(&object, headers)
}

pub(super) fn events_from(object: &RawObject<'_>, headers: &PublishHeaders<'_>) -> Result<Events, ApiError> {
    let name = checked_name("event_name", object.required_text("event_name")?)?;
    let payload = ByteString::from(object.raw("payload").unwrap_or("{}"));
    let source = short_text(object, "source")?.unwrap_or(DEFAULT_SOURCE);
    let priority = priority(object)?;
    let key = short_text(object, "key")?;
    let metadata = metadata(object)?;
    let traceparent = traceparent(headers);
    let idempotency_key = idempotency_key(object, headers)?;
    let event =
        NewEvent { name, payload, source, priority, key, metadata, traceparent, idempotency: None, change: None };
    let change = match object.raw("entity") {
        None | Some("null") => None,
        Some(entity) => Some(change_from(entity, &event)?),
    };
    let mut events = Events::from_buf([event]);
    events.extend(change);
    events[0].idempotency = idempotency_key.map(|key| Idempotency { key, fingerprint: fingerprint(&events) });
    Ok(events)
}

/// The trace context of a request, if it is one.
pub fn traceparent(headers: &PublishHeaders<'_>) -> Option<ByteString> {
    headers.traceparent.filter(|text| is_traceparent(text)).map(ByteString::from)
}

/// A name that publishers may use, given in `field`.
pub(super) fn checked_name(field: &str, text: Cow<'_, str>) -> Result<EventName, ApiError> {
    let name = EventName::parse(text.into_owned())
        .map_err(|reason| ApiError::field(ErrorCode::InvalidField, field, reason))?;
    if name.is_system() {
        return Err(ApiError::field(ErrorCode::ReservedName, field, "names beginning with $sys. are reserved"));
    }
    if EntityType::of_change(&name).is_some() {
        let reason = "is the name of changes of entities: use PUT /state/{type}/{key}, or the field entity";
        return Err(ApiError::field(ErrorCode::ReservedName, field, reason));
    }
    Ok(name)
}

fn priority(object: &RawObject<'_>) -> Result<Priority, ApiError> {
    let Some(text) = object.text("priority")? else {
        return Ok(Priority::default());
    };
    Priority::parse(&text)
        .ok_or_else(|| ApiError::field(ErrorCode::InvalidField, "priority", "must be one of high, normal, low"))
}

fn short_text(object: &RawObject<'_>, field: &str) -> Result<Option<ByteString>, ApiError> {
    object.text(field)?.map(|text| checked_text(field, text)).transpose()
}

pub fn checked_text(field: &str, text: Cow<'_, str>) -> Result<ByteString, ApiError> {
    if text.is_empty() || text.len() > MAX_TEXT_BYTES {
        let reason = format!("must be 1 to {MAX_TEXT_BYTES} bytes, not {}", text.len());
        return Err(ApiError::field(ErrorCode::InvalidField, field, reason));
    }
    if text.chars().any(char::is_control) {
        return Err(ApiError::field(ErrorCode::InvalidField, field, "must not contain control characters"));
    }
    Ok(text.into_owned().into())
}

fn metadata(object: &RawObject<'_>) -> Result<Option<ByteString>, ApiError> {
    let Some(raw) = object.raw("metadata").filter(|raw| *raw != "null") else {
        return Ok(None);
    };
    let invalid = |reason: &str| ApiError::field(ErrorCode::InvalidField, "metadata", reason);
    let map: BTreeMap<String, String> =
        serde_json::from_str(raw).map_err(|_| invalid("must be an object whose values are strings"))?;
    if let Some(name) = RawObject::parse(raw.as_bytes(), "metadata")?.repeated() {
        let reason = format!("{name:?} is given twice");
        return Err(ApiError::field(ErrorCode::DuplicateField, "metadata", reason));
    }
    let text = serde_json::to_string(&map).map_err(|_| invalid("cannot be written as JSON"))?;
    if text.len() > MAX_METADATA_BYTES {
        return Err(invalid(&format!("must be at most {MAX_METADATA_BYTES} bytes")));
    }
    Ok(Some(text.into()))
}

fn idempotency_key(object: &RawObject<'_>, headers: &PublishHeaders<'_>) -> Result<Option<ByteString>, ApiError> {
    let in_body = short_text(object, "idempotency_key")?;
    let Some(in_header) = headers.idempotency_key else {
        return Ok(in_body);
    };
    let in_header = checked_text("Idempotency-Key", in_header.into())?;
    match in_body {
        Some(in_body) if in_body != in_header => {
            let reason = "differs from the header Idempotency-Key; give one of them";
            Err(ApiError::field(ErrorCode::InvalidField, "idempotency_key", reason))
        }
        _ => Ok(Some(in_header)),
    }
}

/// A digest of everything a publisher says of events; equal for a repeated request.
pub fn fingerprint(events: &[NewEvent]) -> [u8; 16] {
    let mut digest = Sha256::new();
    let mut part = |text: Option<&str>| {
        // The lengths keep neighbouring fields apart; an absent field has a length that no text has.
        digest.update(text.map_or(u64::MAX, |t| t.len() as u64).to_le_bytes());
        digest.update(text.unwrap_or_default());
    };
    for event in events {
        let NewEvent { name, payload, source, priority, key, metadata, traceparent: _, idempotency: _, change } = event;
        part(Some(name.as_str()));
        part(Some(payload));
        part(Some(source));
        part(Some(priority.as_str()));
        part(key.as_deref());
        // Empty metadata counts as none.
        part(metadata.as_deref().filter(|metadata| *metadata != "{}"));
        if let Some(change) = change {
            part(Some(change.op.as_str()));
            part(Some(&format!("{:?}", change.precondition)));
        }
    }
    let mut short = [0; 16];
    short.copy_from_slice(&digest.finalize()[..16]);
    short
}

/// Whether `text` has the shape of a W3C `traceparent` (version 00 and later), with ids that are not all zero.
pub(super) fn is_traceparent(text: &str) -> bool {
    let lower_hex = |s: &str| s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |s: &str| s.bytes().any(|b| b != b'0');
    let mut parts = text.split('-');
    let mut part = |size| parts.next().filter(|p| p.len() == size && lower_hex(p));
    let (Some(version), Some(trace), Some(parent), Some(_flags)) = (part(2), part(32), part(16), part(2)) else {
        return false;
    };
    text.len() <= MAX_TEXT_BYTES
        && text.bytes().all(|b| b.is_ascii_graphic())
        && (is_id(trace) && is_id(parent))
        && (parts.next().is_none() || version != "00")
        && version != "ff"
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: PublishRules = PublishRules { refuse_unknown: true, max_batch: 3, max_event_bytes: 200 };

    fn parse(json: &str) -> Result<NewEvent, ApiError> {
        parse_events(json.as_bytes(), &PublishHeaders::default(), &RULES).map(|mut events| events.remove(0))
    }

    fn refusal(json: &str) -> (ErrorCode, Option<String>) {
        let error = parse(json).expect_err("refused");
        (error.code(), error.details().get("field").and_then(|f| f.as_str()).map(str::to_owned))
    }

    #[test]
    fn reads_the_least_and_the_most() {
        let least = parse(r#"{"event_name":"user.created"}"#).expect("valid");
        assert_eq!((&*least.payload, &*least.source, least.priority), ("{}", "api", Priority::Normal));
        let most = parse(
            r#"{"event_name":"a","payload": [1.50,1e400] ,"source":"s","priority":"high","key":"k",
               "idempotency_key":"i","metadata":{"b":"2","a":"1"}}"#,
        )
        .expect("valid");
        assert_eq!(&*most.payload, "[1.50,1e400]");
        assert_eq!(most.metadata.as_deref(), Some(r#"{"a":"1","b":"2"}"#));
        assert!(most.idempotency.is_some());
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        let field = |name: &str| Some(name.to_owned());
        assert_eq!(refusal("{}"), (ErrorCode::MissingField, field("event_name")));
        assert_eq!(refusal(r#"{"event_name":7}"#), (ErrorCode::InvalidField, field("event_name")));
        assert_eq!(refusal(r#"{"event_name":"a.*"}"#), (ErrorCode::InvalidField, field("event_name")));
        assert_eq!(refusal(r#"{"event_name":"$sys.x"}"#), (ErrorCode::ReservedName, field("event_name")));
        assert_eq!(refusal(r#"{"event_name":"a","priority":"urgent"}"#), (ErrorCode::InvalidField, field("priority")));
        assert_eq!(refusal(r#"{"event_name":"a","source":""}"#), (ErrorCode::InvalidField, field("source")));
        assert_eq!(refusal(r#"{"event_name":"a","key":["x"]}"#), (ErrorCode::InvalidField, field("key")));
        assert_eq!(refusal(r#"{"event_name":"a","metadata":{"n":1}}"#), (ErrorCode::InvalidField, field("metadata")));
        let twice = r#"{"event_name":"a","metadata":{"n":"1","n":"1"}}"#;
        assert_eq!(refusal(twice), (ErrorCode::DuplicateField, field("metadata")));
        assert_eq!(refusal(r#"{"event_name":"a","pay_load":1}"#), (ErrorCode::UnknownField, field("pay_load")));
        assert_eq!(refusal("[]"), (ErrorCode::InvalidField, field("body")));
        assert_eq!(refusal("{\"event_name\":\"a\",\"payload\":{]}").0, ErrorCode::MalformedJson);
    }

    #[test]
    fn fingerprints_tell_requests_apart_but_not_their_spelling() {
        let print = |json: &str| parse(json).expect("valid").idempotency.expect("a key").fingerprint;
        let first = print(r#"{"event_name":"a","payload":1,"idempotency_key":"k"}"#);
        assert_eq!(first, print(r#"{ "idempotency_key":"k", "payload":1, "event_name":"a" }"#));
        assert_ne!(first, print(r#"{"event_name":"a","payload":2,"idempotency_key":"k"}"#));
        assert_eq!(first, print(r#"{"event_name":"a","payload":1,"idempotency_key":"k","metadata":{}}"#));
        assert_ne!(first, print(r#"{"event_name":"a","payload":1,"key":"x","idempotency_key":"k"}"#));
    }

    #[test]
    fn takes_only_well_formed_traceparents() {
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        assert!(is_traceparent("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"));
        assert!(!is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"));
        assert!(!is_traceparent("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"));
        for bad in [
            "",
            "00-short-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
