//! What one transaction of the [writer](super::writer) writes.

use std::time::Duration;

use diesel::dsl::auto_type;
use diesel::{ExpressionMethods as _, QueryDsl as _};

use crate::domain::event::{Append, EventId, Timestamp};
use crate::domain::log::{Restored, Seen};
use crate::domain::routes::{Routes, ServiceId};

use super::connection::Connection;
use super::durables::{self, DurableChange};
use super::error::StoreError;
use super::outbox::{self, ServiceChange, Settlement};
use super::schema::events;
use super::{idempotency, identity, position, postgres, schedules, sqlite};

/// What goes into one transaction.
#[derive(Debug, Default)]
pub struct Group {
    pub appends: Vec<Append>,
    /// Most schedules to be appended now if they are due.
    pub take_due: usize,
    pub settlements: Vec<Settlement>,
    pub services: Vec<ServiceChange>,
    pub durables: Vec<DurableChange>,
    /// By how much dates may be ahead of the time, so that they need not go back; a day unless it is said.
    pub lead: Option<Duration>,
}

/// See [`Group::lead`].
const MAX_LEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// The end of the log, read inside the transaction that appends to it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tail {
    pub id: EventId,
    pub created_at: Timestamp,
    pub log_offset: i64,
    /// The newest event is dated after that.
    pub turns_back: bool,
}

/// On what a transaction of the writer stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground {
    pub seen: Option<Seen>,
    pub is_set_back: bool,
    pub is_declared: bool,
    pub now: Timestamp,
    pub keys_since: Timestamp,
}

/// What a transaction has written.
pub(super) struct Written {
    pub tail: Tail,
    pub plan: idempotency::Plan,
    pub enqueued: outbox::Enqueued,
    pub void: Vec<ServiceId>,
    pub restored: Option<Restored>,
    pub has_settled_all: bool,
}

/// Writes all of `group` within a transaction. What is due is added to its appends, and as many as `own` are put before them.
pub(super) fn write(
    connection: &mut Connection,
    group: &mut Group,
    routes: &Routes,
    ground: Ground,
    own: &mut usize,
) -> Result<Written, StoreError> {
    let Group { appends: batch, take_due, settlements, services, durables, lead } = group;
    let Ground { seen, is_set_back, is_declared, now, keys_since } = ground;
    // First: what is void leaves nothing behind, and tells nobody.
    let mut void = Vec::new();
    for change in durables {
        if durables::change(connection, change)? {
            batch.extend(change.events.iter().cloned().map(Append::single));
        } else {
            void.push(change.service);
        }
    }
    let mut restored = None;
    if is_declared || is_set_back {
        restored = match seen.filter(|_| !is_declared) {
            Some(seen) => identity::restore(connection, &seen)?,
            None => Some(identity::declare_restored(connection, seen.as_ref())?),
        };
        batch.splice(0..0, restored.iter().map(|restored| Append::single(restored.event())));
        *own = restored.iter().count();
    }
    let floor = match &restored {
        Some(restored) => restored.after,
        None => seen.filter(|_| !is_set_back).map_or(0, |seen| seen.last),
    };
    if *take_due > 0 {
        batch.extend(schedules::take_due(connection, now, *take_due)?.into_iter().map(Append::single));
    }
    let job = AppendJob { batch, floor, now, lead: lead.unwrap_or(MAX_LEAD), keys_since };
    let (tail, plan) = match connection {
        Connection::Sqlite(file) => sqlite::append(&mut file.connection, &job)?,
        Connection::Postgres(session) => postgres::append(&mut session.connection, &job)?,
    };
    let mut new = plan.select(batch.iter().flat_map(|append| &append.events)).peekable();
    if tail.turns_back && new.peek().is_some() {
        position::turn_back(connection, tail.id + 1, tail.created_at)?;
    }
    let enqueued = outbox::enqueue(connection, routes, new.zip(tail.id + 1..))?;
    for ((schedule, event), place) in plan.schedules(batch).zip(0..) {
        schedules::insert(connection, schedule, event, now, place)?;
    }
    let has_settled_all = outbox::settle(connection, settlements)? == settlements.len();
    for change in services {
        outbox::change_service(connection, change)?;
    }
    Ok(Written { tail, plan, enqueued, void, restored, has_settled_all })
}

/// What a backend needs to know to append.
pub(super) struct AppendJob<'a> {
    pub batch: &'a [Append],
    /// Ids are given above this.
    pub floor: EventId,
    pub now: Timestamp,
    /// By how much dates may be ahead of it.
    pub lead: Duration,
    /// Idempotency keys from before this instant count as absent.
    pub keys_since: Timestamp,
}

impl AppendJob<'_> {
    /// Whether any request has an idempotency key.
    pub fn has_keys(&self) -> bool {
        idempotency::keys(self.batch).next().is_some()
    }

    /// The tail from which the batch continues, `last` being the newest row.
    pub fn tail(&self, last: Option<(EventId, i64, i64)>) -> Tail {
        let (id, created_at, log_offset) = last.unwrap_or_default();
        let turns_back = created_at > self.now.plus(self.lead).0;
        let created_at = if turns_back { self.now } else { Timestamp(created_at).max(self.now) };
        Tail { id: id.max(self.floor), created_at, log_offset, turns_back }
    }
}

/// The newest row: id, time, offset.
#[auto_type]
pub(super) fn newest() -> _ {
    events::table.order(events::id.desc()).select((events::id, events::created_at, events::log_offset)).limit(1_i64)
}
