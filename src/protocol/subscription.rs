//! What requests for live and for durable subscriptions have in common.

use serde_json::value::RawValue;

use super::error::{ApiError, ErrorCode};
use super::raw_object::RawObject;
use crate::domain::event::{EventId, LogBounds};
use crate::domain::filter::Filter;
use crate::domain::log::LogId;
use crate::domain::pattern::Pattern;

/// The id that a subscriber gives a request, echoed in the reply; its exact JSON text.
pub type RequestId = Box<RawValue>;

/// How the events of a subscription are spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Envelope {
    /// `event_name` and `payload`, nothing else.
    #[default]
    Plain,
    /// With id, time, source and key.
    Full,
    /// The same; as server-sent events they have no names, so that browsers dispatch them all as `message`.
    Unnamed,
}

impl Envelope {
    pub const COUNT: usize = 3;
}

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With what is published from now on.
    Now,
    /// After the event with this id.
    After(EventId),
    /// With the oldest retained event.
    Earliest,
    /// After an event of another log: with what is published from now on, and the subscriber is told so.
    Elsewhere,
}

impl Start {
    /// What it means in the log `ours` for a subscriber that has seen the log `given`.
    pub fn in_log(self, ours: Option<LogId>, given: Option<LogId>) -> Self {
        match self {
            Self::After(_) if given.is_some() && given != ours => Self::Elsewhere,
            start => start,
        }
    }

    /// After which event a subscription begins, and whether that is where it was to begin.
    pub fn place(self, bounds: LogBounds, log_end: EventId) -> (EventId, bool) {
        match self {
            Self::Now => (log_end, true),
            Self::Earliest => (bounds.earliest - 1, true),
            Self::Elsewhere => (log_end, false),
            // Beyond the end: the subscriber has seen more than there is. It is told so, and starts at the end.
            Self::After(id) if id > bounds.last.max(log_end) => (log_end, false),
            Self::After(id) => (id.max(bounds.earliest - 1), id >= bounds.earliest - 1),
        }
    }
}

pub(super) fn request_id(object: &RawObject<'_>) -> Result<Option<RequestId>, ApiError> {
    const MAX_ID_BYTES: usize = 66;
    let Some(raw) = object.raw("id").filter(|raw| *raw != "null") else {
        return Ok(None);
    };
    let is_scalar = raw.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit());
    if !is_scalar || raw.len() > MAX_ID_BYTES {
        return Err(ApiError::field(ErrorCode::InvalidField, "id", "must be a number or a string of at most 64 bytes"));
    }
    let id = RawValue::from_string(raw.to_owned());
    Ok(Some(id.expect("invariant: the text was read as a JSON value")))
}

pub(super) fn pattern(object: &RawObject<'_>) -> Result<Pattern, ApiError> {
    Pattern::parse(object.required_text("event_name")?.into_owned())
        .map_err(|reason| ApiError::field(ErrorCode::InvalidField, "event_name", reason))
}

/// Absent and `null` are the same.
pub(super) fn filter(object: &RawObject<'_>) -> Result<Option<Filter>, ApiError> {
    let raw = object.raw("filter").filter(|raw| *raw != "null");
    raw.map(Filter::parse).transpose().map_err(ApiError::from)
}

pub(super) fn envelope(object: &RawObject<'_>) -> Result<Envelope, ApiError> {
    match object.text("envelope")?.as_deref() {
        None | Some("plain") => Ok(Envelope::Plain),
        Some("full") => Ok(Envelope::Full),
        Some(_) => Err(ApiError::field(ErrorCode::InvalidField, "envelope", "must be \"plain\" or \"full\"")),
    }
}

/// The identity of the log that the subscriber has seen, as a reply told it.
pub(super) fn log(object: &RawObject<'_>) -> Result<Option<LogId>, ApiError> {
    let Some(text) = object.text("log_id")? else { return Ok(None) };
    let bad = || ApiError::field(ErrorCode::InvalidField, "log_id", "must be the log_id of a reply");
    LogId::parse(&text).map(Some).ok_or_else(bad)
}

pub(super) fn start(object: &RawObject<'_>) -> Result<Start, ApiError> {
    match object.raw("after") {
        None | Some("null") => Ok(Start::Now),
        Some(r#""earliest""#) => Ok(Start::Earliest),
        Some(number) => match number.parse::<EventId>() {
            Ok(id) if id >= 0 => Ok(Start::After(id)),
            _ => {
                let reason = "must be an event id (an integer from 0) or \"earliest\"";
                Err(ApiError::field(ErrorCode::InvalidField, "after", reason))
            }
        },
    }
}
