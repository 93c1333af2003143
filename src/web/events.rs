//! `GET /events` and `GET /events/{id}`.

use actix_web::http::Method;
use actix_web::http::header::HeaderName;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};

use super::accept::{self, Format};
use super::event_query::{self, PARAMETERS};
use super::query::{MAX_LIMIT, Query};
use super::reply::{self, Refusal};
use super::{Edge, access, lines, long_poll, resume, stream};
use crate::domain::access::Scope;
use crate::domain::delivery::EventStatus;
use crate::domain::event::EventId;
use crate::protocol::error::ApiError;
use crate::protocol::event_json::write_event;
use crate::protocol::permit;
use crate::protocol::subscription::Start;
use crate::storage::{EventPage, EventQuery, Order};

const WAIT: &str = "wait";
/// Answers with a page of events, as lines, or as a stream, whatever the request accepts.
pub async fn list(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    match accept::format(&req) {
        Format::EventStream => return stream::connect(req, edge).await,
        Format::Lines => return lines::list(&req, &edge, &Query::parse(&req, PARAMETERS, &["event_name"])?).await,
        Format::Json => {}
    }
    let caller = access::caller(&req, &edge)?;
    let query = Query::parse(&req, &[PARAMETERS, &[WAIT]].concat(), &["event_name"])?;
    let mut events = event_query::read(&query, MAX_LIMIT)?;
    events.patterns = permit::reading(&caller, Scope::Read, events.patterns)?;
    let order = events.order;
    let wait = long_poll::wait(&query)?;
    let recovery = recovery(&edge, &query, &events).await?;
    if let Some(Recovery { from, is_whole: false }) = recovery.filter(|_| wait.is_some()) {
        // A reader whose position lies beyond the end of the log would wait for ever.
        events.after = Some(from);
    }
    let page = match wait {
        Some(wait) if req.method() != Method::HEAD => {
            let page = long_poll::read(&req, &edge, events, wait).await?;
            // The token may have expired during the wait.
            access::caller(&req, &edge)?;
            page
        }
        _ => event_query::read_page(&edge.parts.reader, events).await?,
    };
    let mut data = Vec::with_capacity(page.events.len() * 256);
    data.push(b'[');
    for (k, event) in page.events.iter().enumerate() {
        if k > 0 {
            data.push(b',');
        }
        let status = page.statuses.get(&event.id).copied().unwrap_or(EventStatus::Processed);
        write_event(&mut data, event, status);
    }
    data.push(b']');
    let mut response = reply::ok_builder();
    if let Some(log) = edge.parts.position.log_id() {
        response.insert_header((resume::EVENT_LOG, resume::log_value(log)));
    }
    if let Some(Recovery { is_whole, .. }) = recovery {
        response.insert_header((resume::RECOVERED, resume::truth(is_whole)));
    }
    for link in links(&query, &page, order) {
        response.append_header(link);
    }
    Ok(response.body(reply::envelope("success", &data)))
}

/// Where a reader resumes that says what it has seen.
#[derive(Debug, Clone, Copy)]
struct Recovery {
    /// It resumes after this event.
    from: EventId,
    /// Whether every event since then is retained.
    is_whole: bool,
}

/// Where the reader resumes; none without `after`, or while the bounds of the log are unknown.
async fn recovery(edge: &Edge, query: &Query<'_>, events: &EventQuery) -> Result<Option<Recovery>, ApiError> {
    let (position, given) = (&edge.parts.position, resume::given_log(query)?);
    let Some(after) = events.after else { return Ok(None) };
    let log_end = position.end_for(Start::After(after), position.last(), &edge.parts.reader).await?;
    let start = Start::After(after).in_log(position.log_id(), given);
    let place = position.get().map(|bounds| position.place(start, bounds, log_end));
    Ok(place.map(|(from, is_whole)| Recovery { from, is_whole }))
}

/// Answers with one event.
pub async fn one(req: HttpRequest, id: Path<String>, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    let caller = access::caller(&req, &edge)?;
    Query::parse(&req, &[], &[])?;
    let (event, status) = event_query::find(&edge, &caller, &id).await?;
    let mut data = Vec::new();
    write_event(&mut data, &event, status);
    Ok(reply::ok("success", &data))
}

/// The links to the next page in the order of this one, and to the previous. If the query has both cursors, they bound
/// the pages, so the one that is not replaced stays.
fn links(query: &Query<'_>, page: &EventPage, order: Order) -> Vec<(HeaderName, String)> {
    let (Some(first), Some(last)) = (page.events.first(), page.events.last()) else {
        return Vec::new();
    };
    let (oldest, newest) = (first.id.min(last.id), first.id.max(last.id));
    let (after, before) = (query.one("after").is_some(), query.one("before").is_some());
    let without_after: &[&str] = if after && before { &["after"] } else { &["after", "before"] };
    let without_before: &[&str] = if after && before { &["before"] } else { &["after", "before"] };
    let newer = page.has_more_after.then(|| query.rewritten(without_after, ("after", newest)));
    let older = page.has_more_before.then(|| query.rewritten(without_before, ("before", oldest)));
    let (next, prev) = match order {
        Order::Asc => (newer, older),
        Order::Desc => (older, newer),
    };
    let link = |query: Option<String>, relation: &str| query.map(|query| reply::link(&query, relation));
    link(next, "next").into_iter().chain(link(prev, "prev")).collect()
}
