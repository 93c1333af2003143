//! `GET /events?after=N&wait=30s`: answered at once if there are events, otherwise as soon as one is published.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Edge;
use super::event_query::read_page;
use super::query::{Query, invalid};
use crate::actors::session::long_poll::LongPoll;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::storage::{EventPage, EventQuery};
use crate::transport::{ConnectionLimit, ConnectionSocket};

/// Longest wait. A reader that wants to wait longer sends another request.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Reads at the same time by requests that wait. One event may wake many of them: they take turns, since the reader
/// would refuse what exceeds its queue.
const READS: usize = 16;

/// The bounds of requests that wait, on all workers together.
#[derive(Debug)]
pub struct LongPollLimits {
    places: Arc<ConnectionLimit>,
    reads: Semaphore,
}

impl LongPollLimits {
    /// Bounds for at most `places` requests that wait.
    pub fn new(places: usize) -> Self {
        Self { places: ConnectionLimit::new(places), reads: Semaphore::new(READS) }
    }
}

/// How long the request may wait; none if it does not ask for that.
pub fn wait(query: &Query<'_>) -> Result<Option<Duration>, ApiError> {
    let read = |text: &str| humantime::parse_duration(text).ok().filter(|wait| *wait <= MAX_WAIT);
    let Some(wait) = query.read("wait", "a duration from 0s to 60s, such as 30s or 500ms", read)? else {
        return Ok(None);
    };
    if query.one("after").is_none() {
        return Err(invalid("wait", "needs after: the id of the last event that you have seen, or 0"));
    }
    if let Some(bound) = ["before", "until"].into_iter().find(|bound| query.one(bound).is_some()) {
        return Err(invalid(bound, "cannot be given with wait, which is for what is still to come"));
    }
    Ok(Some(wait))
}

/// Reads a page, and waits up to `wait` for its first event.
pub async fn read(req: &HttpRequest, edge: &Edge, events: EventQuery, wait: Duration) -> Result<EventPage, ApiError> {
    let (parts, mut events) = (&edge.parts, events);
    let deadline = Instant::now() + wait;
    let LongPollLimits { places, reads } = &*parts.long_polls;
    let place = places.admit();
    loop {
        // The request is registered before the log is read, so that an event committed meanwhile wakes it.
        let waiting = match &place {
            Some(_) => LongPoll::begin(&edge.worker, &events.patterns).await,
            None => Err(ApiError::transient(ErrorCode::Overloaded, "as many requests wait as may wait")),
        };
        let known = parts.position.last();
        let turn = reads.acquire().await;
        let page = read_page(&parts.reader, events.clone()).await?;
        drop(turn);
        if !page.events.is_empty() || Instant::now() >= deadline || parts.health.is_draining() {
            return Ok(page);
        }
        let mut waiting = waiting?;
        let woken = tokio::select! {
            woken = waiting.woken() => woken,
            () = tokio::time::sleep_until(deadline) => false,
            () = gone(req) => false,
        };
        if !woken {
            return Ok(page);
        }
        // Events up to here do not match, so they are not read again.
        events.after = events.after.max(Some(known));
    }
}

/// Ready when the reader has closed its connection.
async fn gone(req: &HttpRequest) {
    match req.conn_data::<Rc<ConnectionSocket>>() {
        Some(socket) => socket.gone().await,
        None => std::future::pending().await,
    }
}
