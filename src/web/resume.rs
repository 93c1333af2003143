//! How a reader goes on from what it has seen: it gives back the identity of the log, and is told whether all since then
//! is there.

use actix_web::http::header::{HeaderName, HeaderValue};

use super::query::Query;
use crate::domain::log::LogId;
use crate::protocol::error::ApiError;

/// The query parameter with which a client gives back the identity of the log it has seen.
pub const LOG_PARAMETER: &str = "log_id";
/// Which log the ids are of.
pub const EVENT_LOG: HeaderName = HeaderName::from_static("event-log");
/// Whether everything since the position asked for comes.
pub const RECOVERED: HeaderName = HeaderName::from_static("stream-recovered");

/// The identity of the log that the client has seen, if it says so.
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
