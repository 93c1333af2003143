//! An envelope that somebody else has published: what it says as a publish request.

use super::envelope::ALL;
use super::error::{ApiError, ErrorCode};
use super::publish::{PublishRules, checked_name, checked_text, short_digest};
use super::raw_object::RawObject;
use crate::domain::event::{Idempotency, NewEvent, Priority};
use crate::domain::log::EventUuid;

/// An event as it was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub event: NewEvent,
    /// The UUID of its envelope, if it may be that of an event of ours.
    pub uuid: Option<EventUuid>,
    /// Milliseconds since the Unix epoch, as the envelope says.
    pub timestamp: Option<i64>,
}

/// Reads `{"id","timestamp","type","source","version","data"}`, of which `id`, `timestamp` and `version` may be missing
/// and others be there. `random` makes an envelope without an id one of its own.
pub fn read_envelope(message: &[u8], rules: &PublishRules, random: u128) -> Result<Heard, ApiError> {
    let limit = rules.max_event_bytes;
    if message.len() > limit {
        return Err(ApiError::new(ErrorCode::BodyTooLarge, format!("longer than {limit} bytes")));
    }
    let object = RawObject::parse(message, "message")?;
    object.check(&[], false)?;
    let name = checked_name("type", object.required_text("type")?)?;
    if name.as_str() == ALL {
        return Err(ApiError::field(ErrorCode::ReservedName, "type", "is the name of the channel of all events"));
    }
    let source = checked_text("source", object.required_text("source")?)?;
    let payload = object.raw("data").ok_or_else(|| ApiError::field(ErrorCode::MissingField, "data", "is missing"))?;
    if !payload.starts_with('{') {
        return Err(ApiError::field(ErrorCode::InvalidField, "data", "must be an object"));
    }
    let id = object.text("id")?.filter(|id| !id.is_empty());
    let digest = id.as_ref().map_or(random.to_be_bytes(), |id| short_digest([b"envelope", id.as_bytes()]));
    // What has the same id is the same, whatever it says.
    let idempotency = Idempotency { key: Idempotency::heard_key(digest), fingerprint: digest };
    Ok(Heard {
        event: NewEvent {
            name,
            payload: payload.to_owned().into(),
            source,
            priority: Priority::default(),
            key: None,
            metadata: None,
            traceparent: None,
            idempotency: Some(idempotency),
            change: None,
        },
        uuid: id.and_then(|id| EventUuid::parse(&id)),
        timestamp: object.raw("timestamp").and_then(|timestamp| timestamp.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: PublishRules = PublishRules { refuse_unknown: true, max_batch: 1, max_event_bytes: 300 };

    fn read(message: &str, random: u128) -> Result<Heard, ApiError> {
        read_envelope(message.as_bytes(), &RULES, random)
    }

    #[test]
    fn an_envelope_is_an_event() {
        let whole = r#"{"id":"6BA7B810-9dad-51d1-80b4-00c04fd430c8","timestamp":1690891200123,"type":"lot:won","source":"AUCTION_ENGINE","version":"1.0.0","data":{"n": 1e400, "a":"\u00e4"},"more":[1]}"#;
        let Heard { event, uuid, timestamp } = read(whole, 1).expect("valid");
        assert_eq!((event.name.as_str(), &*event.source), ("lot:won", "AUCTION_ENGINE"));
        assert_eq!(&*event.payload, r#"{"n": 1e400, "a":"\u00e4"}"#);
        assert_eq!(uuid.map(|uuid| uuid.to_string()).as_deref(), Some("6ba7b810-9dad-51d1-80b4-00c04fd430c8"));
        assert_eq!(timestamp, Some(1_690_891_200_123));
        assert!(Idempotency::is_heard(&event.idempotency.expect("a key").key));
        let least = read(r#"{"type":"a","source":"s","data":{},"id":null,"timestamp":"soon"}"#, 1).expect("valid");
        assert_eq!((least.uuid, least.timestamp), (None, None));
    }

    #[test]
    fn an_envelope_is_known_by_its_id_alone() {
        let key = |id: &str, n: u32, random| {
            let message = format!(r#"{{{id}"type":"a","source":"s","data":{{"n":{n}}}}}"#);
            read(&message, random).expect("valid").event.idempotency.expect("a key")
        };
        assert_eq!(key(r#""id":"x","#, 1, 1), key(r#""id":"x","#, 2, 2));
        assert_ne!(key(r#""id":"x","#, 1, 1).key, key(r#""id":"y","#, 1, 1).key);
        assert_ne!(key("", 1, 1).key, key("", 1, 2).key, "without an id each is new");
        assert_ne!(key(r#""id":"","#, 1, 1).key, key(r#""id":"","#, 1, 2).key);
        assert_eq!(Idempotency::bare_key(&key(r#""id":"x","#, 1, 1).key), None, "no key of a publisher");
    }

    #[test]
    fn what_cannot_be_an_event_is_refused() {
        let refusal = |message: &str| read(message, 1).expect_err("refused").code();
        for (message, code) in [
            ("hello", ErrorCode::MalformedJson),
            ("[]", ErrorCode::InvalidField),
            (r#"{"source":"s","data":{}}"#, ErrorCode::MissingField),
            (r#"{"type":"a","data":{}}"#, ErrorCode::MissingField),
            (r#"{"type":"a","source":"s"}"#, ErrorCode::MissingField),
            (r#"{"type":"a","source":"s","data":[1]}"#, ErrorCode::InvalidField),
            (r#"{"type":"a.*","source":"s","data":{}}"#, ErrorCode::InvalidField),
            (r#"{"type":7,"source":"s","data":{}}"#, ErrorCode::InvalidField),
            (r#"{"type":"a","source":"s","data":{},"id":7}"#, ErrorCode::InvalidField),
            (r#"{"type":"a","type":"b","source":"s","data":{}}"#, ErrorCode::DuplicateField),
            (r#"{"type":"$sys.a","source":"s","data":{}}"#, ErrorCode::ReservedName),
            (r#"{"type":"all","source":"s","data":{}}"#, ErrorCode::ReservedName),
        ] {
            assert_eq!(refusal(message), code, "{message}");
        }
        let long = format!(r#"{{"type":"a","source":"s","data":{{"x":"{}"}}}}"#, "x".repeat(300));
        assert_eq!(refusal(&long), ErrorCode::BodyTooLarge);
        assert_eq!(read_envelope(&[0xff], &RULES, 1).expect_err("refused").code(), ErrorCode::MalformedJson);
    }
}
