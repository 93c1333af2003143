//! Whoever follows a log: how far it has come, and what it reads next.

use std::collections::HashSet;

use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _};

use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::position;
use super::scan::{Scan, ScanPage, scan};
use super::schema::{heard_events, positions, sent_events};
use crate::domain::event::{Event, EventId};
use crate::domain::follow::missed;
use crate::domain::lease::Grant;
use crate::domain::log::EventUuid;

/// The lease of a follower, and from where it is to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedFollower {
    pub grant: Grant,
    /// As it was stored last; none at first.
    pub position: Option<String>,
}

/// Where the follower called `name` has come to.
pub(super) fn position(connection: &mut Connection, name: &str) -> Result<Option<String>, StoreError> {
    let query = positions::table.find(name).select(positions::position);
    Ok(on_backend!(connection, c => query.first(c).optional())?)
}

/// Stores where the follower called `name` has come to.
pub(super) fn set_position(connection: &mut Connection, name: &str, position: &str) -> Result<(), StoreError> {
    let row = (positions::name.eq(name), positions::position.eq(position));
    let moved = positions::position.eq(position);
    match connection {
        Connection::Sqlite(file) => {
            let insert = diesel::insert_into(positions::table).values(row);
            insert.on_conflict(positions::name).do_update().set(moved).execute(&mut file.connection)?;
        }
        Connection::Postgres(session) => {
            let insert = diesel::insert_into(positions::table).values(row);
            insert.on_conflict(positions::name).do_update().set(moved).execute(&mut session.connection)?;
        }
    }
    Ok(())
}

/// The next events of the log for a follower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowPage {
    pub events: Vec<Event>,
    /// Those of them that came by publish/subscribe.
    pub heard: HashSet<EventId>,
    /// From where to go on.
    pub through: EventId,
    /// There was nothing after it when it was read.
    pub is_last: bool,
    /// How many ids before that retention has removed unread.
    pub missed: u64,
}

/// The events after `after`: at most so many, of about so many bytes together.
pub(super) fn follow(
    connection: &mut Connection,
    after: EventId,
    (max_events, max_bytes): (usize, usize),
) -> Result<FollowPage, StoreError> {
    let log = position::bounds(connection)?;
    let start = after.max(log.earliest - 1);
    let through = start.saturating_add(i64::try_from(max_events).unwrap_or(i64::MAX)).min(log.last);
    // Before the events: retention removes the marks of events after these.
    let marks = heard_events::table
        .filter(heard_events::event_id.gt(start))
        .filter(heard_events::event_id.le(through))
        .select(heard_events::event_id);
    let heard: Vec<EventId> = on_backend!(connection, c => marks.load(c))?;
    let page = Scan { after: start, through: Some(through), patterns: Vec::new(), max_events, max_bytes };
    let ScanPage { events, scanned_through, earliest } = scan(connection, &page)?;
    let through = scanned_through.max(start);
    let found = events.iter().filter(|event| event.id < earliest).count();
    let missed = missed(after, through, earliest, found);
    Ok(FollowPage { events, heard: heard.into_iter().collect(), through, is_last: through >= log.last, missed })
}

/// These events came by publish/subscribe.
pub(super) fn mark_heard(connection: &mut Connection, ids: &[EventId]) -> Result<(), StoreError> {
    for ids in ids.chunks(MAX_ROWS) {
        let rows: Vec<_> = ids.iter().map(|id| heard_events::event_id.eq(*id)).collect();
        match connection {
            Connection::Sqlite(file) => {
                diesel::insert_into(heard_events::table).values(rows).execute(&mut file.connection)?;
            }
            Connection::Postgres(session) => {
                diesel::insert_into(heard_events::table).values(rows).execute(&mut session.connection)?;
            }
        }
    }
    Ok(())
}

/// These events go out by publish/subscribe. Some may be known to do so already.
pub(super) fn mark_sent(connection: &mut Connection, sent: &[(EventUuid, EventId)]) -> Result<(), StoreError> {
    let row = |(uuid, id): &(EventUuid, EventId)| {
        (sent_events::uuid.eq(uuid.to_bytes().to_vec()), sent_events::event_id.eq(*id))
    };
    for sent in sent.chunks(MAX_ROWS) {
        let rows: Vec<_> = sent.iter().map(row).collect();
        match connection {
            Connection::Sqlite(file) => {
                diesel::insert_or_ignore_into(sent_events::table).values(rows).execute(&mut file.connection)?;
            }
            Connection::Postgres(session) => {
                let insert = diesel::insert_into(sent_events::table).values(rows);
                insert.on_conflict_do_nothing().execute(&mut session.connection)?;
            }
        }
    }
    Ok(())
}

/// Those of `uuids` under which an event of the log went out, or was about to.
pub(super) fn sent(connection: &mut Connection, uuids: &[EventUuid]) -> Result<HashSet<EventUuid>, StoreError> {
    // Retention removes events before their marks.
    let earliest = position::bounds(connection)?.earliest;
    let mut found = HashSet::new();
    for uuids in uuids.chunks(MAX_ROWS) {
        let uuids = uuids.iter().map(|uuid| uuid.to_bytes().to_vec());
        let marks = sent_events::table
            .filter(sent_events::uuid.eq_any(uuids))
            // `+ 0`: it is looked up by the UUID, whatever the statistics of PostgreSQL say.
            .filter((sent_events::event_id + 0_i64).ge(earliest))
            .select(sent_events::uuid);
        let known: Vec<Vec<u8>> = on_backend!(connection, c => marks.load(c))?;
        found.extend(known.into_iter().filter_map(|uuid| Some(EventUuid::from_bytes(uuid.try_into().ok()?))));
    }
    Ok(found)
}

/// Rows of one statement: SQLite has 32766 parameters.
const MAX_ROWS: usize = 1024;
