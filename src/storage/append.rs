//! What both backends share when they append to the log.

use std::time::Duration;

use diesel::dsl::{auto_type, sql};
use diesel::expression::SqlLiteral;
use diesel::sql_types::BigInt;
use diesel::{ExpressionMethods as _, QueryDsl as _};

use super::schema::events;
use crate::domain::catalogue::Catalogue;
use crate::domain::event::{Admission, Append, AppendOutcome, EventId, Timestamp};
use crate::domain::judgement::Judgement;
use crate::domain::pattern::Pattern;

/// The end of the log, read inside the transaction that appends to it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tail {
    pub id: EventId,
    pub created_at: Timestamp,
    pub log_offset: i64,
    /// The newest event has a later date than `created_at`: a wrong clock had dated it, and dates go back here.
    pub turns_back: bool,
}

/// What one statement appends, and the conditions for it.
pub(super) struct AppendBatch<'a> {
    pub batch: &'a [&'a Append],
    /// New ids are greater than this one, even if the log ends before it.
    pub ids_above: EventId,
    pub now: Timestamp,
    /// The newest event may be dated this much after `now`, and the dates of the log still go on from it.
    pub lead: Duration,
    /// Idempotency keys stored before this instant have expired and count as absent.
    pub keys_since: Timestamp,
    /// Most types of entities.
    pub max_types: usize,
    pub refusals: &'a Refusals,
    /// As it is stored.
    pub catalogue: &'a Catalogue,
}

impl AppendBatch<'_> {
    /// Whether all requests were found good, by the catalogue as it is stored.
    pub fn are_found_good(&self) -> bool {
        let is_good = |judgement: &Judgement| {
            judgement.generation == self.catalogue.generation() && judgement.findings.is_empty()
        };
        self.batch.iter().all(|append| append.judgement.as_ref().is_none_or(is_good))
    }

    /// The tail after which the batch is appended. `last` is the newest row; `None` means that the log is empty.
    pub fn tail(&self, last: Option<(EventId, i64, i64)>) -> Tail {
        let (id, created_at, log_offset) = last.unwrap_or_default();
        let turns_back = created_at > self.now.plus(self.lead).0;
        let created_at = if turns_back { self.now } else { Timestamp(created_at).max(self.now) };
        Tail { id: id.max(self.ids_above), created_at, log_offset, turns_back }
    }
}

/// What is refused because of the state of the system, as the transaction sees it.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Events of these names; empty unless the system is in maintenance.
    pub names: Vec<Pattern>,
    /// Something was refused after which nothing of its list is taken.
    pub has_stopped: bool,
}

impl Refusals {
    /// Whether nothing can be refused.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && !self.has_stopped
    }

    /// Whether a request is refused of which `is_new` are stored for the first time.
    pub fn has(&self, append: &Append, is_new: impl Fn(usize) -> bool) -> bool {
        match append.admission {
            Admission::Always => false,
            Admission::InOrder if self.has_stopped => true,
            Admission::Judged | Admission::InOrder => (append.events.iter().enumerate())
                .any(|(at, event)| is_new(at) && self.names.iter().any(|pattern| pattern.matches(&event.name))),
        }
    }

    /// Notes what has become of a request.
    pub fn note(&mut self, append: &Append, outcome: &AppendOutcome) {
        self.has_stopped |= append.admission == Admission::InOrder && *outcome == AppendOutcome::Maintenance;
    }
}

/// The newest row of the log: its id, date and offset.
#[auto_type]
pub(super) fn newest() -> _ {
    // Without a limit, for which SQLite would prepare the statement each time.
    let last: SqlLiteral<BigInt> = sql("(SELECT max(id) FROM events)");
    events::table.filter(events::id.eq(last)).select((events::id, events::created_at, events::log_offset))
}
