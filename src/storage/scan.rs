//! Reading the log from a remembered position.

use crate::domain::event::{Event, EventId};
use crate::domain::pattern::Pattern;

use super::connection::Connection;
use super::error::StoreError;
use super::filter::{Budget, Filter, Progress};
use super::fragments::{Conditions, Pick};
use super::position::{self, IdRange};

/// Statements of one scan at most.
const MAX_STATEMENTS: usize = 8;

/// A piece of the log, in the order of ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Exclusive.
    pub after: EventId,
    /// Inclusive; the end of the log if none.
    pub through: Option<EventId>,
    /// Any of these; none stands for every event, the Event Handler's own among them.
    pub patterns: Vec<Pattern>,
    pub max_events: usize,
    /// The last event of a page may exceed it.
    pub max_bytes: usize,
}

/// What a [`Scan`] found: all that match in `after + 1 ..= scanned_through`, and are retained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanPage {
    pub events: Vec<Event>,
    /// Where to go on. Beyond `Scan::after` unless the log (or `Scan::through`) ends there.
    pub scanned_through: EventId,
    /// The oldest retained id after the read: above `Scan::after + 1`, events may be missing.
    pub earliest: EventId,
}

pub(super) fn scan(connection: &mut Connection, scan: &Scan) -> Result<ScanPage, StoreError> {
    // The filter holds for what is committed when it is made: the ids are fixed first.
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
    // Looked up after the read: what was trimmed meanwhile may be missing from it.
    let earliest = position::bounds(connection)?.earliest;
    Ok(ScanPage { events: progress.events, scanned_through: progress.range.low - 1, earliest })
}
