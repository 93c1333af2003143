//! Reads of entities: one, pages of a type, types, digests.

use std::collections::HashMap;

use bytestring::ByteString;
use diesel::connection::SimpleConnection as _;
use diesel::dsl::sql;
use diesel::sql_types::{Array, BigInt, Text};
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _,
};

use crate::domain::entity::{
    Buckets, CHANGE_HEAD, EntityId, EntityKey, EntityType, MAX_BUCKETS, Mark, previous_version,
};
use crate::domain::event::{EventId, LogBounds, Timestamp};

use super::connection::{Connection, on_backend};
use super::error::StoreError;
use super::position;
use super::schema::{entities, entity_types, events};

/// The newest state of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityRecord {
    pub key: EntityKey,
    pub version: EventId,
    /// None if it was deleted.
    pub value: Option<ByteString>,
    pub updated_at: Timestamp,
}

/// Which entities of a type, in the order of the bytes of their keys. Those that were deleted are left out.
#[derive(Debug, Clone)]
pub struct EntityQuery {
    pub kind: EntityType,
    /// How their keys begin.
    pub prefix: String,
    /// Keys after this one.
    pub after: Option<String>,
    pub limit: usize,
    /// After so many bytes of values the page ends, however few entities it has.
    pub max_bytes: usize,
}

/// A page of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityPage {
    pub entities: Vec<EntityRecord>,
    pub has_more: bool,
}

/// Which digest of a type.
#[derive(Debug, Clone)]
pub struct DigestQuery {
    pub kind: EntityType,
    /// As of which event; the newest one if it is not said.
    pub as_of: Option<EventId>,
    /// How many buckets: a power of two.
    pub buckets: u32,
    /// How many changes may be undone.
    pub max_undo: usize,
}

/// A digest, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsOf<T> {
    At(EventId, T),
    /// The log ends before it, here.
    Beyond(EventId),
    /// The log no longer reaches back that far, or it is too much work; this is the earliest that can be had.
    Trimmed(EventId),
}

/// Rows of one statement.
const PAGE: i64 = 256;

type Row = (String, i64, Option<String>, i64);

fn record((key, version, value, updated_at): Row) -> EntityRecord {
    let value = value.map(ByteString::from);
    EntityRecord { key: EntityKey::from_store(key), version, value, updated_at: Timestamp(updated_at) }
}

/// One entity, or what is known of its deletion.
pub(super) fn entity(connection: &mut Connection, id: &EntityId) -> Result<Option<EntityRecord>, StoreError> {
    let query = entities::table.find((id.kind.as_str(), id.key.as_str())).select((
        entities::key,
        entities::version,
        entities::value,
        entities::updated_at,
    ));
    let row: Option<Row> = on_backend!(connection, c => query.first(c).optional())?;
    Ok(row.map(record))
}

/// All types with their numbers of entities, in order.
pub(super) fn types(connection: &mut Connection) -> Result<Vec<(EntityType, i64)>, StoreError> {
    let query = entity_types::table.order(entity_types::kind);
    let rows: Vec<(String, i64)> = on_backend!(connection, c => query.load(c))?;
    Ok(rows.into_iter().map(|(kind, count)| (EntityType::from_store(kind), count)).collect())
}

/// The first type after `after` that has entities.
pub(super) fn next_type(
    connection: &mut Connection,
    after: Option<&EntityType>,
) -> Result<Option<EntityType>, StoreError> {
    let after = after.map_or("", EntityType::as_str);
    let query = entity_types::table.filter(entity_types::kind.gt(after)).order(entity_types::kind);
    let found: Option<String> = on_backend!(connection, c => query.select(entity_types::kind).first(c).optional())?;
    Ok(found.map(EntityType::from_store))
}

/// What is known of each of these entities, in their order: of as many as have about `max_bytes` of values.
pub(super) fn records(
    connection: &mut Connection,
    ids: &[EntityId],
    max_bytes: usize,
) -> Result<Vec<(EntityId, Option<EntityRecord>)>, StoreError> {
    /// A value may be long.
    const AT_ONCE: usize = 32;
    let (mut found, mut bytes) = (Vec::with_capacity(ids.len()), 0);
    for ids in ids.chunks(AT_ONCE) {
        if bytes >= max_bytes {
            break;
        }
        for of_type in ids.chunk_by(|one, next| one.kind == next.kind) {
            let keys = of_type.iter().map(|id| id.key.as_str());
            let query = entities::table
                .filter(entities::kind.eq(of_type[0].kind.as_str()).and(entities::key.eq_any(keys)))
                .select((entities::key, entities::version, entities::value, entities::updated_at));
            let rows: Vec<Row> = on_backend!(connection, c => query.load(c))?;
            let mut rows: HashMap<String, Row> = rows.into_iter().map(|row| (row.0.clone(), row)).collect();
            for id in of_type {
                let row = rows.remove(id.key.as_str());
                bytes += row.as_ref().and_then(|row| row.2.as_ref()).map_or(0, String::len);
                found.push((id.clone(), row.map(record)));
            }
        }
    }
    Ok(found)
}

/// A page of entities.
pub(super) fn page(connection: &mut Connection, query: &EntityQuery) -> Result<EntityPage, StoreError> {
    let EntityQuery { kind, prefix, after, limit, max_bytes } = query;
    let mut found = Vec::new();
    let mut bytes = 0;
    let mut last = after.clone();
    loop {
        let rows = rows(connection, kind, prefix, last.as_deref(), PAGE.min(*limit as i64 + 1))?;
        let count = rows.len();
        for row in rows {
            if !row.0.starts_with(&**prefix) {
                return Ok(EntityPage { entities: found, has_more: false });
            }
            if found.len() >= *limit || bytes >= *max_bytes {
                return Ok(EntityPage { entities: found, has_more: true });
            }
            bytes += row.0.len() + row.2.as_ref().map_or(0, String::len);
            last = Some(row.0.clone());
            found.push(record(row));
        }
        if (count as i64) < PAGE.min(*limit as i64 + 1) {
            return Ok(EntityPage { entities: found, has_more: false });
        }
    }
}

fn rows(
    connection: &mut Connection,
    kind: &EntityType,
    prefix: &str,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Row>, StoreError> {
    let of_type = entities::table
        .filter(entities::kind.eq(kind.as_str()))
        .filter(entities::value.is_not_null())
        .order(entities::key)
        .limit(limit)
        .select((entities::key, entities::version, entities::value, entities::updated_at));
    // One bound alone: of two, SQLite seeks to the first one, and walks from there.
    Ok(match after.filter(|after| *after >= prefix) {
        None => {
            let query = of_type.filter(entities::key.ge(prefix));
            on_backend!(connection, c => query.load(c))?
        }
        Some(after) => {
            let query = of_type.filter(entities::key.gt(after));
            on_backend!(connection, c => query.load(c))?
        }
    })
}

/// The digests of all buckets of a type.
pub(super) fn digest(connection: &mut Connection, query: &DigestQuery) -> Result<AsOf<Buckets>, StoreError> {
    at_once(connection, |connection| {
        let (as_of, before) = match undo(connection, query)? {
            AsOf::At(as_of, before) => (as_of, before),
            AsOf::Beyond(end) => return Ok(AsOf::Beyond(end)),
            AsOf::Trimmed(earliest) => return Ok(AsOf::Trimmed(earliest)),
        };
        let mut buckets = Buckets::new(query.buckets);
        sums(connection, &query.kind, &mut buckets)?;
        let keys: Vec<&str> = before.keys().map(String::as_str).collect();
        for (key, version) in versions(connection, &query.kind, &keys)? {
            buckets.remove(Mark::of(&key, version));
        }
        for (key, version) in &before {
            version.iter().for_each(|version| buckets.insert(Mark::of(key, *version)));
        }
        Ok(AsOf::At(as_of, buckets))
    })
}

/// The entities of one bucket, each with its version, in the order of their keys.
pub(super) fn bucket(
    connection: &mut Connection,
    query: &DigestQuery,
    bucket: u32,
) -> Result<AsOf<Vec<(String, EventId)>>, StoreError> {
    at_once(connection, |connection| {
        let (as_of, before) = match undo(connection, query)? {
            AsOf::At(as_of, before) => (as_of, before),
            AsOf::Beyond(end) => return Ok(AsOf::Beyond(end)),
            AsOf::Trimmed(earliest) => return Ok(AsOf::Trimmed(earliest)),
        };
        let mut found = keys_of_bucket(connection, &query.kind, bucket, query.buckets)?;
        found.retain(|(key, _)| !before.contains_key(key));
        let of_bucket = |key: &str| Mark::slot(key) & (query.buckets - 1) == bucket;
        let earlier = before.into_iter().filter(|(key, _)| of_bucket(key));
        found.extend(earlier.filter_map(|(key, version)| Some((key, version?))));
        found.sort_unstable();
        Ok(AsOf::At(as_of, found))
    })
}

/// The entities of one bucket as they are now, each with its version, in no order.
pub(super) fn keys_of_bucket(
    connection: &mut Connection,
    kind: &EntityType,
    bucket: u32,
    buckets: u32,
) -> Result<Vec<(String, EventId)>, StoreError> {
    let slots: Vec<i32> = (bucket..MAX_BUCKETS).step_by(buckets as usize).map(|slot| slot as i32).collect();
    let mut found = Vec::new();
    for slots in slots.chunks(1024) {
        let query = entities::table
            .filter(entities::kind.eq(kind.as_str()))
            .filter(entities::value.is_not_null())
            .filter(entities::slot.eq_any(slots))
            .select((entities::key, entities::version));
        let rows: Vec<(String, i64)> = on_backend!(connection, c => query.load(c))?;
        found.extend(rows);
    }
    Ok(found)
}

/// Reads several things as they are at one moment.
pub(super) fn at_once<T>(
    connection: &mut Connection,
    read: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let begin = match connection {
        Connection::Sqlite(_) => "BEGIN",
        Connection::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    };
    on_backend!(connection, c => c.batch_execute(begin))?;
    let done = read(connection);
    connection.roll_back();
    done
}

/// What each entity that was changed after the event was then: its version, or none if it was not there.
fn undo(
    connection: &mut Connection,
    query: &DigestQuery,
) -> Result<AsOf<HashMap<String, Option<EventId>>>, StoreError> {
    let LogBounds { earliest, last } = position::bounds(connection)?;
    let as_of = query.as_of.unwrap_or(last);
    if as_of > last {
        return Ok(AsOf::Beyond(last));
    }
    if as_of < earliest - 1 {
        return Ok(AsOf::Trimmed(earliest - 1));
    }
    let mut before = HashMap::new();
    if as_of == last {
        return Ok(AsOf::At(as_of, before));
    }
    let heads = match changes_after(connection, &query.kind, as_of, query.max_undo)? {
        Ok(heads) => heads,
        Err(beyond) => return Ok(AsOf::Trimmed(beyond)),
    };
    for (key, head) in heads {
        let key = key.as_deref().and_then(|key| key.split_once(':'));
        if let Some(((_, key), previous)) = key.zip(previous_version(&head)) {
            before.entry(key.to_owned()).or_insert(previous);
        }
    }
    Ok(AsOf::At(as_of, before))
}

/// The ordering key of a change, and the beginning of its payload.
pub(super) type Head = (Option<String>, String);

/// The ordering keys of the changes after an event, each with the beginning of its payload; or, if there are more than
/// `max`, the last one that is too many.
pub(super) fn changes_after(
    connection: &mut Connection,
    kind: &EntityType,
    as_of: EventId,
    max: usize,
) -> Result<Result<Vec<Head>, EventId>, StoreError> {
    let name = kind.change_name();
    // On PostgreSQL the index of names is on `id + 0`: written so, other events after this one are passed over.
    let id = || {
        sql::<BigInt>(match connection {
            Connection::Sqlite(_) => "id",
            Connection::Postgres(_) => "(id + 0)",
        })
    };
    let changes = events::table.filter(events::name.eq(name.as_str())).filter(id().gt(as_of));
    let beyond = changes.clone().order(id().desc()).offset(max as i64).limit(1).select(events::id);
    // Values may be long, and what was before a change stands before its value.
    let head = sql::<Text>(&format!("substr(payload, 1, {CHANGE_HEAD})"));
    let heads = changes.order(id()).select((events::key, head));
    let beyond: Option<i64> = on_backend!(connection, c => beyond.first(c).optional())?;
    if let Some(beyond) = beyond {
        return Ok(Err(beyond));
    }
    Ok(Ok(on_backend!(connection, c => heads.load(c))?))
}

/// Adds all entities of a type as they are now.
fn sums(connection: &mut Connection, kind: &EntityType, buckets: &mut Buckets) -> Result<(), StoreError> {
    match connection {
        Connection::Sqlite(file) => {
            let rows = entities::table
                .filter(entities::kind.eq(kind.as_str()))
                .filter(entities::value.is_not_null())
                .select((entities::slot, entities::sum));
            for row in rows.load_iter::<(i32, i64), _>(&mut file.connection)? {
                let (slot, sum) = row?;
                buckets.insert(Mark { slot: slot as u32, sum: sum as u64 });
            }
        }
        Connection::Postgres(session) => {
            let text = "SELECT slot & $1 AS bucket, bit_xor(sum) AS sum, count(*) AS count FROM entities \
                 WHERE type = $2 AND value IS NOT NULL GROUP BY 1";
            let mask = buckets.sums.len() as i32 - 1;
            let query =
                diesel::sql_query(text).bind::<diesel::sql_types::Integer, _>(mask).bind::<Text, _>(kind.as_str());
            for BucketRow { bucket, sum, count } in query.load::<BucketRow>(&mut session.connection)? {
                buckets.count += count as u64;
                buckets.sums[bucket as usize] = sum as u64;
            }
        }
    }
    Ok(())
}

#[derive(diesel::Queryable, diesel::QueryableByName)]
struct VersionRow {
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = BigInt)]
    version: i64,
}

#[derive(diesel::QueryableByName)]
struct BucketRow {
    #[diesel(sql_type = diesel::sql_types::Integer)]
    bucket: i32,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    sum: i64,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    count: i64,
}

/// The versions of those of these entities that are there.
pub(super) fn versions(
    connection: &mut Connection,
    kind: &EntityType,
    keys: &[&str],
) -> Result<Vec<(String, EventId)>, StoreError> {
    // PostgreSQL would otherwise read all entities of the type when it has no statistics.
    const LATERAL: &str = "SELECT w.key AS key, e.version AS version FROM unnest($2) AS w (key) CROSS JOIN \
        LATERAL (SELECT version, value FROM entities WHERE type = $1 AND key = w.key OFFSET 0) e \
        WHERE e.value IS NOT NULL";
    let mut found = Vec::new();
    for keys in keys.chunks(1024) {
        let rows: Vec<VersionRow> = match connection {
            Connection::Sqlite(file) => entities::table
                .filter(entities::kind.eq(kind.as_str()).and(entities::key.eq_any(keys)))
                .filter(entities::value.is_not_null())
                .select((entities::key, entities::version))
                .load(&mut file.connection)?,
            Connection::Postgres(session) => diesel::sql_query(LATERAL)
                .bind::<Text, _>(kind.as_str())
                .bind::<Array<Text>, _>(keys)
                .load(&mut session.connection)?,
        };
        found.extend(rows.into_iter().map(|row| (row.key, row.version)));
    }
    Ok(found)
}

/// Removes at most `max_rows` of the marks of entities that were deleted before `before`. Returns how many.
pub(super) fn forget_deleted(
    connection: &mut Connection,
    before: Timestamp,
    max_rows: usize,
) -> Result<usize, StoreError> {
    let old = entities::table
        .filter(entities::value.is_null())
        .filter(entities::updated_at.lt(before.0))
        .order(entities::updated_at)
        .limit(max_rows as i64)
        .select((entities::kind, entities::key, entities::version));
    let old: Vec<(String, String, i64)> = on_backend!(connection, c => old.load(c))?;
    for (kind, key, version) in &old {
        let gone = entities::table.find((kind, key)).filter(entities::version.eq(version));
        on_backend!(connection, c => diesel::delete(gone).execute(c))?;
    }
    Ok(old.len())
}
