//! Reads the events that match patterns and conditions, a bounded piece at a time.

use std::collections::BTreeSet;

use diesel::connection::DefaultLoadingMode;
use diesel::pg::PgRowByRowLoadingMode;
use diesel::sql_types::{BigInt, Bool};
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryResult, RunQueryDsl as _};

use crate::domain::event::{Event, EventId};
use crate::domain::name::{EventName, SYSTEM_PREFIX};
use crate::domain::pattern::Pattern;

use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::fragments::{self, Conditions, Names, Pick, Row, Walk};
use super::position::IdRange;
use super::schema::deliveries;

/// Up to this many names are each read along the index of names; with more, the walk follows the ids.
const MAX_NAMES: usize = 64;
/// Up to this many patterns are turned into `LIKE` conditions, which rows pass before they are matched exactly.
const MAX_PATTERNS: usize = 16;
/// How many ids one statement may span when it may have to skip rows.
const WINDOW: i64 = 32_768;
/// How many deliveries one statement may look at to find unprocessed events.
const UNPROCESSED: i64 = 4_096;
/// Rows that the first statement of a read asks for, while the size of the events is unknown.
const FIRST_ROWS: usize = 256;
/// The most rows that one statement asks for.
const MAX_ROWS: usize = 2_048;

/// Finds one event by its id.
pub(super) fn find(connection: &mut Connection, id: EventId) -> Result<Option<Event>, StoreError> {
    let range = IdRange { low: id, high: id };
    let walk = Walk { pick: &Pick::All, range, descending: false, more: &Conditions::default(), limit: 1 };
    let mut found = None;
    load(connection, &walk, |event| {
        found = Some(event);
        true
    })?;
    Ok(found)
}

/// How many events and bytes a read may still return.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub events: usize,
    /// The last event may exceed it, so that a read always returns something.
    pub bytes: usize,
}

impl Budget {
    fn is_spent(self) -> bool {
        self.events == 0 || self.bytes == 0
    }
}

/// A read under way. It goes from one end of a range of ids to the other.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    /// The ids that were not read yet.
    pub range: IdRange,
    pub descending: bool,
    pub budget: Budget,
    /// The events found so far, in the order of reading.
    pub events: Vec<Event>,
    /// Mean size of an event in the last statement, in bytes; 0 before the first one.
    row_bytes: usize,
}

impl Progress {
    pub fn new(range: IdRange, descending: bool, budget: Budget) -> Self {
        Self { range, descending, budget, events: Vec::new(), row_bytes: 0 }
    }

    /// As many rows as fill the budget of bytes, judging by the last statement.
    fn rows_that_fit(&self) -> usize {
        self.budget.bytes.checked_div(self.row_bytes).map_or(FIRST_ROWS, |rows| rows.clamp(16, MAX_ROWS))
    }

    /// Whether everything was read or the budget is spent.
    pub fn is_done(&self) -> bool {
        self.range.is_empty() || self.budget.is_spent()
    }
}

/// Which events to read. Its names are those that were in the log when it was made.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    pick: Pick,
    patterns: Vec<Pattern>,
    more: Conditions,
}

impl Filter {
    /// Chooses the cheapest way to read the events that match any of `patterns`. It finds only events that are
    /// committed by now. Without patterns, it picks `unnamed`.
    pub fn resolve(
        connection: &mut Connection,
        patterns: Vec<Pattern>,
        unnamed: Pick,
        more: Conditions,
    ) -> Result<Self, StoreError> {
        let pick = if patterns.is_empty() { unnamed } else { pick(connection, &patterns)? };
        Ok(Self { pick, patterns, more })
    }

    /// Executes one statement and moves `progress` past the ids that it covered.
    pub fn advance(&self, connection: &mut Connection, progress: &mut Progress) -> Result<(), StoreError> {
        let Progress { range, descending, budget, .. } = *progress;
        let is_judged = !matches!(self.pick, Pick::Like(_));
        let limit = if is_judged { budget.events } else { MAX_ROWS };
        let limit = limit.min(progress.rows_that_fit());
        let window = self.window(connection, range, descending)?;
        let walk = Walk { pick: &self.pick, range: window, descending, more: &self.more, limit: limit as i64 };
        let mut found = Vec::new();
        let mut left = budget;
        let (mut seen, mut seen_bytes) = (0, 0);
        let mut edge = if descending { window.low } else { window.high };
        load(connection, &walk, |event| {
            seen += 1;
            seen_bytes += event.memory();
            let id = event.id;
            if is_judged || self.patterns.iter().any(|pattern| pattern.matches(&event.name)) {
                left.events -= 1;
                left.bytes = left.bytes.saturating_sub(event.memory());
                found.push(event);
            }
            let stop = seen == limit || left.is_spent();
            if stop {
                edge = id;
            }
            !stop
        })?;
        if descending {
            progress.range.high = edge - 1;
        } else {
            progress.range.low = edge + 1;
        }
        progress.budget = left;
        progress.row_bytes = seen_bytes.checked_div(seen).unwrap_or(progress.row_bytes);
        progress.events.append(&mut found);
        Ok(())
    }

    /// The part of `range` that one statement may read.
    fn window(&self, connection: &mut Connection, range: IdRange, descending: bool) -> Result<IdRange, StoreError> {
        if let Some(states) = self.more.open_states() {
            let last = last_unprocessed(connection, states, range, descending)?;
            return Ok(match last {
                None => range,
                Some(last) if descending => IdRange { low: last, ..range },
                Some(last) => IdRange { high: last, ..range },
            });
        }
        let every_row_counts = matches!(self.pick, Pick::All | Pick::Named(_));
        Ok(if every_row_counts && self.more == Conditions::default() {
            range
        } else if descending {
            IdRange { low: range.low.max(range.high - (WINDOW - 1)), high: range.high }
        } else {
            IdRange { low: range.low, high: range.high.min(range.low + (WINDOW - 1)) }
        })
    }
}

/// The event at which one statement has to stop, because it has looked at enough deliveries in `states`. `None` means
/// that it may read the whole range.
fn last_unprocessed(
    connection: &mut Connection,
    states: &str,
    range: IdRange,
    descending: bool,
) -> Result<Option<EventId>, StoreError> {
    // The indexes of unprocessed deliveries are on `event_id + 0`; see `Walk::unprocessed`.
    let event_id = || diesel::dsl::sql::<BigInt>("event_id + 0");
    let found = deliveries::table
        .filter(diesel::dsl::sql::<Bool>(states))
        .filter(event_id().ge(range.low))
        .filter(event_id().le(range.high))
        .select(event_id())
        .offset(UNPROCESSED - 1)
        .limit(1);
    Ok(if descending {
        let found = found.order(event_id().desc());
        on_backend!(connection, c => found.first(c).optional())?
    } else {
        let found = found.order(event_id().asc());
        on_backend!(connection, c => found.first(c).optional())?
    })
}

fn pick(connection: &mut Connection, patterns: &[Pattern]) -> Result<Pick, StoreError> {
    let own = |pattern: &Pattern| pattern.as_str().starts_with(SYSTEM_PREFIX);
    if patterns.iter().any(Pattern::is_everything) && !patterns.iter().any(own) {
        return Ok(Pick::Foreign);
    }
    if patterns.iter().filter(|p| !p.is_exact()).count() <= MAX_PATTERNS
        && let Some(names) = names(connection, patterns)?
    {
        return Ok(Pick::Named(names));
    }
    let like = |pattern: &Pattern| pattern.as_str().replace(['*', '>'], "%");
    Ok(Pick::Like(if patterns.len() <= MAX_PATTERNS { patterns.iter().map(like).collect() } else { Vec::new() }))
}

/// The names in the log that match any of `patterns`. `None` if there are more than [`MAX_NAMES`].
fn names(connection: &mut Connection, patterns: &[Pattern]) -> Result<Option<Vec<String>>, StoreError> {
    let mut names = BTreeSet::new();
    for pattern in patterns {
        if pattern.is_exact() {
            names.insert(pattern.as_str().to_owned());
        } else {
            for (from, below) in ranges(pattern.literal_prefix()) {
                let query = Names { from: &from, below: &below, limit: MAX_NAMES as i64 + 1 };
                let found: Vec<String> = on_backend!(connection, c => query.load(c))?;
                if found.len() > MAX_NAMES {
                    return Ok(None);
                }
                let matching = found.into_iter().filter(|n| pattern.matches(&EventName::from_store(n.clone())));
                names.extend(matching);
            }
        }
        if names.len() > MAX_NAMES {
            return Ok(None);
        }
    }
    Ok(Some(names.into_iter().collect()))
}

/// The ranges of names that a wildcard after `prefix` can match, in the order of bytes; the ends are exclusive. A
/// wildcard without a prefix does not match system events.
fn ranges(prefix: &str) -> Vec<(String, String)> {
    // The character after `.` is `/`, and the one after `:` is `;`, so this is the first text after all that begin with
    // `prefix`.
    let after = |prefix: &str| {
        let dotted = prefix.strip_suffix('.').map(|stem| format!("{stem}/"));
        dotted.or_else(|| prefix.strip_suffix(':').map(|stem| format!("{stem};")))
    };
    match after(prefix) {
        Some(below) => vec![(prefix.to_owned(), below)],
        None => {
            // No name sorts after this one.
            let end = "\u{10FFFF}".repeat(64);
            let own = after(SYSTEM_PREFIX).unwrap_or_default();
            vec![(String::new(), SYSTEM_PREFIX.to_owned()), (own, end)]
        }
    }
}

/// Passes the events of `walk` to `take`, one by one, until it returns false.
fn load(connection: &mut Connection, walk: &Walk<'_>, take: impl FnMut(Event) -> bool) -> Result<(), StoreError> {
    fn feed(rows: impl Iterator<Item = QueryResult<Row>>, mut take: impl FnMut(Event) -> bool) -> QueryResult<()> {
        for row in rows {
            if !take(fragments::event(row?)) {
                break;
            }
        }
        Ok(())
    }
    let walk = walk.clone();
    match connection {
        Connection::Sqlite(file) => feed(walk.load_iter::<Row, DefaultLoadingMode>(&mut file.connection)?, take)?,
        Connection::Postgres(session) => {
            feed(walk.load_iter::<Row, PgRowByRowLoadingMode>(&mut session.connection)?, take)?;
        }
    }
    Ok(())
}
