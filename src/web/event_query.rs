//! Reading the log: the parameters that select events, one event by its id, and a page in either direction.

use super::Edge;
use super::query::{DEFAULT_LIMIT, Query, invalid};
use super::resume::LOG_PARAMETER;
use crate::domain::access::Caller;
use crate::domain::delivery::EventStatus;
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::pattern::Pattern;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::permit;
use crate::storage::{EventPage, EventQuery, Order, Reader, StoreError};

/// The parameters that select events.
pub const PARAMETERS: &[&str] =
    &["event_name", "after", "before", "since", "until", "source", "status", "key", "limit", "order", LOG_PARAMETER];

/// The event whose id is `id`, as far as `caller` may read it: to others it does not exist.
pub async fn find(edge: &Edge, caller: &Caller, id: &str) -> Result<(Event, EventStatus), ApiError> {
    let unknown = || ApiError::new(ErrorCode::EventNotFound, format!("there is no event {id}"));
    let number: EventId = id.parse().map_err(|_| unknown())?;
    let found = edge.parts.reader.event(number).await?;
    found.filter(|(event, _)| permit::may_read(caller, &event.name)).ok_or_else(unknown)
}

/// Reads a page. With `after` the page holds the events that follow it, whatever the order: a descending page is the
/// ascending one reversed.
pub async fn read_page(reader: &Reader, mut query: EventQuery) -> Result<EventPage, StoreError> {
    let turned = query.order == Order::Desc && query.after.is_some() && query.before.is_none();
    if turned {
        query.order = Order::Asc;
    }
    let mut page = reader.query(query).await?;
    if turned {
        page.events.reverse();
    }
    Ok(page)
}

/// Reads the parameters into a query, with a `limit` of at most `max_limit`.
pub fn read(query: &Query<'_>, max_limit: usize) -> Result<EventQuery, ApiError> {
    let id = |text: &str| text.parse::<EventId>().ok().filter(|id| *id >= 0);
    let expected_id = "an event id: an integer from 0";
    let expected_time = "an RFC 3339 time like 2026-01-31T12:00:00Z";
    let limit = query.limit(DEFAULT_LIMIT, max_limit)?;
    let order = query.read("order", "asc or desc", |text| match text {
        "asc" => Some(Order::Asc),
        "desc" => Some(Order::Desc),
        _ => None,
    })?;
    Ok(EventQuery {
        patterns: patterns(query)?,
        after: query.read("after", expected_id, id)?,
        before: query.read("before", expected_id, id)?,
        since: query.read("since", expected_time, Timestamp::parse)?,
        until: query.read("until", expected_time, Timestamp::parse)?,
        source: query.read("source", EXPECTED_TEXT, plain_text)?,
        key: query.read("key", EXPECTED_TEXT, plain_text)?,
        status: query.read("status", "one of processed, pending, failed", EventStatus::parse)?,
        limit,
        order: order.unwrap_or(Order::Asc),
        ..EventQuery::default()
    })
}

/// The names and patterns that the query selects.
pub fn patterns(query: &Query<'_>) -> Result<Vec<Pattern>, ApiError> {
    let parse = |text| Pattern::parse(text).map_err(|reason| invalid("event_name", &reason.to_string()));
    query.all("event_name").map(parse).collect()
}

const EXPECTED_TEXT: &str = "text without control characters";

fn plain_text(text: &str) -> Option<String> {
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}
