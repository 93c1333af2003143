//! The text of the frames that answer a subscriber's requests.
//!
//! Event frames are in [`super::event_json`]; a subscriber that asks for nothing more gets no other frames.

use std::time::Duration;

use serde_json::value::RawValue;

use super::close::CloseReason;
use super::error::ApiError;
use super::outcome::Told;
use super::subscription::{Envelope, RequestId};
use crate::domain::event::{EventId, Timestamp};
use crate::domain::filter::Filter;
use crate::domain::log::LogId;
use crate::domain::pattern::Pattern;

/// What a subscriber is told about a new subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribed {
    /// The newest event when the subscription was made.
    pub last_id: EventId,
    /// Whether everything after the requested position is still retained.
    pub recovered: bool,
    /// The oldest retained event, told when not recovered.
    pub earliest_id: EventId,
    /// Which log the ids are of.
    pub log: Option<LogId>,
}

/// The reply to a subscribe request.
pub fn subscribed(id: &RequestId, pattern: &Pattern, filter: Option<&Filter>, state: Subscribed) -> String {
    let Subscribed { last_id, recovered, earliest_id, log } = state;
    let filter = member(filter);
    let earliest = if recovered { String::new() } else { format!(r#","earliest_id":{earliest_id}"#) };
    let log = log.map(|log| format!(r#","log_id":"{log}""#)).unwrap_or_default();
    format!(
        r#"{{"id":{id},"type":"subscribed","event_name":"{pattern}"{filter},"last_id":{last_id},"recovered":{recovered}{earliest}{log}}}"#
    )
}

/// The reply to an unsubscribe request.
pub fn unsubscribed(id: &RequestId, pattern: &Pattern) -> String {
    format!(r#"{{"id":{id},"type":"unsubscribed","event_name":"{pattern}"}}"#)
}

/// The reply to a publish request. `event_id` is the event's place in the log.
pub fn published(id: &RequestId, told: &Told) -> String {
    let violations = match told.violations() {
        0 => String::new(),
        count => format!(r#","schema_violations":{count}"#),
    };
    match told {
        Told::Scheduled { id: schedule, replayed, .. } => {
            format!(r#"{{"id":{id},"type":"scheduled","schedule_id":"{schedule}","replayed":{replayed}{violations}}}"#)
        }
        Told::Published(published) => {
            let (event_id, replayed) = (published.first_id, published.is_replayed());
            let version = published.entity_version();
            let version = version.map(|version| format!(r#","entity_version":{version}"#)).unwrap_or_default();
            format!(
                r#"{{"id":{id},"type":"published","event_id":{event_id}{version},"replayed":{replayed}{violations}}}"#
            )
        }
    }
}

/// The reply to a token with which a subscriber goes on.
pub fn authenticated(id: Option<&RequestId>, expires_at: Option<Timestamp>) -> String {
    let id = id.map(|id| format!(r#""id":{id},"#)).unwrap_or_default();
    let end = expires_at.map(|at| format!(r#","expires_at":"{at}""#)).unwrap_or_default();
    format!(r#"{{{id}"type":"authenticated"{end}}}"#)
}

/// The notice to a subscriber that its token expires in `left`.
pub fn expiring(left: Duration) -> String {
    format!(r#"{{"type":"expiring","expires_in_ms":{}}}"#, left.as_millis())
}

/// The reply to a ping in JSON.
pub fn pong(id: Option<&RequestId>, timestamp: Option<&RawValue>) -> String {
    let id = id.map(|id| format!(r#""id":{id},"#)).unwrap_or_default();
    let timestamp = timestamp.map(|timestamp| format!(r#","timestamp":{timestamp}"#)).unwrap_or_default();
    format!(r#"{{{id}"type":"pong"{timestamp}}}"#)
}

/// The reply to a list request.
pub fn list<'a>(
    id: Option<&RequestId>,
    subscriptions: impl Iterator<Item = (&'a Pattern, Envelope, Option<&'a Filter>)>,
    durables: &[(String, String)],
) -> String {
    let durables = durables.iter().map(|(pattern, name)| format!(r#"{{"durable":"{name}","event_name":"{pattern}"}}"#));
    let subscriptions: Vec<String> = subscriptions
        .map(|(pattern, envelope, filter)| {
            let envelope = match envelope {
                Envelope::Plain => "plain",
                Envelope::Full | Envelope::Unnamed => "full",
            };
            format!(r#"{{"envelope":"{envelope}","event_name":"{pattern}"{}}}"#, member(filter))
        })
        .chain(durables)
        .collect();
    let id = id.map(|id| format!(r#""id":{id},"#)).unwrap_or_default();
    format!(r#"{{{id}"type":"subscriptions","subscriptions":[{}]}}"#, subscriptions.join(","))
}

/// A filter as a further member of an object.
fn member(filter: Option<&Filter>) -> String {
    filter.map(|filter| format!(r#","filter":{filter}"#)).unwrap_or_default()
}

/// The frame before a close frame that tells the subscriber to reconnect.
pub fn disconnect(reason: CloseReason, after: Duration) -> String {
    let (code, after_ms) = (reason.code(), after.as_millis());
    format!(r#"{{"type":"disconnect","code":{code},"reconnect":true,"after_ms":{after_ms}}}"#)
}

/// The frame that tells of a bad or failed request.
pub fn error(id: Option<&RequestId>, error: &ApiError) -> String {
    let id = id.map(|id| format!(r#""id":{id},"#)).unwrap_or_default();
    format!(r#"{{{id}"type":"error","error":{}}}"#, error.to_frame_value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::error::ErrorCode;

    #[test]
    fn spells_replies_as_the_protocol_says() {
        let id: RequestId = serde_json::from_str("7").expect("JSON");
        let pattern = Pattern::parse("user.*").expect("valid");
        let state = Subscribed {
            last_id: 57,
            recovered: true,
            earliest_id: 1,
            log: LogId::parse("10e8a1c2-0000-4000-8000-000000000000"),
        };
        let filter = Filter::parse(r#"{"a": [1e400]}"#).expect("valid");
        assert_eq!(
            subscribed(&id, &pattern, None, state),
            r#"{"id":7,"type":"subscribed","event_name":"user.*","last_id":57,"recovered":true,"log_id":"10e8a1c2-0000-4000-8000-000000000000"}"#
        );
        assert_eq!(
            subscribed(&id, &pattern, None, Subscribed { recovered: false, earliest_id: 9, ..state }),
            r#"{"id":7,"type":"subscribed","event_name":"user.*","last_id":57,"recovered":false,"earliest_id":9,"log_id":"10e8a1c2-0000-4000-8000-000000000000"}"#
        );
        assert_eq!(
            list(
                None,
                [(&pattern, Envelope::Full, None), (&pattern, Envelope::Plain, Some(&filter))].into_iter(),
                &[("a.>".to_owned(), "d".to_owned())]
            ),
            r#"{"type":"subscriptions","subscriptions":[{"envelope":"full","event_name":"user.*"},{"envelope":"plain","event_name":"user.*","filter":{"a":[1e400]}},{"durable":"d","event_name":"a.>"}]}"#
        );
        assert_eq!(
            disconnect(CloseReason::Draining, Duration::from_millis(250)),
            r#"{"type":"disconnect","code":4200,"reconnect":true,"after_ms":250}"#
        );
        let late = ApiError::new(ErrorCode::Overloaded, "later").retry_after(Duration::from_secs(1));
        assert_eq!(
            error(Some(&id), &late),
            r#"{"id":7,"type":"error","error":{"code":"overloaded","message":"later","retry_after_ms":1000}}"#
        );
    }
}
