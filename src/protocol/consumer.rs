//! Durable subscriptions on the wire: requests of members, and the frames they get.

use std::time::Duration;

use super::error::{ApiError, ErrorCode};
use super::event_json::full_frame_text;
use super::frame::Subscribed;
use super::raw_object::RawObject;
use super::subscription::{Envelope, RequestId, Start, envelope, filter, log, pattern, start};
use crate::domain::consumer::{ConsumerPolicy, HeldBy};
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::filter::Filter;
use crate::domain::log::LogId;
use crate::domain::pattern::Pattern;

/// Longest name of a durable subscription, in bytes.
const MAX_NAME: usize = 64;
/// Bounds of what a member may ask for.
const ACK_WAIT: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(24 * 3600);
const MAX_IN_FLIGHT: u64 = 10_000;
const MAX_DELIVER: u64 = 1_000_000;
const MAX_DELAY: Duration = Duration::from_secs(24 * 3600);

/// The fields of a subscription that make it a durable one.
pub const FIELDS: &[&str] = &["durable", "ack_wait", "ack_wait_ms", "max_in_flight", "max_deliver"];

/// A wish to be a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    pub name: String,
    pub pattern: Pattern,
    pub filter: Option<Filter>,
    /// Where it begins if it is new.
    pub start: Start,
    /// The log that the member has seen.
    pub log: Option<LogId>,
    pub policy: PolicyRequest,
}

/// How events are to be delivered, as far as the member says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyRequest {
    pub ack_wait: Option<Duration>,
    pub max_in_flight: Option<u32>,
    pub max_deliver: Option<u32>,
}

impl PolicyRequest {
    /// With `otherwise` for what it does not say.
    pub fn over(self, otherwise: ConsumerPolicy) -> ConsumerPolicy {
        ConsumerPolicy {
            ack_wait: self.ack_wait.unwrap_or(otherwise.ack_wait),
            max_in_flight: self.max_in_flight.unwrap_or(otherwise.max_in_flight),
            max_deliver: self.max_deliver.unwrap_or(otherwise.max_deliver),
        }
    }
}

/// What a member says of an event that it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckRequest {
    pub event_id: EventId,
    /// Needed where the connection is a member of several.
    pub durable: Option<String>,
    pub kind: AckKind,
}

/// What is to become of the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckKind {
    /// It is processed.
    Ack,
    /// It is processed, and so is every event of a lower id that this connection was given.
    AckThrough,
    /// It is to be delivered again, after this time.
    Nack(Duration),
    /// The member needs more time for it.
    Extend,
    /// It is never to be delivered again, because no member can process it.
    Reject,
}

impl AckKind {
    /// The type of the frame that confirms it.
    fn done(self) -> &'static str {
        match self {
            Self::Ack | Self::AckThrough => "acked",
            Self::Nack(_) => "nacked",
            Self::Extend => "extended",
            Self::Reject => "rejected",
        }
    }
}

/// Whether a subscribe or unsubscribe request is about a durable subscription.
pub fn name_of(object: &RawObject<'_>) -> Result<Option<String>, ApiError> {
    let Some(name) = object.text("durable")? else { return Ok(None) };
    let is_ok = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    // Paths cannot name the last two.
    let is_bad = name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_ok) || [".", ".."].contains(&&*name);
    if is_bad {
        let reason =
            format!("must be 1 to {MAX_NAME} of a-z, A-Z, 0-9, \"-\", \"_\" and \".\", and neither \".\" nor \"..\"");
        return Err(ApiError::field(ErrorCode::InvalidField, "durable", reason));
    }
    Ok(Some(name.into_owned()))
}

/// The rest of a subscribe request for `name`, whose fields are known.
pub fn join_request(object: &RawObject<'_>, name: String) -> Result<JoinRequest, ApiError> {
    if object.raw("envelope").is_some() && envelope(object)? == Envelope::Plain {
        let reason = "must be \"full\" for a durable subscription: its events are acknowledged by their ids";
        return Err(ApiError::field(ErrorCode::InvalidField, "envelope", reason));
    }
    let policy = PolicyRequest {
        ack_wait: ack_wait(object)?,
        max_in_flight: whole(object, "max_in_flight", 1, MAX_IN_FLIGHT)?,
        max_deliver: whole(object, "max_deliver", 0, MAX_DELIVER)?,
    };
    let (start, log) = (start(object)?, log(object)?);
    Ok(JoinRequest { name, pattern: pattern(object)?, filter: filter(object)?, start, log, policy })
}

/// One of `ack`, `nack`, `extend` and `reject`; none if `action` is another.
pub fn ack_request(object: &RawObject<'_>, action: &str) -> Result<Option<AckRequest>, ApiError> {
    let kind = match action {
        "ack" => {
            object.check(&["action", "id", "durable", "cumulative"], true)?;
            match object.raw("cumulative") {
                None | Some("false") => AckKind::Ack,
                Some("true") => AckKind::AckThrough,
                Some(_) => return Err(ApiError::field(ErrorCode::InvalidField, "cumulative", "must be true or false")),
            }
        }
        "nack" => {
            object.check(&["action", "id", "durable", "delay_ms"], true)?;
            AckKind::Nack(delay(object)?)
        }
        "extend" | "reject" => {
            object.check(&["action", "id", "durable"], true)?;
            if action == "extend" { AckKind::Extend } else { AckKind::Reject }
        }
        _ => return Ok(None),
    };
    let id = object.raw("id").ok_or_else(|| ApiError::field(ErrorCode::MissingField, "id", "is required"))?;
    let event_id = id.parse::<EventId>().ok().filter(|id| *id > 0);
    let not_an_id = || ApiError::field(ErrorCode::InvalidField, "id", "must be the id of the event, an integer from 1");
    Ok(Some(AckRequest { event_id: event_id.ok_or_else(not_an_id)?, durable: name_of(object)?, kind }))
}

fn ack_wait(object: &RawObject<'_>) -> Result<Option<Duration>, ApiError> {
    let refuse = |field| {
        let reason = "must be from 10 ms to 1 day: \"30s\", or a number of seconds";
        ApiError::field(ErrorCode::InvalidField, field, reason)
    };
    let (field, wait) = match (object.raw("ack_wait"), object.raw("ack_wait_ms")) {
        (None | Some("null"), None | Some("null")) => return Ok(None),
        (Some(_), Some(millis)) if millis != "null" => {
            let reason = "does not go with ack_wait; give one of them";
            return Err(ApiError::field(ErrorCode::InvalidField, "ack_wait_ms", reason));
        }
        (Some(text), _) if text.starts_with('"') => {
            ("ack_wait", object.text("ack_wait")?.and_then(|text| humantime::parse_duration(&text).ok()))
        }
        (Some(number), None | Some("null")) => {
            let seconds = number.parse::<f64>().ok();
            ("ack_wait", seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()))
        }
        (_, Some(millis)) => ("ack_wait_ms", millis.parse().ok().map(Duration::from_millis)),
    };
    wait.filter(|wait| ACK_WAIT.contains(wait)).map(Some).ok_or_else(|| refuse(field))
}

fn delay(object: &RawObject<'_>) -> Result<Duration, ApiError> {
    let millis = match object.raw("delay_ms") {
        None | Some("null") => return Ok(Duration::ZERO),
        Some(millis) => millis.parse().ok().map(Duration::from_millis),
    };
    let refuse = || ApiError::field(ErrorCode::InvalidField, "delay_ms", "must be an integer from 0 to 86400000");
    millis.filter(|delay| *delay <= MAX_DELAY).ok_or_else(refuse)
}

fn whole(object: &RawObject<'_>, field: &str, min: u64, max: u64) -> Result<Option<u32>, ApiError> {
    match object.raw(field) {
        None | Some("null") => Ok(None),
        Some(number) => match number.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(u32::try_from(number).ok()),
            _ => {
                let reason = format!("must be an integer from {min} to {max}");
                Err(ApiError::field(ErrorCode::InvalidField, field, reason))
            }
        },
    }
}

/// Where an operator has a durable subscription go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// After the event with this id.
    After(EventId),
    /// With the oldest retained event.
    Earliest,
    /// With what is published from now on.
    Latest,
    /// With the first event that is not older.
    Since(Timestamp),
}

/// Reads `{"after":41}`, `{"after":"earliest"}`, `{"after":"latest"}` or `{"since":"2026-01-01T00:00:00Z"}`.
pub fn seek_request(json: &[u8]) -> Result<Seek, ApiError> {
    let object = RawObject::parse(json, "body")?;
    object.check(&["after", "since"], true)?;
    let bad_after = || {
        let reason = "must be an event id (an integer from 0), \"earliest\" or \"latest\"";
        ApiError::field(ErrorCode::InvalidField, "after", reason)
    };
    match (object.raw("after"), object.text("since")?) {
        (Some(_), Some(_)) => Err(ApiError::field(ErrorCode::InvalidField, "since", "does not go with after")),
        (None, None) => Err(ApiError::field(ErrorCode::MissingField, "after", "is required, or since")),
        (Some(r#""earliest""#), None) => Ok(Seek::Earliest),
        (Some(r#""latest""#), None) => Ok(Seek::Latest),
        (Some(number), None) => number.parse().ok().filter(|id| *id >= 0).map(Seek::After).ok_or_else(bad_after),
        (None, Some(since)) => Timestamp::parse(&since).map(Seek::Since).ok_or_else(|| {
            ApiError::field(ErrorCode::InvalidField, "since", "must be a time such as \"2026-01-01T00:00:00Z\"")
        }),
    }
}

/// An event for a member.
pub fn delivery_text(event: &Event, durable: &str, delivery: u32) -> String {
    let mut text = full_frame_text(event);
    text.pop();
    text.push_str(&format!(r#","durable":"{durable}","delivery":{delivery}}}"#));
    text
}

/// The reply to who has become a member. `after`: it has everything up to here.
pub fn joined(id: &RequestId, request: &JoinRequest, state: Subscribed, after: EventId) -> String {
    let mut text = super::frame::subscribed(id, &request.pattern, request.filter.as_ref(), state);
    text.pop();
    text.push_str(&format!(r#","durable":"{}","after":{after}}}"#, request.name));
    text
}

/// The reply to who is no longer a member.
pub fn left(id: &RequestId, durable: &str) -> String {
    format!(r#"{{"id":{id},"type":"unsubscribed","durable":"{durable}"}}"#)
}

/// The reply to an acknowledgement that is stored.
pub fn acked(event_id: EventId, durable: &str, kind: AckKind) -> String {
    format!(r#"{{"id":{event_id},"type":"{}","durable":"{durable}"}}"#, kind.done())
}

/// The reply to an acknowledgement that is refused.
pub fn not_acked(event_id: EventId, error: &ApiError) -> String {
    format!(r#"{{"id":{event_id},"type":"error","error":{}}}"#, error.to_frame_value())
}

/// Members get nothing more until they have settled something: what holds them up, and how much they have.
pub fn held_up(durable: &str, by: HeldBy, unacked: usize, unacked_bytes: usize) -> String {
    let by = by.as_str();
    format!(
        r#"{{"type":"held","durable":"{durable}","held_by":"{by}","unacked":{unacked},"unacked_bytes":{unacked_bytes}}}"#
    )
}

/// A member is one no longer, without having asked for it.
pub fn ended(durable: &str, error: &ApiError) -> String {
    format!(r#"{{"type":"error","durable":"{durable}","error":{}}}"#, error.to_frame_value())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(json: &str) -> RawObject<'_> {
        RawObject::parse(json.as_bytes(), "frame").expect("an object")
    }

    fn join(json: &str) -> Result<JoinRequest, ApiError> {
        let object = object(json);
        let name = name_of(&object)?.expect("durable");
        join_request(&object, name)
    }

    #[test]
    fn reads_how_events_are_to_be_delivered() {
        for (wait, expected) in [
            (r#""ack_wait":"1500ms""#, 1500),
            (r#""ack_wait":2"#, 2000),
            (r#""ack_wait":0.25"#, 250),
            (r#""ack_wait_ms":40"#, 40),
        ] {
            let json = format!(r#"{{"event_name":"a.>","durable":"b-1","max_in_flight":3,"max_deliver":0,{wait}}}"#);
            let JoinRequest { name, pattern, filter: _, start, log: _, policy } = join(&json).expect(wait);
            assert_eq!((&*name, pattern.as_str(), start), ("b-1", "a.>", Start::Now));
            let ack_wait = Some(Duration::from_millis(expected));
            assert_eq!(policy, PolicyRequest { ack_wait, max_in_flight: Some(3), max_deliver: Some(0) });
        }
    }

    #[test]
    fn names_what_is_wrong() {
        for (json, field) in [
            (r#"{"event_name":"a","durable":""}"#, "durable"),
            (r#"{"event_name":"a","durable":"a b"}"#, "durable"),
            (r#"{"event_name":"a","durable":7}"#, "durable"),
            (r#"{"event_name":"a","durable":"d","ack_wait":"soon"}"#, "ack_wait"),
            (r#"{"event_name":"a","durable":"d","ack_wait":-1}"#, "ack_wait"),
            (r#"{"event_name":"a","durable":"d","ack_wait":1e300}"#, "ack_wait"),
            (r#"{"event_name":"a","durable":"d","ack_wait":[]}"#, "ack_wait"),
            (r#"{"event_name":"a","durable":"d","ack_wait_ms":1}"#, "ack_wait_ms"),
            (r#"{"event_name":"a","durable":"d","ack_wait_ms":40,"ack_wait":"40ms"}"#, "ack_wait_ms"),
            (r#"{"event_name":"a","durable":"d","ack_wait_ms":40,"ack_wait":0.04}"#, "ack_wait_ms"),
            (r#"{"event_name":"a","durable":"."}"#, "durable"),
            (r#"{"event_name":"a","durable":".."}"#, "durable"),
            (r#"{"event_name":"a","durable":"d","max_in_flight":0}"#, "max_in_flight"),
            (r#"{"event_name":"a","durable":"d","max_deliver":-1}"#, "max_deliver"),
            (r#"{"event_name":"a","durable":"d","envelope":"plain"}"#, "envelope"),
            (r#"{"event_name":"a..b","durable":"d"}"#, "event_name"),
        ] {
            let error = join(json).expect_err(json);
            assert!(error.to_frame_value().to_string().contains(field), "{json}: {error:?}");
        }
    }

    #[test]
    fn reads_what_members_say_of_events() {
        let say = |json| {
            let object = object(json);
            let action = object.required_text("action").expect("an action");
            ack_request(&object, &action)
        };
        let kind = |json| say(json).expect(json).expect(json).kind;
        assert_eq!(kind(r#"{"action":"ack","id":58}"#), AckKind::Ack);
        assert_eq!(kind(r#"{"action":"ack","id":58,"cumulative":true}"#), AckKind::AckThrough);
        assert_eq!(kind(r#"{"action":"nack","id":58,"delay_ms":5}"#), AckKind::Nack(Duration::from_millis(5)));
        assert_eq!(kind(r#"{"action":"reject","id":58,"durable":"d"}"#), AckKind::Reject);
        assert_eq!(say(r#"{"action":"fly"}"#), Ok(None));
        for bad in [
            r#"{"action":"ack"}"#,
            r#"{"action":"ack","id":"58"}"#,
            r#"{"action":"ack","id":0}"#,
            r#"{"action":"ack","id":1,"cumulative":1}"#,
            r#"{"action":"nack","id":1,"delay_ms":-1}"#,
            r#"{"action":"extend","id":1,"delay_ms":1}"#,
        ] {
            assert!(say(bad).is_err(), "{bad}");
        }
    }
}
