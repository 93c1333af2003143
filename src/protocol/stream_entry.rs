//! An entry of a Redis stream as a publish request: the fields of `/publish`, each as a text.

use std::borrow::Cow;

use serde_json::value::{RawValue, to_raw_value};

use super::error::{ApiError, ErrorCode};
use super::publish::{self, PublishHeaders, PublishRules, Scheduling, events_from, fingerprint, timed};
use super::raw_object::RawObject;
use crate::domain::event::{Append, Idempotency};
use crate::domain::ingest::Entry;

/// The source of an entry that names none.
const DEFAULT_SOURCE: &str = "redis";
/// The field that is a header over HTTP.
const TRACEPARENT: &str = "traceparent";
/// Fields whose text is JSON; that of the others is what it says.
const JSON_FIELDS: [&str; 3] = ["payload", "metadata", "entity"];

/// Reads an entry of `stream`. The errors are those of `/publish`.
///
/// An entry without an `idempotency_key` gets one of its id and content, so that it is stored once however often it is
/// read. For the same reason its `deliver_at` may have passed.
pub fn parse_entry(
    entry: &Entry,
    stream: &str,
    rules: &PublishRules,
    scheduling: impl FnOnce() -> Scheduling,
) -> Result<Append, ApiError> {
    let limit = rules.max_event_bytes;
    if entry.bytes() > limit {
        return Err(ApiError::new(ErrorCode::BodyTooLarge, format!("longer than {limit} bytes")));
    }
    let names: Vec<Cow<'_, str>> = entry.fields.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
    let values = names.iter().zip(&entry.fields).map(|(name, (_, value))| json(name, value));
    let values = values.collect::<Result<Vec<Value<'_>>, _>>()?;
    let object = RawObject::of(names.iter().map(|name| &**name).zip(values.iter().map(Value::get)));
    let known: Vec<&str> = publish::FIELDS.iter().copied().chain([TRACEPARENT]).collect();
    object.check(&known, rules.refuse_unknown)?;
    let traceparent = object.text(TRACEPARENT)?;
    let headers = PublishHeaders { traceparent: traceparent.as_deref(), idempotency_key: None };
    let mut events = events_from(&object, &headers)?;
    if object.raw("source").is_none() {
        events.iter_mut().for_each(|event| event.source = DEFAULT_SOURCE.into());
    }
    let fingerprint = fingerprint(&events);
    match &mut events[0].idempotency {
        // The source is part of what was said.
        Some(given) => given.fingerprint = fingerprint,
        none => *none = Some(Idempotency { key: Idempotency::entry_key(stream, entry.id, fingerprint), fingerprint }),
    }
    timed(&object, events, scheduling)
}

/// The JSON text of a value.
enum Value<'a> {
    Given(&'a RawValue),
    Made(Box<RawValue>),
}

impl Value<'_> {
    fn get(&self) -> &RawValue {
        match self {
            Self::Given(value) => value,
            Self::Made(value) => value,
        }
    }
}

fn json<'a>(field: &str, value: &'a [u8]) -> Result<Value<'a>, ApiError> {
    let text =
        std::str::from_utf8(value).map_err(|_| ApiError::field(ErrorCode::InvalidField, field, "must be UTF-8"))?;
    let malformed = |error| ApiError::field(ErrorCode::MalformedJson, field, format_args!("not valid JSON: {error}"));
    if JSON_FIELDS.contains(&field) {
        return serde_json::from_str(text).map(Value::Given).map_err(malformed);
    }
    to_raw_value(text).map(Value::Made).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{NewEvent, Priority, Timestamp};
    use crate::domain::ingest::EntryId;

    const RULES: PublishRules = PublishRules { refuse_unknown: true, max_batch: 1, max_event_bytes: 300 };
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn entry(id: u64, fields: &[(&str, &str)]) -> Entry {
        let fields = fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        Entry { id: EntryId { time: id, number: 0 }, fields: fields.collect() }
    }

    fn parse(entry: &Entry) -> Result<Append, ApiError> {
        parse_entry(entry, "events:in", &RULES, || Scheduling { now: Timestamp(0), random: 7 })
    }

    fn event(fields: &[(&str, &str)]) -> NewEvent {
        parse(&entry(1, fields)).expect("valid").events.remove(0)
    }

    fn refusal(fields: &[(&str, &str)]) -> (ErrorCode, String) {
        let error = parse(&entry(1, fields)).expect_err("refused");
        (error.code(), error.details().get("field").and_then(|f| f.as_str()).unwrap_or_default().to_owned())
    }

    #[test]
    fn an_entry_is_a_publish() {
        let least = event(&[("event_name", "a")]);
        assert_eq!((&*least.payload, &*least.source, least.priority), ("{}", "redis", Priority::Normal));
        let most = event(&[
            ("event_name", "a"),
            ("payload", r#" {"n": 1e400} "#),
            ("source", "s"),
            ("priority", "high"),
            ("key", "null"),
            ("metadata", r#"{"b":"2","a":"1"}"#),
            ("traceparent", PARENT),
        ]);
        assert_eq!((&*most.payload, &*most.source), (r#"{"n": 1e400}"#, "s"));
        assert_eq!((most.priority, most.key.as_deref()), (Priority::High, Some("null")));
        assert_eq!(most.metadata.as_deref(), Some(r#"{"a":"1","b":"2"}"#));
        assert_eq!(most.traceparent.as_deref(), Some(PARENT));
        assert_eq!(event(&[("event_name", "a"), ("traceparent", "what")]).traceparent, None);
    }

    #[test]
    fn what_cannot_be_an_event_is_refused_as_by_publish() {
        let field = |code, name: &str| (code, name.to_owned());
        assert_eq!(refusal(&[("payload", "1")]), field(ErrorCode::MissingField, "event_name"));
        assert_eq!(refusal(&[]), field(ErrorCode::MissingField, "event_name"));
        assert_eq!(refusal(&[("event_name", "$sys.a")]), field(ErrorCode::ReservedName, "event_name"));
        let with = |name, value| refusal(&[("event_name", "a"), (name, value)]);
        assert_eq!(with("payload", "{"), field(ErrorCode::MalformedJson, "payload"));
        assert_eq!(with("payload", r#"1,"source":"x""#), field(ErrorCode::MalformedJson, "payload"));
        assert_eq!(with("payload", ""), field(ErrorCode::MalformedJson, "payload"));
        assert_eq!(with("metadata", "[1]"), field(ErrorCode::InvalidField, "metadata"));
        assert_eq!(with("source", ""), field(ErrorCode::InvalidField, "source"));
        assert_eq!(with("deliver_at", "soon"), field(ErrorCode::InvalidField, "deliver_at"));
        assert_eq!(with("event_name", "a"), field(ErrorCode::DuplicateField, "event_name"));
        assert_eq!(with("pay_load", "1"), field(ErrorCode::UnknownField, "pay_load"));
        assert_eq!(with("payload", &format!("\"{}\"", "x".repeat(300))).0, ErrorCode::BodyTooLarge);
        let mut binary = entry(1, &[("event_name", "a"), ("key", "k")]);
        binary.fields[1].1 = vec![0xff];
        assert_eq!(parse(&binary).expect_err("refused").code(), ErrorCode::InvalidField);
        binary.fields[1] = (vec![0xff], b"k".to_vec());
        assert_eq!(parse(&binary).expect_err("refused").code(), ErrorCode::UnknownField);
    }

    #[test]
    fn an_entry_is_known_by_its_id_and_content() {
        let key = |id, fields: &[(&str, &str)]| {
            let append = parse(&entry(id, fields)).expect("valid");
            append.events[0].idempotency.clone().expect("a key").key
        };
        let first = key(1, &[("event_name", "a"), ("payload", "1")]);
        assert_eq!(first, key(1, &[("payload", "1"), ("event_name", "a")]));
        assert_ne!(first, key(2, &[("event_name", "a"), ("payload", "1")]));
        assert_ne!(first, key(1, &[("event_name", "a"), ("payload", "2")]));
        assert_eq!(Idempotency::bare_key(&first), None, "no key of a publisher");
        assert_eq!(key(1, &[("event_name", "a"), ("idempotency_key", "mine")]), "mine");
        // As by HTTP, if it says the same.
        let own = event(&[("event_name", "a"), ("source", "api"), ("idempotency_key", "mine")]);
        let json = br#"{"event_name":"a","idempotency_key":"mine"}"#;
        let by_http = publish::parse_events(json, &PublishHeaders::default(), &RULES).expect("valid");
        assert_eq!(own.idempotency, by_http[0].idempotency);
    }

    #[test]
    fn an_entry_may_be_due_already_and_is_the_same_schedule_each_time() {
        let fields = [("event_name", "a"), ("deliver_at", "1969-01-01T00:00:00Z")];
        let schedule = |id| parse(&entry(id, &fields)).expect("valid").schedule.expect("for later");
        assert_eq!(schedule(1), schedule(1));
        assert_ne!(schedule(1).id, schedule(2).id);
    }
}
