//! Requests that subscribers and publishers send over WebSocket.

use serde_json::value::RawValue;

use super::consumer::{self, AckRequest, JoinRequest};
use super::entity;
use super::error::{ApiError, ErrorCode};
use super::publish::{self, PublishHeaders, PublishRules, Scheduling};
use super::raw_object::RawObject;
use super::subscription::{Envelope, RequestId, Start, envelope, filter, log, pattern, request_id, start};
use crate::domain::entity::EntityType;
use crate::domain::event::Append;
use crate::domain::filter::Filter;
use crate::domain::log::LogId;
use crate::domain::pattern::Pattern;
use crate::domain::secret::Secret;

/// The actions a frame may ask for.
pub const ACTIONS: &[&str] =
    &["subscribe", "unsubscribe", "publish", "ack", "nack", "extend", "reject", "list", "ping", "auth"];

const SUBSCRIBE_FIELDS: &[&str] = &["action", "event_name", "id", "envelope", "after", "log_id", "filter", "snapshot"];

/// One request.
#[derive(Debug)]
pub enum Request {
    Subscribe {
        id: Option<RequestId>,
        pattern: Pattern,
        envelope: Envelope,
        filter: Option<Filter>,
        start: Start,
        /// The log that the subscriber has seen.
        log: Option<LogId>,
    },
    /// Takes a snapshot of all entities of a type, and subscribes to their changes.
    Watch {
        id: Option<RequestId>,
        kind: EntityType,
    },
    Unsubscribe {
        id: Option<RequestId>,
        pattern: Pattern,
    },
    /// Joins a durable subscription as a member.
    Join {
        id: Option<RequestId>,
        join: Box<JoinRequest>,
    },
    /// Leaves a durable subscription.
    Leave {
        id: Option<RequestId>,
        durable: String,
    },
    Ack(AckRequest),
    Publish {
        id: Option<RequestId>,
        append: Box<Append>,
    },
    List {
        id: Option<RequestId>,
    },
    Ping {
        id: Option<RequestId>,
        /// To be echoed: its exact JSON text.
        timestamp: Option<Box<RawValue>>,
    },
    /// The answer to a ping that this program does not send in JSON.
    Pong,
    /// Continues with this token.
    Authenticate {
        id: Option<RequestId>,
        token: Secret,
    },
}

/// A frame that is no valid request; with its id, if that could be read.
#[derive(Debug)]
pub struct BadRequest {
    pub id: Option<RequestId>,
    pub error: ApiError,
}

impl Request {
    /// Reads one text frame. `scheduling` is asked for a publish that is for later.
    ///
    /// Of a request's parts a token is the only secret one; no error repeats it.
    pub fn parse(
        text: &str,
        rules: &PublishRules,
        scheduling: impl FnOnce() -> Scheduling,
    ) -> Result<Self, BadRequest> {
        let unmarked = |error| BadRequest { id: None, error };
        let object = RawObject::parse(text.as_bytes(), "frame").map_err(unmarked)?;
        if let Some(sign) = sign_of_life(&object) {
            return Ok(sign);
        }
        let id = request_id(&object).map_err(unmarked)?;
        Self::read(&object, id.clone(), rules, scheduling).map_err(|error| BadRequest { id, error })
    }

    /// Whether the subscriber asks for more than plain event frames.
    pub fn asks_more(&self) -> bool {
        match self {
            Self::Subscribe { id, envelope, filter, start, log, .. } => {
                id.is_some()
                    || log.is_some()
                    || *envelope != Envelope::Plain
                    || filter.is_some()
                    || *start != Start::Now
            }
            Self::Unsubscribe { id, .. } | Self::Publish { id, .. } => id.is_some(),
            Self::Pong => false,
            Self::Watch { .. } | Self::Join { .. } | Self::Leave { .. } | Self::Ack(_) => true,
            Self::List { .. } | Self::Ping { .. } | Self::Authenticate { .. } => true,
        }
    }

    fn read(
        object: &RawObject<'_>,
        id: Option<RequestId>,
        rules: &PublishRules,
        scheduling: impl FnOnce() -> Scheduling,
    ) -> Result<Self, ApiError> {
        match &*object.required_text("action")? {
            "subscribe" => {
                let known: Vec<&str> = SUBSCRIBE_FIELDS.iter().chain(consumer::FIELDS).copied().collect();
                object.check(&known, true)?;
                if snapshot(object)? {
                    return Ok(Self::Watch { id, kind: watched(object)? });
                }
                if let Some(name) = consumer::name_of(object)? {
                    return Ok(Self::Join { id, join: Box::new(consumer::join_request(object, name)?) });
                }
                if let Some(field) = consumer::FIELDS.iter().find(|field| object.raw(field).is_some()) {
                    let reason = "goes with \"durable\", the name of a durable subscription";
                    return Err(ApiError::field(ErrorCode::InvalidField, field, reason));
                }
                let (envelope, start, log) = (envelope(object)?, start(object)?, log(object)?);
                Ok(Self::Subscribe { id, pattern: pattern(object)?, envelope, filter: filter(object)?, start, log })
            }
            "unsubscribe" => {
                object.check(&["action", "event_name", "durable", "id"], true)?;
                match consumer::name_of(object)? {
                    Some(durable) => Ok(Self::Leave { id, durable }),
                    None => Ok(Self::Unsubscribe { id, pattern: pattern(object)? }),
                }
            }
            "publish" => {
                let known: Vec<&str> = ["action", "id"].iter().chain(publish::FIELDS).copied().collect();
                object.check(&known, rules.refuse_unknown)?;
                let append = publish::append_from(object, &PublishHeaders::default(), scheduling)?;
                Ok(Self::Publish { id, append: Box::new(append) })
            }
            "list" => {
                object.check(&["action", "id"], true)?;
                Ok(Self::List { id })
            }
            "ping" => {
                object.check(&["action", "id"], true)?;
                Ok(Self::Ping { id, timestamp: None })
            }
            "auth" => {
                object.check(&["action", "token", "id"], true)?;
                Ok(Self::Authenticate { id, token: Secret::new(object.required_text("token")?) })
            }
            other => match consumer::ack_request(object, other)? {
                Some(request) => Ok(Self::Ack(request)),
                None => Err(ApiError::unknown(ErrorCode::UnknownAction, other, ACTIONS).with("field", "action")),
            },
        }
    }
}

fn snapshot(object: &RawObject<'_>) -> Result<bool, ApiError> {
    match object.raw("snapshot") {
        None | Some("null" | "false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(ApiError::field(ErrorCode::InvalidField, "snapshot", "must be true or false")),
    }
}

/// The type of which a snapshot is asked for.
fn watched(object: &RawObject<'_>) -> Result<EntityType, ApiError> {
    let others = ["after", "filter"].iter().chain(consumer::FIELDS);
    let is_given = |field: &&str| object.raw(field).is_some_and(|raw| raw != "null");
    if let Some(field) = others.copied().find(is_given) {
        return Err(ApiError::field(ErrorCode::InvalidField, field, "cannot be given with snapshot"));
    }
    envelope(object)?;
    log(object)?;
    entity::watched(&pattern(object)?, "event_name")
}

/// `{"type":"ping"}` and `{"type":"pong"}`, which may carry anything beside.
fn sign_of_life(object: &RawObject<'_>) -> Option<Request> {
    if object.raw("action").is_some() {
        return None;
    }
    match object.text("type").ok()??.as_ref() {
        "ping" => {
            let timestamp = object.raw("timestamp").and_then(|raw| RawValue::from_string(raw.to_owned()).ok());
            Some(Request::Ping { id: request_id(object).ok().flatten(), timestamp })
        }
        "pong" => Some(Request::Pong),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::Timestamp;

    const RULES: PublishRules = PublishRules { refuse_unknown: true, max_batch: 1, max_event_bytes: 1000 };

    fn parse(text: &str) -> Result<Request, BadRequest> {
        Request::parse(text, &RULES, || Scheduling { now: Timestamp(0), random: 7 })
    }

    #[test]
    fn reads_every_action() {
        assert!(matches!(
            parse(r#"{"action":"subscribe","event_name":"a.>","id":7,"envelope":"full","after":41}"#),
            Ok(Request::Subscribe { id: Some(id), envelope: Envelope::Full, start: Start::After(41), .. }) if id.get() == "7"
        ));
        assert!(matches!(
            parse(r#"{"action":"subscribe","event_name":"a","after":"earliest"}"#),
            Ok(Request::Subscribe { id: None, envelope: Envelope::Plain, start: Start::Earliest, .. })
        ));
        assert!(matches!(parse(r#"{"action":"unsubscribe","event_name":"a"}"#), Ok(Request::Unsubscribe { .. })));
        assert!(matches!(parse(r#"{"action":"publish","event_name":"a","payload":1}"#), Ok(Request::Publish { .. })));
        assert!(matches!(parse(r#"{"action":"list","id":"x"}"#), Ok(Request::List { id: Some(_) })));
        assert!(matches!(parse(r#"{"action":"ping"}"#), Ok(Request::Ping { .. })));
        assert!(matches!(parse(r#"{"type":"ping"}"#), Ok(Request::Ping { id: None, timestamp: None })));
        assert!(matches!(
            parse(r#"{"type":"ping","timestamp":17.50,"id":{},"x":1,"x":2}"#),
            Ok(Request::Ping { id: None, timestamp: Some(at) }) if at.get() == "17.50"
        ));
        assert!(matches!(parse(r#"{"type":"pong","timestamp":1}"#), Ok(Request::Pong)));
    }

    #[test]
    fn a_bad_request_keeps_its_mark() {
        for (text, code, marked) in [
            ("nonsense", ErrorCode::MalformedJson, false),
            ("[]", ErrorCode::InvalidField, false),
            ("{}", ErrorCode::MissingField, false),
            (r#"{"action":"fly","id":1}"#, ErrorCode::UnknownAction, true),
            (r#"{"action":"subscribe","id":1}"#, ErrorCode::MissingField, true),
            (r#"{"action":"subscribe","event_name":"a..b","id":1}"#, ErrorCode::InvalidField, true),
            (r#"{"action":"subscribe","event_name":"a","after":-1,"id":1}"#, ErrorCode::InvalidField, true),
            (r#"{"action":"subscribe","event_name":"a","evnelope":"full","id":1}"#, ErrorCode::UnknownField, true),
            (r#"{"action":"subscribe","event_name":"a","after":1,"log_id":"x","id":1}"#, ErrorCode::InvalidField, true),
            (r#"{"action":"ping","id":{}}"#, ErrorCode::InvalidField, false),
        ] {
            let bad = parse(text).expect_err(text);
            assert_eq!((bad.error.code(), bad.id.is_some()), (code, marked), "{text}");
        }
    }
}
