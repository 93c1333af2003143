//! How readers and subscribers resume: they give the identity of the log that they have seen, and are told whether
//! every event since their position is retained.

use actix_web::http::header::{HeaderName, HeaderValue};

use super::query::Query;
use crate::domain::log::LogId;
use crate::protocol::error::ApiError;

/// The query parameter with the identity of the log that the reader has seen.
pub const LOG_PARAMETER: &str = "log_id";
/// The header with the identity of the log whose ids the answer has.
pub const EVENT_LOG: HeaderName = HeaderName::from_static("event-log");
/// The header that tells whether every event since the requested position is retained.
pub const RECOVERED: HeaderName = HeaderName::from_static("stream-recovered");

/// The identity of the log that the reader has seen, if the request gives it.
pub fn given_log(query: &Query<'_>) -> Result<Option<LogId>, ApiError> {
    query.read(LOG_PARAMETER, "the identity of a log, as the header Event-Log tells it", LogId::parse)
}

/// The value of [`EVENT_LOG`].
pub fn log_value(log: LogId) -> HeaderValue {
    HeaderValue::try_from(log.to_string()).expect("invariant: a UUID is visible ASCII")
}

/// The value of [`RECOVERED`].
pub fn truth(is_so: bool) -> HeaderValue {
    HeaderValue::from_static(if is_so { "true" } else { "false" })
}
