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
use crate::domain::pattern::Pattern;
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

/// Reads how long a request may wait.
pub fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok().filter(|wait| *wait <= MAX_WAIT)
}

/// How long the request may wait; none if it does not ask for that.
pub fn wait(query: &Query<'_>) -> Result<Option<Duration>, ApiError> {
    let Some(wait) = query.read("wait", "a duration from 0s to 60s, such as 30s or 500ms", duration)? else {
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
    let mut events = events;
    let deadline = Instant::now() + wait;
    let place = edge.parts.long_polls.places.admit();
    loop {
        let waiting = Waiting::begin(edge, place.is_some(), &events.patterns).await;
        let known = edge.parts.position.last();
        let page = waiting.read(read_page(&edge.parts.reader, events.clone())).await?;
        if !page.events.is_empty() || waiting.is_over(deadline) || !waiting.until(req, deadline).await? {
            return Ok(page);
        }
        // Events up to here do not match, so they are not read again.
        events.after = events.after.max(Some(known));
    }
}

/// Reads until there is something, and waits for events of `pattern` in between; none if nothing comes in time.
pub async fn read_until<T>(
    req: &HttpRequest,
    edge: &Edge,
    pattern: Pattern,
    wait: Duration,
    read: impl AsyncFn() -> Result<Option<T>, ApiError>,
) -> Result<Option<T>, ApiError> {
    let deadline = Instant::now() + wait;
    let place = edge.parts.long_polls.places.admit();
    loop {
        let waiting = Waiting::begin(edge, place.is_some(), std::slice::from_ref(&pattern)).await;
        let found = waiting.read(read()).await?;
        if found.is_some() || waiting.is_over(deadline) || !waiting.until(req, deadline).await? {
            return Ok(found);
        }
    }
}

/// A request that is woken by an event. It is registered before it reads, so that what is committed meanwhile wakes it.
struct Waiting<'a> {
    edge: &'a Edge,
    poll: Result<LongPoll, ApiError>,
}

impl<'a> Waiting<'a> {
    async fn begin(edge: &'a Edge, is_admitted: bool, patterns: &[Pattern]) -> Self {
        let poll = match is_admitted {
            true => LongPoll::begin(&edge.worker, patterns).await,
            false => Err(ApiError::transient(ErrorCode::Overloaded, "as many requests wait as may wait")),
        };
        Self { edge, poll }
    }

    /// Reads when it is its turn.
    async fn read<T>(&self, read: impl Future<Output = T>) -> T {
        let _turn = self.edge.parts.long_polls.reads.acquire().await;
        read.await
    }

    fn is_over(&self, deadline: Instant) -> bool {
        Instant::now() >= deadline || self.edge.parts.health.is_draining()
    }

    /// Waits for an event; false if none comes until then, or its reader has gone.
    async fn until(self, req: &HttpRequest, deadline: Instant) -> Result<bool, ApiError> {
        let mut poll = self.poll?;
        Ok(tokio::select! {
            woken = poll.woken() => woken,
            () = tokio::time::sleep_until(deadline) => false,
            () = gone(req) => false,
        })
    }
}

/// Ready when the reader has closed its connection.
async fn gone(req: &HttpRequest) {
    match req.conn_data::<Rc<ConnectionSocket>>() {
        Some(socket) => socket.gone().await,
        None => std::future::pending().await,
    }
}
