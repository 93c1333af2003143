//! The nodes that share the store.
//!
//! No statement here stands on the clock of a node. What is read of the store's clock before a statement is earlier than
//! the statement: so a membership never lasts longer than its node believes, and nobody is found lost too early.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use diesel::dsl::sql;
use diesel::sql_types::BigInt;
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _,
};

use crate::domain::event::{EventId, Timestamp};
use crate::domain::membership::{Beat, BeatOutcome, NodeRecord};

use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::schema::nodes;

/// For how long a node that was found lost is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// No node is a member for longer without renewing that.
const LONGEST: Duration = Duration::from_secs(10);

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    pub name: Arc<str>,
    /// For how long a membership is renewed; none where no other process can have the store.
    pub ttl: Option<Duration>,
    pub version: String,
    pub url: String,
    pub last_id: EventId,
    pub is_draining: bool,
}

/// What the store answers to a beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeatAnswer {
    pub outcome: BeatOutcome,
    /// All that are known, in the order of their names.
    pub nodes: Vec<NodeRecord>,
}

/// Joins, or renews a membership, and learns of the others.
pub(super) fn beat(connection: &mut Connection, status: &NodeStatus, beat: Beat) -> Result<BeatAnswer, StoreError> {
    let now = time(connection)?;
    if status.ttl.is_some() {
        bound_expiries(connection, now.plus(LONGEST))?;
    }
    let outcome = match beat {
        Beat::Join => join(connection, status, now)?,
        Beat::Renew { generation, judges } => {
            let was_in_time = is_in_time(connection, status, generation, now)?;
            let outcome = renew(connection, status, generation, now)?;
            // The beat itself may have been held up, with those of all others.
            if judges && was_in_time && outcome == BeatOutcome::Renewed {
                end_expired(connection, now)?;
            }
            outcome
        }
    };
    Ok(BeatAnswer { outcome, nodes: all(connection)? })
}

/// The node is no member of this generation any more: what it holds is free.
pub(super) fn leave(connection: &mut Connection, name: &str, generation: i64) -> Result<(), StoreError> {
    let of_it = nodes::table.filter(nodes::name.eq(name).and(nodes::generation.eq(generation)));
    on_backend!(connection, c => diesel::delete(of_it).execute(c))?;
    Ok(())
}

/// The clock of the store. It counts microseconds, so that no two transactions see the same.
pub(super) fn time(connection: &mut Connection) -> Result<Timestamp, StoreError> {
    let now = match connection {
        // That of this machine. SQLite would tell milliseconds only.
        Connection::Sqlite(_) => {
            let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX)
        }
        Connection::Postgres(session) => {
            let now = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
            diesel::select(sql::<BigInt>(now)).get_result(&mut session.connection)?
        }
    };
    Ok(Timestamp(now))
}

fn expiry(status: &NodeStatus, now: Timestamp) -> i64 {
    status.ttl.map_or(i64::MAX, |ttl| now.plus(ttl).0)
}

/// Becomes a member, in place of an earlier one of its name whose time is over. Where no other process can have the
/// store, the time of all others is over.
fn join(connection: &mut Connection, status: &NodeStatus, now: Timestamp) -> Result<BeatOutcome, StoreError> {
    let NodeStatus { name, ttl, version, url, last_id, is_draining } = status;
    if ttl.is_none() {
        end_expired(connection, Timestamp(i64::MAX))?;
    }
    let known = nodes::table.find(&**name).select((nodes::generation, nodes::expires_at));
    let known: Option<(i64, i64)> = on_backend!(connection, c => known.first(c).optional())?;
    let earlier = match known {
        Some((generation, expires_at)) if ttl.is_some() && expires_at > now.0 => {
            return Ok(BeatOutcome::NameHeld { generation, expires_at: Timestamp(expires_at) });
        }
        known => known.map_or(0, |(generation, _)| generation),
    };
    // Rising even when the row was removed meanwhile.
    let generation = now.0.max(earlier + 1);
    let row = (
        nodes::generation.eq(generation),
        nodes::expires_at.eq(expiry(status, now)),
        nodes::started_at.eq(now.0),
        nodes::seen_at.eq(now.0),
        nodes::version.eq(&**version),
        nodes::url.eq(&**url),
        nodes::last_id.eq(*last_id),
        nodes::is_draining.eq(*is_draining),
    );
    let joined = match known {
        None => {
            let row = (nodes::name.eq(&**name), row);
            let insert = diesel::insert_into(nodes::table).values(row).on_conflict_do_nothing();
            on_backend!(connection, c => insert.execute(c))?
        }
        Some(_) => {
            let as_seen = nodes::table.filter(nodes::name.eq(&**name).and(nodes::generation.eq(earlier)));
            on_backend!(connection, c => diesel::update(as_seen).set(row).execute(c))?
        }
    };
    if joined == 1 {
        return Ok(BeatOutcome::Joined { generation });
    }
    // Another process has joined under this name just now.
    Ok(BeatOutcome::NameHeld { generation: 0, expires_at: now })
}

/// Whether the time of the member is not over yet.
fn is_in_time(
    connection: &mut Connection,
    status: &NodeStatus,
    generation: i64,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let of_it = nodes::table.find(&*status.name).select((nodes::generation, nodes::expires_at));
    let known: Option<(i64, i64)> = on_backend!(connection, c => of_it.first(c).optional())?;
    Ok(known.is_some_and(|(known, expires_at)| known == generation && expires_at > now.0))
}

fn renew(
    connection: &mut Connection,
    status: &NodeStatus,
    generation: i64,
    now: Timestamp,
) -> Result<BeatOutcome, StoreError> {
    let of_it = nodes::table.filter(nodes::name.eq(&*status.name).and(nodes::generation.eq(generation)));
    let renewed = (
        nodes::expires_at.eq(expiry(status, now)),
        nodes::seen_at.eq(now.0),
        nodes::last_id.eq(status.last_id),
        nodes::is_draining.eq(status.is_draining),
    );
    let count = on_backend!(connection, c => diesel::update(of_it).set(renewed).execute(c))?;
    Ok(if count == 1 { BeatOutcome::Renewed } else { BeatOutcome::Lost })
}

/// A membership that lasts beyond `latest` was renewed before the clock went back, as it does where that of another server
/// of the database, which takes over, is behind. It ends then, unless it is renewed.
fn bound_expiries(connection: &mut Connection, latest: Timestamp) -> Result<(), StoreError> {
    let ahead = nodes::table.filter(nodes::expires_at.gt(latest.0));
    let update = diesel::update(ahead).set(nodes::expires_at.eq(latest.0));
    on_backend!(connection, c => update.execute(c))?;
    Ok(())
}

/// Says of the members whose time is over that they are lost, and forgets who left long ago.
fn end_expired(connection: &mut Connection, now: Timestamp) -> Result<(), StoreError> {
    let expired = nodes::table.filter(nodes::expires_at.le(now.0).and(nodes::expires_at.gt(0)));
    let ended = (nodes::generation.eq(nodes::generation + 1), nodes::expires_at.eq(0));
    on_backend!(connection, c => diesel::update(expired).set(ended).execute(c))?;
    let long_ago = now.0.saturating_sub(i64::try_from(REMEMBERED.as_micros()).unwrap_or(i64::MAX));
    let forgotten = nodes::table.filter(nodes::expires_at.eq(0).and(nodes::seen_at.lt(long_ago)));
    on_backend!(connection, c => diesel::delete(forgotten).execute(c))?;
    Ok(())
}

/// All that are known, in the order of their names.
pub(super) fn all(connection: &mut Connection) -> Result<Vec<NodeRecord>, StoreError> {
    type Row = (String, i64, i64, i64, i64, String, String, i64, bool);
    let rows: Vec<Row> = on_backend!(connection, c => nodes::table.order(nodes::name).load(c))?;
    let record =
        |(name, generation, expires_at, started_at, seen_at, version, url, last_id, is_draining): Row| NodeRecord {
            name: name.into(),
            generation,
            expires_at: Timestamp(expires_at),
            started_at: Timestamp(started_at),
            seen_at: Timestamp(seen_at),
            version,
            url,
            last_id,
            is_draining,
        };
    Ok(rows.into_iter().map(record).collect())
}
