//! Retention: removes old events and old idempotency keys.

use std::time::Duration;

use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _};

use crate::domain::event::{EventId, LogBounds, Timestamp};
use crate::domain::follow::Awaited;
use crate::domain::log::Gap;
use crate::domain::routes::ServiceId;
use crate::domain::saga::State;

use super::append::newest;
use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::position::{self, IdRange, Stretch};
use super::schema::{clock_turns, deliveries, delivery_attempts, events, heard_events, idempotency_keys, sent_events};
use super::{followers, identity, outbox, sagas};

/// Which events are kept. `None` sets no limit. The newest event is always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetentionPolicy {
    /// Keeps events younger than this.
    pub max_age: Option<Duration>,
    /// Keeps this many of the newest events.
    pub max_events: Option<u64>,
    /// Keeps the events within the newest bytes of the log, this many; one that lies there only in part is kept.
    pub max_bytes: Option<u64>,
    /// Keeps what the mirror has not taken yet for at most this much longer.
    pub mirror_hold: Option<Duration>,
    /// The same of the orchestrator, for as long as there are sagas.
    pub orchestrator_hold: Option<Duration>,
}

impl RetentionPolicy {
    /// Whether anything is ever removed.
    pub fn has_limits(&self) -> bool {
        self.max_age.is_some() || self.max_events.is_some() || self.max_bytes.is_some()
    }
}

/// What one step of trimming has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trimmed {
    /// How many events were removed.
    pub removed: usize,
    /// The oldest id that is left; 1 if the log is empty.
    pub earliest: EventId,
    /// Whether the policy allows more to be removed.
    pub more_due: bool,
    /// For whom more is kept, since it has not read that yet. Of several, the one that is furthest behind.
    pub waits_for: Option<Awaited>,
}

pub(super) fn trim(
    connection: &mut Connection,
    policy: &RetentionPolicy,
    services: &[ServiceId],
    now: Timestamp,
    max_rows: usize,
) -> Result<Trimmed, StoreError> {
    let bounds = position::bounds(connection)?;
    let mut due = keep_from(connection, policy, bounds, now)?.min(bounds.last);
    for service in services {
        if due > bounds.earliest {
            due = outbox::oldest_open(connection, *service)?.map_or(due, |open| due.min(open));
        }
    }
    let mut waits_for = None;
    for awaited in Awaited::ALL {
        if let Some(from) = unread(connection, awaited, policy, bounds, due, now)? {
            (due, waits_for) = (from, Some(awaited));
        }
    }
    let step = bounds.earliest.saturating_add(i64::try_from(max_rows).unwrap_or(i64::MAX));
    let cut = due.min(step);
    if cut <= bounds.earliest {
        let more_due = due > bounds.earliest;
        return Ok(Trimmed { removed: 0, earliest: bounds.earliest, more_due, waits_for });
    }
    // Most rows that refer to an event are removed before it, so that a step that is interrupted leaves no orphaned
    // rows.
    let attempts = delivery_attempts::table.filter(delivery_attempts::event_id.lt(cut));
    on_backend!(connection, c => diesel::delete(attempts).execute(c))?;
    let sent = deliveries::table.filter(deliveries::event_id.lt(cut));
    on_backend!(connection, c => diesel::delete(sent).execute(c))?;
    let old = events::table.filter(events::id.lt(cut));
    let removed = on_backend!(connection, c => diesel::delete(old).execute(c))?;
    // After the events: who reads an event has read before whether it has a mark.
    let heard = heard_events::table.filter(heard_events::event_id.lt(cut));
    on_backend!(connection, c => diesel::delete(heard).execute(c))?;
    let sent = sent_events::table.filter(sent_events::event_id.lt(cut));
    on_backend!(connection, c => diesel::delete(sent).execute(c))?;
    let turns = clock_turns::table.filter(clock_turns::first_id.le(cut));
    on_backend!(connection, c => diesel::delete(turns).execute(c))?;
    let earliest = position::bounds(connection)?.earliest;
    Ok(Trimmed { removed, earliest, more_due: due > earliest, waits_for })
}

/// The id from which on the policy keeps events.
fn keep_from(
    connection: &mut Connection,
    policy: &RetentionPolicy,
    log: LogBounds,
    now: Timestamp,
) -> Result<EventId, StoreError> {
    let RetentionPolicy { max_age, max_events, max_bytes, mirror_hold: _, orchestrator_hold: _ } = policy;
    let limit = |limit: u64| i64::try_from(limit).unwrap_or(i64::MAX);
    let tail: Option<(i64, i64, i64)> = on_backend!(connection, c => newest().get_result(c).optional())?;
    let Some((last, _, log_offset)) = tail else { return Ok(0) };
    let mut keep_from = 0;
    if let Some(count) = max_events {
        keep_from = last.saturating_sub(limit(*count)).saturating_add(1);
        // Ids left out by a restore do not count as events.
        for Gap { last, end } in identity::gaps(connection)? {
            if keep_from <= end {
                keep_from -= end - last;
            }
        }
    }
    if let Some(age) = max_age {
        let since = now.0.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        let young = first_young(connection, log, Timestamp(since), now)?;
        keep_from = keep_from.max(young.unwrap_or(last));
    }
    if let Some(bytes) = max_bytes {
        let outside = log_offset.saturating_sub(limit(*bytes));
        let all = IdRange { low: log.earliest, high: log.last };
        let inside = position::first_id(connection, all, |row| row.log_offset > outside)?;
        keep_from = keep_from.max(inside.unwrap_or(last));
    }
    Ok(keep_from)
}

/// The first event before `due` that is kept because `awaited` has not read it yet. It is not waited for for ever: a
/// follower that stands still must not fill the disk.
fn unread(
    connection: &mut Connection,
    awaited: Awaited,
    policy: &RetentionPolicy,
    log: LogBounds,
    due: EventId,
    now: Timestamp,
) -> Result<Option<EventId>, StoreError> {
    let hold = match awaited {
        Awaited::Mirror => policy.mirror_hold,
        Awaited::Orchestrator => policy.orchestrator_hold,
    };
    let Some(hold) = hold.filter(|_| due > log.earliest) else { return Ok(None) };
    let stored = followers::position(connection, awaited.position())?.and_then(|position| position.parse().ok());
    let position = match awaited {
        // One that has none is filled first, which needs no events.
        Awaited::Mirror => stored,
        Awaited::Orchestrator => begins_after(connection, stored)?,
    };
    let Some(next) = position.map(|position| position + 1).filter(|next| *next < due) else { return Ok(None) };
    let longest = policy.max_age.unwrap_or_default().saturating_add(hold);
    let since = now.0.saturating_sub(i64::try_from(longest.as_micros()).unwrap_or(i64::MAX));
    let young = first_young(connection, log, Timestamp(since), now)?.unwrap_or(due);
    Ok(Some(next.max(young)).filter(|from| *from < due))
}

/// After which event the orchestrator goes on, if it has anything to do: a position that nobody moves any more holds
/// nothing back.
fn begins_after(connection: &mut Connection, stored: Option<EventId>) -> Result<Option<EventId>, StoreError> {
    let first = sagas::declared(connection)?.into_iter().map(|saga| saga.since).min();
    let is_live = |(_, state, count): &(String, State, u64)| state.is_live() && *count > 0;
    if first.is_none() && !sagas::counts(connection)?.iter().any(is_live) {
        return Ok(None);
    }
    Ok(stored.or(first))
}

/// The first event that is not older than `since`. Events that a wrong clock has dated after `now` are as old as the
/// first event after the clock was put right.
fn first_young(
    connection: &mut Connection,
    log: LogBounds,
    since: Timestamp,
    now: Timestamp,
) -> Result<Option<EventId>, StoreError> {
    for Stretch { ids, turned_at } in position::stretches(connection, log)? {
        let ahead = match turned_at {
            Some(_) => position::first_id(connection, ids, |row| row.created_at > now)?.unwrap_or(ids.high + 1),
            None => ids.high + 1,
        };
        let dated = IdRange { low: ids.low, high: ahead - 1 };
        let young = position::first_id(connection, dated, |row| row.created_at >= since)?;
        let young = young.or((ahead <= ids.high && turned_at >= Some(since)).then_some(ahead));
        if young.is_some() {
            return Ok(young);
        }
    }
    Ok(None)
}

/// Sets the date of keys that a wrong clock has dated after `now` to `now`, so that their window does not end later
/// than that of a new key.
pub(super) fn bound_keys(connection: &mut Connection, now: Timestamp, max_rows: usize) -> Result<(), StoreError> {
    /// A clock that is being corrected may be off by this much.
    const TOLERANCE: Duration = Duration::from_secs(10);
    let ahead = idempotency_keys::table
        .filter(idempotency_keys::created_at.gt(now.plus(TOLERANCE).0))
        .order(idempotency_keys::created_at.desc())
        .select(idempotency_keys::key)
        .limit(i64::try_from(max_rows).unwrap_or(i64::MAX));
    let keys: Vec<String> = on_backend!(connection, c => ahead.load(c))?;
    if !keys.is_empty() {
        let ahead = idempotency_keys::table.filter(idempotency_keys::key.eq_any(keys));
        let update = diesel::update(ahead).set(idempotency_keys::created_at.eq(now.0));
        on_backend!(connection, c => update.execute(c))?;
    }
    Ok(())
}

pub(super) fn prune_keys(connection: &mut Connection, before: Timestamp, max_rows: usize) -> Result<usize, StoreError> {
    let expired = diesel::alias!(idempotency_keys as expired_keys);
    let limit = i64::try_from(max_rows).unwrap_or(i64::MAX);
    let oldest = expired
        .filter(expired.field(idempotency_keys::created_at).lt(before.0))
        .order(expired.field(idempotency_keys::created_at))
        .select(expired.field(idempotency_keys::key))
        .limit(limit);
    let due = idempotency_keys::table.filter(idempotency_keys::key.eq_any(oldest));
    Ok(on_backend!(connection, c => diesel::delete(due).execute(c))?)
}
