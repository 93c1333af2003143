//! How far services agree with the entities that they keep a copy of.

use std::collections::HashMap;

use bytestring::ByteString;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, SmallInt, Text};
use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, Queryable, QueryableByName, RunQueryDsl as _,
};

use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::schema::{entities, entity_types, syncs};
use super::state::{EntityRecord, at_once, keys_of_bucket};
use super::{filter, outbox, position, state};
use crate::domain::entity::{EntityId, EntityKey, EntityType, Version};
use crate::domain::event::{Event, EventId, Timestamp};
use crate::domain::routes::ServiceId;
use crate::domain::sync::{Compared, Counts, Current, Facts, Kind, Standing, SyncState};

/// How far a service agrees with the entities of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncRecord {
    pub service: ServiceId,
    pub kind: EntityType,
    pub standing: Standing,
}

#[derive(Queryable)]
struct Row {
    service: ServiceId,
    kind: String,
    state: String,
    as_of: Option<i64>,
    lag: Option<i64>,
    checked_at: Option<i64>,
    next_check_at: Option<i64>,
    error: Option<String>,
    missing: i64,
    stale: i64,
    extra: i64,
    ahead: i64,
}

/// All of them, in the order of services and types.
pub(super) fn list(connection: &mut Connection) -> Result<Vec<SyncRecord>, StoreError> {
    let query = syncs::table.order((syncs::service, syncs::kind));
    let rows: Vec<Row> = on_backend!(connection, c => query.load(c))?;
    Ok(rows.into_iter().map(record).collect())
}

fn record(row: Row) -> SyncRecord {
    let Row { service, kind, state, as_of, lag, checked_at, next_check_at, error, missing, stale, extra, ahead } = row;
    let mut differences = Counts::default();
    for (kind, count) in Kind::ALL.into_iter().zip([missing, stale, extra, ahead]) {
        differences.add(kind, count.unsigned_abs());
    }
    let standing = Standing {
        state: SyncState::from_store(&state),
        as_of,
        lag,
        checked_at: checked_at.map(Timestamp),
        next_check_at: next_check_at.map(Timestamp),
        error,
        differences,
    };
    SyncRecord { service, kind: EntityType::from_store(kind), standing }
}

/// Stores one in the place of the earlier one.
pub(super) fn save(connection: &mut Connection, record: &SyncRecord) -> Result<(), StoreError> {
    let SyncRecord { service, kind, standing } = record;
    let Standing { state, as_of, lag, checked_at, next_check_at, error, differences } = standing;
    let count = |kind| i64::try_from(differences.of(kind)).unwrap_or(i64::MAX);
    let values = (
        syncs::state.eq(state.as_str()),
        syncs::as_of.eq(as_of),
        syncs::lag.eq(lag),
        syncs::checked_at.eq(checked_at.map(|at| at.0)),
        syncs::next_check_at.eq(next_check_at.map(|at| at.0)),
        syncs::error.eq(error.as_deref()),
        syncs::missing.eq(count(Kind::Missing)),
        syncs::stale.eq(count(Kind::Stale)),
        syncs::extra.eq(count(Kind::Extra)),
        syncs::ahead.eq(count(Kind::Ahead)),
    );
    let row = (syncs::service.eq(service), syncs::kind.eq(kind.as_str()), values);
    match connection {
        Connection::Sqlite(file) => {
            let insert = diesel::insert_into(syncs::table).values(row);
            insert.on_conflict((syncs::service, syncs::kind)).do_update().set(values).execute(&mut file.connection)?;
        }
        Connection::Postgres(session) => {
            let insert = diesel::insert_into(syncs::table).values(row);
            insert
                .on_conflict((syncs::service, syncs::kind))
                .do_update()
                .set(values)
                .execute(&mut session.connection)?;
        }
    }
    Ok(())
}

/// A service, and the type of entities that it keeps a copy of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncWith {
    pub service: ServiceId,
    /// The service gets no changes of these sources.
    pub own_sources: Vec<ByteString>,
    pub kind: EntityType,
}

/// What is to be known before a service is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncBacklog {
    /// The end of the log.
    pub last: EventId,
    /// The oldest event with an open delivery to the service.
    pub oldest: Option<EventId>,
    /// How many entities of the type there are.
    pub count: u64,
}

/// What an entity is now, for a repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncEntity {
    pub facts: Facts,
    pub record: Option<EntityRecord>,
    /// The event that has made it what it is, if the log still has it.
    pub event: Option<Event>,
}

/// See [`SyncBacklog`].
pub(super) fn backlog(connection: &mut Connection, with: &SyncWith) -> Result<SyncBacklog, StoreError> {
    // First: what is open after it does not count.
    let last = position::bounds(connection)?.last;
    let oldest = outbox::oldest_open(connection, with.service)?;
    let count = entity_types::table.find(with.kind.as_str()).select(entity_types::count);
    let count: Option<i64> = on_backend!(connection, c => count.first(c).optional())?;
    Ok(SyncBacklog { last, oldest, count: count.unwrap_or(0).unsigned_abs() })
}

/// What the store has of the entities of a bucket that are not as the service says it has them.
pub(super) fn compare(
    connection: &mut Connection,
    with: &SyncWith,
    (bucket, buckets): (u32, u32),
    theirs: &[(EntityKey, Version)],
) -> Result<Vec<Compared>, StoreError> {
    at_once(connection, |connection| {
        let ours: HashMap<_, _> = keys_of_bucket(connection, &with.kind, bucket, buckets)?.into_iter().collect();
        let mut differing: HashMap<EntityKey, Option<Version>> = HashMap::new();
        let known: HashMap<&str, Version> = theirs.iter().map(|(key, version)| (key.as_str(), *version)).collect();
        for (key, version) in theirs.iter().filter(|(key, version)| ours.get(key.as_str()) != Some(version)) {
            differing.insert(key.clone(), Some(*version));
        }
        for key in ours.into_keys().filter(|key| !known.contains_key(&**key)) {
            differing.insert(EntityKey::from_store(key), None);
        }
        let keys: Vec<&str> = differing.keys().map(EntityKey::as_str).collect();
        let mut facts = facts(connection, with, &keys)?;
        let compared = differing.into_iter().filter_map(|(key, theirs)| {
            let facts = facts.remove(key.as_str())?;
            Some(Compared { key, theirs, facts })
        });
        Ok(compared.collect())
    })
}

/// The same of the next entities after a key, of a service that has none of them; and whether there are others.
pub(super) fn compare_page(
    connection: &mut Connection,
    with: &SyncWith,
    after: Option<&EntityKey>,
    limit: usize,
) -> Result<(Vec<Compared>, bool), StoreError> {
    at_once(connection, |connection| {
        let query = entities::table
            .filter(entities::kind.eq(with.kind.as_str()))
            .filter(entities::value.is_not_null())
            .filter(entities::key.gt(after.map_or("", EntityKey::as_str)))
            .order(entities::key)
            .limit(limit as i64)
            .select(entities::key);
        let keys: Vec<String> = on_backend!(connection, c => query.load(c))?;
        let mut facts = facts(connection, with, &keys.iter().map(String::as_str).collect::<Vec<_>>())?;
        let has_more = keys.len() == limit;
        let compared = keys.into_iter().filter_map(|key| {
            let facts = facts.remove(&key)?;
            Some(Compared { key: EntityKey::from_store(key), theirs: None, facts })
        });
        Ok((compared.collect(), has_more))
    })
}

/// See [`SyncEntity`].
pub(super) fn entity(
    connection: &mut Connection,
    with: &SyncWith,
    key: &EntityKey,
) -> Result<Option<SyncEntity>, StoreError> {
    at_once(connection, |connection| {
        let facts = facts(connection, with, &[key.as_str()])?.remove(key.as_str());
        let Some(facts) = facts else { return Ok(None) };
        let record = state::entity(connection, &EntityId { kind: with.kind.clone(), key: key.clone() })?;
        let event = match &record {
            Some(record) => filter::find(connection, record.version)?,
            None => None,
        };
        Ok(Some(SyncEntity { facts, record, event }))
    })
}

#[derive(QueryableByName)]
struct FactsRow {
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Nullable<BigInt>)]
    version: Option<i64>,
    #[diesel(sql_type = Bool)]
    is_there: bool,
    #[diesel(sql_type = Nullable<BigInt>)]
    updated_at: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    source: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    answered_at: Option<i64>,
    #[diesel(sql_type = Bool)]
    is_on_its_way: bool,
}

/// What is known of each of these keys, by one statement for many. States are part of the text, because only then does
/// the partial index of open deliveries apply.
pub(super) fn facts(
    connection: &mut Connection,
    with: &SyncWith,
    keys: &[&str],
) -> Result<HashMap<String, Facts>, StoreError> {
    let text = |keys: &str, entity: &str| {
        format!(
            "SELECT w.key AS key, e.version AS version, e.value IS NOT NULL AS is_there, e.updated_at AS updated_at, \
             v.source AS source, d.finished_at AS answered_at, (SELECT max(o.event_id) FROM deliveries o \
             WHERE o.service = $1 AND o.key = $2 || w.key AND o.key IS NOT NULL AND o.state < 2) IS NOT NULL \
             AS is_on_its_way FROM {keys} LEFT JOIN {entity} LEFT JOIN events v ON v.id = e.version \
             LEFT JOIN deliveries d ON d.event_id = e.version AND d.service = $1"
        )
    };
    // PostgreSQL would otherwise read all entities of the type when it has no statistics.
    const LATERAL: &str = "LATERAL (SELECT version, value, updated_at FROM entities WHERE type = $3 AND key = w.key \
                           OFFSET 0) e ON true";
    let prefix = format!("{}:", with.kind);
    let mut known = HashMap::with_capacity(keys.len());
    for keys in keys.chunks(1024) {
        let rows: Vec<FactsRow> = match connection {
            Connection::Sqlite(file) => diesel::sql_query(
                text("(SELECT value AS key FROM json_each($4)) w", "entities e ON e.type = $3 AND e.key = w.key")
                    .replace('$', "?"),
            )
            .bind::<SmallInt, _>(with.service)
            .bind::<Text, _>(&prefix)
            .bind::<Text, _>(with.kind.as_str())
            .bind::<Text, _>(serde_json::Value::from(keys).to_string())
            .load(&mut file.connection)?,
            Connection::Postgres(session) => diesel::sql_query(text("unnest($4) AS w (key)", LATERAL))
                .bind::<SmallInt, _>(with.service)
                .bind::<Text, _>(&prefix)
                .bind::<Text, _>(with.kind.as_str())
                .bind::<Array<Text>, _>(keys)
                .load(&mut session.connection)?,
        };
        known.extend(rows.into_iter().map(|row| {
            let current = match row.version {
                None => Current::Absent,
                Some(version) if row.is_there => Current::Present(version),
                Some(version) => Current::Deleted(version),
            };
            let is_own = match row.source {
                Some(source) => with.own_sources.iter().any(|own| **own == *source),
                // The log has the event no more, nor who has made it.
                None => !with.own_sources.is_empty(),
            };
            let facts = Facts {
                current,
                own_change_at: row.updated_at.filter(|_| is_own).map(Timestamp),
                is_on_its_way: row.is_on_its_way,
                answered_at: row.answered_at.map(Timestamp),
            };
            (row.key, facts)
        }));
    }
    Ok(known)
}
