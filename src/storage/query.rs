//! The query behind `GET /events`: a page of the log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::domain::delivery::EventStatus;
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::pattern::Pattern;

use super::connection::Connection;
use super::error::StoreError;
use super::filter::{Budget, Filter, Progress};
use super::fragments::{Conditions, Pick};
use super::outbox;
use super::position::{self, IdRange};

/// The default limit of a page, in bytes.
const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// After this time a long search lets other reads go first.
pub(super) const MAX_SLICE: Duration = Duration::from_millis(20);

/// Order of the events in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    #[default]
    Asc,
    Desc,
}

/// Which events to find, and which page of them.
///
/// Without a cursor or with `before` alone, the page has the newest events below it. With `after`, it has the oldest
/// events above it, or in descending order the newest ones above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventQuery {
    /// Events that match any of these. If empty, all but the Event Handler's own events.
    pub patterns: Vec<Pattern>,
    /// Exclusive.
    pub after: Option<EventId>,
    /// Exclusive.
    pub before: Option<EventId>,
    /// Inclusive.
    pub since: Option<Timestamp>,
    /// Inclusive.
    pub until: Option<Timestamp>,
    pub source: Option<String>,
    pub key: Option<String>,
    /// Only events of this processing status.
    pub status: Option<EventStatus>,
    /// At least 1.
    pub limit: usize,
    /// A page that exceeds it ends early.
    pub max_bytes: usize,
    pub order: Order,
}

impl Default for EventQuery {
    /// The newest hundred events.
    fn default() -> Self {
        Self {
            patterns: Vec::new(),
            after: None,
            before: None,
            since: None,
            until: None,
            source: None,
            key: None,
            status: None,
            limit: 100,
            max_bytes: PAGE_BYTES,
            order: Order::Asc,
        }
    }
}

/// A page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPage {
    /// In the order asked for.
    pub events: Vec<Event>,
    /// The status of each event that is not processed.
    pub statuses: BTreeMap<EventId, EventStatus>,
    /// Whether there are matching events older than these, and within both cursors if both were given.
    pub has_more_before: bool,
    /// Whether there are matching events newer than these.
    pub has_more_after: bool,
}

/// A query under way, which runs in bounded steps.
pub(super) struct Search {
    query: EventQuery,
    /// The end of the log for this search; none stands for what the connection has.
    end: Option<EventId>,
    started: Option<Started>,
}

struct Started {
    filter: Filter,
    page: Progress,
    /// Looks for one event on the other side of the cursor, to tell whether there is a page there.
    other_side: Progress,
}

impl Search {
    pub fn new(query: EventQuery) -> Self {
        Self { query, end: None, started: None }
    }

    /// A search on a replica, for events up to `end`. It finds no statuses, which may be old there.
    pub fn up_to(end: EventId, query: EventQuery) -> Self {
        Self { query, end: Some(end), started: None }
    }

    /// Executes statements for a moment. Returns the page when it is complete.
    pub fn slice(&mut self, connection: &mut Connection) -> Result<Option<EventPage>, StoreError> {
        let begun = Instant::now();
        loop {
            let page = self.step(connection)?;
            if page.is_some() || begun.elapsed() > MAX_SLICE {
                return Ok(page);
            }
        }
    }

    /// Executes one statement, or a few in the first step. Returns the page when it is complete.
    fn step(&mut self, connection: &mut Connection) -> Result<Option<EventPage>, StoreError> {
        let started = match &mut self.started {
            Some(started) => started,
            None => self.started.insert(Started::new(connection, &self.query, self.end)?),
        };
        let Started { filter, page, other_side } = started;
        if !page.is_done() {
            filter.advance(connection, page)?;
        } else if !other_side.is_done() {
            filter.advance(connection, other_side)?;
        }
        let done = page.is_done() && other_side.is_done();
        let Some(started) = self.started.take_if(|_| done) else { return Ok(None) };
        let mut page = started.into_page(&self.query);
        if self.end.is_none() {
            let ids: Vec<EventId> = page.events.iter().map(|event| event.id).collect();
            page.statuses = outbox::statuses(connection, &ids)?;
        }
        Ok(Some(page))
    }
}

impl Started {
    fn new(connection: &mut Connection, query: &EventQuery, end: Option<EventId>) -> Result<Self, StoreError> {
        // The filter knows only names committed before it is made, so the range of ids is fixed before that.
        let mut log = position::bounds(connection)?;
        log.last = end.map_or(log.last, |end| end.min(log.last));
        let (range, is_exact) = position::dated(connection, log, query.since, query.until)?;
        let dated = (!is_exact).then_some((query.since, query.until));
        let patterns = query.patterns.clone();
        let more = Conditions { source: query.source.clone(), key: query.key.clone(), status: query.status, dated };
        let filter = Filter::resolve(connection, patterns, Pick::Foreign, more)?;

        let above = query.after.map_or(range.low, |after| range.low.max(after.saturating_add(1)));
        let below = query.before.map_or(range.high, |before| range.high.min(before.saturating_sub(1)));
        let descending = query.after.is_none() || query.order == Order::Desc;
        let other_side = match (query.after, query.before) {
            (Some(after), None) if !descending => IdRange { low: range.low, high: range.high.min(after) },
            (None, Some(before)) => IdRange { low: range.low.max(before), high: range.high },
            _ => IdRange { low: 1, high: 0 },
        };
        // One event more than asked for tells whether there is another page.
        let budget = Budget { events: query.limit.max(1).saturating_add(1), bytes: query.max_bytes };
        let one = Budget { events: 1, bytes: 1 };
        Ok(Self {
            filter,
            page: Progress::new(IdRange { low: above, high: below }, descending, budget),
            other_side: Progress::new(other_side, !descending, one),
        })
    }

    fn into_page(self, query: &EventQuery) -> EventPage {
        let Self { filter: _, page, other_side } = self;
        let Progress { range, descending, mut events, .. } = page;
        let limit = query.limit.max(1);
        // If the bytes were spent first, the rest of the range may have more events.
        let has_more_ahead = events.len() > limit || !range.is_empty();
        events.truncate(limit);
        if descending != (query.order == Order::Desc) {
            events.reverse();
        }
        let has_more_behind = !other_side.events.is_empty();
        let (has_more_before, has_more_after) =
            if descending { (has_more_ahead, has_more_behind) } else { (has_more_behind, has_more_ahead) };
        EventPage { events, statuses: BTreeMap::new(), has_more_before, has_more_after }
    }
}
