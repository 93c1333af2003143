//! Scans the log from a known position.

use crate::domain::event::{Event, EventId};
use crate::domain::pattern::Pattern;

use super::connection::Connection;
use super::error::StoreError;
use super::filter::{Budget, Filter, Progress};
use super::fragments::{Conditions, Pick};
use super::position::{self, IdRange};

/// The most statements of one scan.
const MAX_STATEMENTS: usize = 8;

/// Which piece of the log to read, in the order of ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Exclusive.
    pub after: EventId,
    /// Inclusive; `None` stands for the end of the log.
    pub through: Option<EventId>,
    /// Events that match any of these. If empty, every event, including the Event Handler's own.
    pub patterns: Vec<Pattern>,
    pub max_events: usize,
    /// The last event of a page may exceed it, so that a page is never empty because of it.
    pub max_bytes: usize,
}

/// The result of a [`Scan`]: all retained events in `after + 1 ..= scanned_through` that match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanPage {
    pub events: Vec<Event>,
    /// The position from which to go on. It is beyond `Scan::after`, unless the log or `Scan::through` ends there.
    pub scanned_through: EventId,
    /// The oldest retained id after the read. If it is above `Scan::after + 1`, events may be missing.
    pub earliest: EventId,
}

pub(super) fn scan(connection: &mut Connection, scan: &Scan) -> Result<ScanPage, StoreError> {
    // The filter knows only names committed before it is made, so the range of ids is fixed before that.
    let log = position::bounds(connection)?;
    let end = scan.through.map_or(log.last, |through| through.min(log.last));
    let range = IdRange { low: scan.after.saturating_add(1).max(log.earliest), high: end };
    if range.is_empty() {
        return Ok(ScanPage { events: Vec::new(), scanned_through: end.max(scan.after), earliest: log.earliest });
    }
    let filter = Filter::resolve(connection, scan.patterns.clone(), Pick::All, Conditions::default())?;
    let budget = Budget { events: scan.max_events.max(1), bytes: scan.max_bytes.max(1) };
    let mut progress = Progress::new(range, false, budget);
    for _ in 0..MAX_STATEMENTS {
        if progress.is_done() {
            break;
        }
        filter.advance(connection, &mut progress)?;
    }
    // Looked up after the read, so that it covers what was trimmed during the read.
    let earliest = position::bounds(connection)?.earliest;
    Ok(ScanPage { events: progress.events, scanned_through: progress.range.low - 1, earliest })
}
