//! `GET /events` as NDJSON: all events that match, one a line, read page by page.

use actix_web::body::{self, BoxBody};
use actix_web::http::Method;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};

use super::event_query;
use super::query::Query;
use super::reply::Refusal;
use super::resume::{EVENT_LOG, log_value};
use super::{Edge, access};
use crate::domain::access::{Caller, Scope};
use crate::domain::delivery::EventStatus;
use crate::domain::event::EventId;
use crate::protocol::error::ApiError;
use crate::protocol::event_json::write_event;
use crate::protocol::permit;
use crate::protocol::wire::flatten;
use crate::storage::{EventQuery, Order, Reader, StoreError};

/// Events and bytes that are held in memory for one reader.
const PAGE_EVENTS: usize = 512;
const PAGE_BYTES: usize = 1024 * 1024;

/// Answers with all events that match, up to the present end of the log. If the store fails meanwhile, the connection
/// is closed before the body ends.
pub async fn list(req: &HttpRequest, edge: &Edge, query: &Query<'_>) -> Result<HttpResponse, Refusal> {
    let caller = access::caller(req, edge)?;
    let mut walk = Walk::begin(query, &caller, &edge.parts.reader).await?;
    let mut response = HttpResponse::Ok();
    response.insert_header((CONTENT_TYPE, "application/x-ndjson"));
    if let Some(log) = edge.parts.position.log_id() {
        response.insert_header((EVENT_LOG, log_value(log)));
    }
    if req.method() == Method::HEAD {
        return Ok(response.body(BoxBody::new(body::None::new())));
    }
    // The first page is read before the head is sent, so that a failure can still be answered.
    let first = walk.next().await?;
    Ok(response.streaming(stream::iter(first.map(Ok)).chain(walk.pages())))
}

/// The state of one such request.
struct Walk {
    reader: Reader,
    /// The query for what is still to be read: all between its two cursors.
    rest: EventQuery,
    /// Events that may still be sent.
    left: usize,
}

impl Walk {
    async fn begin(query: &Query<'_>, caller: &Caller, reader: &Reader) -> Result<Self, ApiError> {
        let mut events = event_query::read(query, usize::MAX)?;
        events.patterns = permit::reading(caller, Scope::Read, events.patterns)?;
        let end: EventId = reader.bounds().await?.last;
        let times = reader.ids_between(events.since, events.until).await?;
        let end = end.min(times.1);
        let before = events.before.map_or(end + 1, |before| before.min(end + 1));
        let after = Some(events.after.unwrap_or(0).max(times.0 - 1));
        let left = if query.one("limit").is_some() { events.limit } else { usize::MAX };
        Ok(Self {
            reader: reader.clone(),
            rest: EventQuery { after, before: Some(before), since: None, until: None, max_bytes: PAGE_BYTES, ..events },
            left,
        })
    }

    /// The lines of the next page; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.left == 0 {
            return Ok(None);
        }
        let page = self.reader.query(EventQuery { limit: self.left.min(PAGE_EVENTS), ..self.rest.clone() }).await?;
        let Some(last) = page.events.last() else { return Ok(None) };
        let more = match self.rest.order {
            Order::Asc => {
                self.rest.after = Some(last.id);
                page.has_more_after
            }
            Order::Desc => {
                self.rest.before = Some(last.id);
                page.has_more_before
            }
        };
        self.left = if more { self.left - page.events.len() } else { 0 };
        let mut lines = Vec::with_capacity(page.events.iter().map(|event| event.memory() + 128).sum());
        for event in &page.events {
            let status = page.statuses.get(&event.id).copied().unwrap_or(EventStatus::Processed);
            let start = lines.len();
            write_event(&mut lines, event, status);
            flatten(&mut lines[start..]);
            lines.push(b'\n');
        }
        Ok(Some(lines.into()))
    }

    fn pages(self) -> impl Stream<Item = Result<Bytes, StoreError>> {
        stream::try_unfold(self, |mut walk| async move {
            let lines = walk.next().await.inspect_err(|error| log::warn!(error:%; "reading all events broke off"))?;
            Ok(lines.map(|lines| (lines, walk)))
        })
    }
}
