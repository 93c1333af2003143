//! The error codes: one table of code, HTTP status and meaning.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::domain::filter::FilterError;

macro_rules! error_codes {
    ($($variant:ident $code:literal $status:literal $meaning:literal;)+) => {
        /// Every error that an answer can have.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = $meaning] $variant,)+
        }

        impl ErrorCode {
            /// All codes, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The code on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// The HTTP status it is answered with.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status),+ }
            }

            /// What it means, in one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning),+ }
            }
        }
    };
}

error_codes! {
    MalformedJson "malformed_json" 400 "The body or frame is not valid JSON.";
    MalformedRequest "malformed_request" 400 "The request cannot be understood as HTTP or as a WebSocket handshake.";
    Unauthorized "unauthorized" 401 "A token is required, or the one given is not valid.";
    Forbidden "forbidden" 403 "The caller may not do this.";
    ForeignOrigin "foreign_origin" 403 "A web page of another origin asks, or one under a name that may be anybody's.";
    NotFound "not_found" 404 "There is nothing at this path.";
    EntityNotFound "entity_not_found" 404 "There is no entity of this type and key; `data.deleted_version` is there while it is known when it was deleted.";
    EventNotFound "event_not_found" 404 "No event has this id, or it is no longer retained.";
    SessionNotFound "session_not_found" 404 "No session has this id.";
    NodeNotFound "node_not_found" 404 "No node is known under this name; `data.known` lists those that are.";
    ServiceNotFound "service_not_found" 404 "No service is configured under this name; `data.known` lists those that are.";
    TokenNotFound "token_not_found" 404 "No token is configured under this name.";
    JobNotFound "job_not_found" 404 "No job has this id.";
    SagaNotFound "saga_not_found" 404 "There is no saga of this name, or no instance of this id.";
    EventTypeNotFound "event_type_not_found" 404 "There is no event type of this name, or no such version of it.";
    ScheduleNotFound "schedule_not_found" 404 "No schedule has this id; it is unknown, was cancelled, or was due.";
    DurableNotFound "durable_not_found" 404 "There is no durable subscription of this name.";
    MethodNotAllowed "method_not_allowed" 405 "The path exists, but not with this method; `Allow` names those it has.";
    RequestTimeout "request_timeout" 408 "The request did not arrive in time.";
    JobNotRunning "job_not_running" 409 "The job is done or cancelled already.";
    NotSynced "not_synced" 409 "The service keeps no copy of entities: it has no `sync` in its configuration.";
    DurableMismatch "durable_mismatch" 409 "The durable subscription exists with another pattern or filter; `data.event_name` and `data.filter` have them for those who may subscribe to it.";
    SagaLive "saga_live" 409 "A live instance has this correlation value; `data.id` is its id.";
    SagaState "saga_state" 409 "What is asked for does not fit the state of the instance, `data.state`.";
    SystemChanging "system_changing" 409 "Another change of the state of the system is under way: `data.transition`.";
    VersionConflict "version_conflict" 409 "The entity, or the event type, has another version than was asked for: `data.current_version`, null if it does not exist. 412 where a header asked.";
    IncompatibleSchema "incompatible_schema" 409 "The new schema is not compatible with the newest version; `data.reasons` says where and why.";
    AsOfTrimmed "as_of_trimmed" 410 "The digest of then can no longer be computed; `data.earliest_as_of` is the earliest that can.";
    BodyTooLarge "body_too_large" 413 "The body is longer than the limit in `data.limit_bytes`.";
    UnsupportedMediaType "unsupported_media_type" 415 "The content type or encoding is not one of those in `data.supported`.";
    UpgradeRequired "upgrade_required" 426 "The path speaks WebSocket only.";
    HeadTooLarge "head_too_large" 431 "The request line and headers are longer than 128 KiB.";
    InvalidField "invalid_field" 422 "The field named in `data.field` has an invalid value.";
    MissingField "missing_field" 422 "The field named in `data.field` is required.";
    UnknownField "unknown_field" 422 "The field named in `data.field` does not exist; `data.known` lists those that do.";
    DuplicateField "duplicate_field" 422 "The field named in `data.field` is given twice.";
    ReservedName "reserved_name" 422 "Event names beginning with `$sys.` are the Event Handler's own, and `state.{type}.changed` those of changes of entities.";
    InvalidParameter "invalid_parameter" 422 "The query parameter named in `data.field` has an invalid value.";
    UnknownParameter "unknown_parameter" 422 "The query parameter named in `data.field` does not exist; `data.known` lists those that do.";
    InvalidBatch "invalid_batch" 422 "At least one event of the batch is invalid; `data.errors` lists them. Nothing was stored.";
    InvalidSchema "invalid_schema" 422 "The schema of an event type is not one; `data.field` says where.";
    SchemaTooCostly "schema_too_costly" 422 "The schema of an event type is too much work.";
    SchemaViolation "schema_violation" 422 "The payload violates the schema of its event type: `data.event_type`, `data.version`, `data.errors`.";
    DuplicateKey "duplicate_key" 422 "An object of a payload that is judged has the key `data.key` twice.";
    UnknownEventType "unknown_event_type" 422 "There is no event type for events of this name, and there has to be one (`catalogue.unknown`).";
    IdempotencyKeyReused "idempotency_key_reused" 422 "The idempotency key was used for a different request.";
    Unstorable "unstorable" 422 "The store cannot hold, or look for, a text of this request.";
    UnknownAction "unknown_action" 422 "The frame's `action` does not exist; `data.known` lists those that do.";
    UnsupportedFrame "unsupported_frame" 422 "Only text frames are understood.";
    TooManySubscriptions "too_many_subscriptions" 422 "The connection holds as many subscriptions as it may.";
    NotDelivered "not_delivered" 422 "The event is not one that this durable subscription has delivered, or somebody else has it now.";
    NotAMember "not_a_member" 422 "The connection is not a member of this durable subscription.";
    TooManyTypes "too_many_types" 422 "There are as many types of entities as there may be.";
    TooManyDurables "too_many_durables" 422 "There are as many durable subscriptions as there may be.";
    TooManyConnections "too_many_connections" 429 "As many connections as may be are open from this address.";
    RateLimited "rate_limited" 429 "Too many requests; try again after the time given.";
    Internal "internal" 500 "Something failed that should not; the log has the details under the request id.";
    Overloaded "overloaded" 503 "More is waiting than may wait; try again after the time given.";
    StoreUnavailable "store_unavailable" 503 "The store cannot be used now; nothing of this request was acknowledged.";
    CommitTimeout "commit_timeout" 503 "The commit took too long; the event may or may not have been stored. Retry with an idempotency key.";
    Maintenance "maintenance" 503 "The system is in maintenance, and such events are refused; try again after the time given.";
    Draining "draining" 503 "The process is shutting down; use another node or come back.";
    NodeUnreachable "node_unreachable" 503 "The node is known, and did not answer.";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as it is told, over HTTP or in a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError(Box<Parts>);

#[derive(Debug, Clone, PartialEq)]
struct Parts {
    code: ErrorCode,
    message: String,
    details: Map<String, Value>,
    retry_after: Option<Duration>,
    /// Whether a header made the condition that is unmet.
    is_precondition: bool,
    /// For the log alone.
    cause: Option<String>,
}

impl ApiError {
    /// An error whose message says what to do next.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let (message, details) = (message.into(), Map::new());
        Self(Box::new(Parts { code, message, details, retry_after: None, is_precondition: false, cause: None }))
    }

    /// An error that passes by itself: the request is to be tried again in a second.
    pub fn transient(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(code, message).retry_after(Duration::from_secs(1))
    }

    /// The process is shutting down.
    pub fn draining() -> Self {
        Self::transient(ErrorCode::Draining, "the process is shutting down")
    }

    /// The system is in maintenance. That takes longer than a hiccup.
    pub fn maintenance() -> Self {
        let message = "the system is in maintenance: nothing of this request was stored";
        Self::new(ErrorCode::Maintenance, message).retry_after(Duration::from_secs(5))
    }

    /// The store cannot hold, or look for, a text of the request.
    pub fn unstorable() -> Self {
        Self::new(ErrorCode::Unstorable, "the store cannot hold a text of this request")
    }

    /// The publisher has used its idempotency key for something else.
    pub fn key_reused() -> Self {
        let reason = "was used for a different request; use a new key for a new request";
        Self::field(ErrorCode::IdempotencyKeyReused, "idempotency_key", reason)
    }

    /// An error in the field `field`.
    pub fn field(code: ErrorCode, field: &str, reason: impl fmt::Display) -> Self {
        Self::new(code, format!("{field}: {reason}")).with("field", field)
    }

    /// A field or parameter that does not exist, with those that do.
    pub fn unknown(code: ErrorCode, field: &str, known: &[&str]) -> Self {
        let known_here =
            if known.is_empty() { "none is".to_owned() } else { format!("known are {}", known.join(", ")) };
        Self::new(code, format!("{field:?} is not known here; {known_here}"))
            .with("field", field)
            .with("known", known.to_vec())
    }

    /// Adds a detail to `data`.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.details.insert(key.to_owned(), value.into());
        self
    }

    /// The condition was made by a header: 412 and not 409.
    #[must_use]
    pub fn of_precondition(mut self) -> Self {
        self.0.is_precondition = self.0.code == ErrorCode::VersionConflict;
        self
    }

    /// The same error of the field `field`.
    #[must_use]
    pub fn renamed(mut self, field: &str, message: String) -> Self {
        self.0.message = message;
        self.with("field", field)
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// Says what lies behind it, to the log and to nobody else.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// What lies behind it.
    pub fn cause(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// The HTTP status it is answered with.
    pub fn status(&self) -> u16 {
        if self.0.is_precondition { 412 } else { self.0.code.status() }
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn details(&self) -> &Map<String, Value> {
        &self.0.details
    }

    /// When to try again, if that is known.
    pub fn retry(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The error of an item of a batch.
    pub fn to_item(&self, index: usize) -> Value {
        let mut item = self.0.details.clone();
        item.insert("index".into(), index.into());
        item.insert("code".into(), self.0.code.as_str().into());
        item.insert("message".into(), self.0.message.as_str().into());
        Value::Object(item)
    }

    /// The `error` object of a WebSocket frame.
    pub fn to_frame_value(&self) -> Value {
        let mut error = self.0.details.clone();
        error.insert("code".into(), self.0.code.as_str().into());
        error.insert("message".into(), self.0.message.as_str().into());
        if let Some(after) = self.0.retry_after {
            error.insert("retry_after_ms".into(), u64::try_from(after.as_millis()).unwrap_or(u64::MAX).into());
        }
        Value::Object(error)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)
    }
}

impl std::error::Error for ApiError {}

impl From<FilterError> for ApiError {
    fn from(error: FilterError) -> Self {
        Self::field(ErrorCode::InvalidField, &error.path, error.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_snake_case_and_documented() {
        let protocol = include_str!("../../docs/protocol.md");
        let mut seen = std::collections::HashSet::new();
        for code in ErrorCode::ALL {
            let text = code.as_str();
            assert!(seen.insert(text), "{text} twice");
            assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{text}");
            assert!((400..600).contains(&code.status()), "{text}");
            let row = format!("| `{text}` | {} | {} |", code.status(), code.meaning());
            assert!(protocol.contains(&row), "docs/protocol.md misses the row\n{row}");
        }
    }
}
