//! The newest state of each entity, written in the transaction of the event that makes it.

use std::collections::{HashMap, HashSet};

use diesel::pg::{Pg, PgConnection};
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text};
use diesel::sqlite::SqliteConnection;
use diesel::upsert::excluded;
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryResult, RunQueryDsl};

use crate::domain::entity::{EntityId, EntityType, Mark};
use crate::domain::event::{Append, Timestamp};

use super::changes::{Changed, EntityRow, KnownEntities};
use super::schema::{entities, entity_types};

/// The entities that a batch is to change.
pub(super) fn changed<'a>(batch: &'a [&Append]) -> impl Iterator<Item = &'a EntityId> {
    let changes = batch.iter().flat_map(|append| &append.events).filter_map(|event| event.change.as_ref());
    changes.map(|change| &change.entity)
}

/// Whether it changes any.
pub(super) fn has_changes(batch: &[&Append]) -> bool {
    changed(batch).next().is_some()
}

/// What the store has of them, on SQLite.
pub(super) fn known_on_sqlite(connection: &mut SqliteConnection, batch: &[&Append]) -> QueryResult<KnownEntities> {
    let mut known = KnownEntities::default();
    for entity in changed(batch).collect::<HashSet<_>>() {
        let EntityId { kind, key } = entity;
        let version = entities::table
            .find((kind.as_str(), key.as_str()))
            .filter(entities::value.is_not_null())
            .select(entities::version)
            // Not `first`: SQLite prepares a statement anew whenever its limit is bound.
            .get_result(connection)
            .optional()?;
        known.versions.extend(version.map(|version| (entity.clone(), version)));
        if !known.counts.contains_key(kind) {
            let count = entity_types::table.find(kind.as_str()).select(entity_types::count).get_result(connection);
            known.counts.insert(kind.clone(), count.optional()?.unwrap_or(0));
        }
    }
    // Only a new type is one too many.
    if known.counts.values().any(|count| *count == 0) {
        known.types = entity_types::table.count().get_result::<i64>(connection)? as usize;
    }
    Ok(known)
}

/// The same on PostgreSQL.
pub(super) fn known_on_postgres(connection: &mut PgConnection, batch: &[&Append]) -> QueryResult<KnownEntities> {
    let wanted: HashSet<&EntityId> = changed(batch).collect();
    let kinds: HashSet<&EntityType> = wanted.iter().map(|entity| &entity.kind).collect();
    let known = KnownOnes {
        kinds: wanted.iter().map(|entity| entity.kind.as_str()).collect(),
        keys: wanted.iter().map(|entity| entity.key.as_str()).collect(),
    };
    let known: Vec<(String, String, i64)> = known.load(connection)?;
    let mut known = KnownEntities {
        versions: known.into_iter().map(|(kind, key, version)| (EntityId::from_store(kind, key), version)).collect(),
        ..KnownEntities::default()
    };
    let counts: Vec<(String, i64)> = entity_types::table
        .filter(entity_types::kind.eq_any(kinds.iter().map(|kind| kind.as_str())))
        .load(connection)?;
    known.counts = counts.into_iter().map(|(kind, count)| (EntityType::from_store(kind), count)).collect();
    if kinds.into_iter().any(|kind| !known.counts.contains_key(kind)) {
        known.types = entity_types::table.count().get_result::<i64>(connection)? as usize;
    }
    Ok(known)
}

/// Stores what a batch has changed, on SQLite.
pub(super) fn store_on_sqlite(connection: &mut SqliteConnection, changed: &Changed, now: Timestamp) -> QueryResult<()> {
    for (EntityId { kind, key }, EntityRow { version, value }) in &changed.rows {
        let Mark { slot, sum } = Mark::of(key.as_str(), *version);
        let row = (
            entities::kind.eq(kind.as_str()),
            entities::key.eq(key.as_str()),
            entities::version.eq(version),
            entities::value.eq(value.as_deref()),
            entities::updated_at.eq(now.0),
            entities::slot.eq(slot as i32),
            entities::sum.eq(sum as i64),
        );
        let after = (
            entities::version.eq(excluded(entities::version)),
            entities::value.eq(excluded(entities::value)),
            entities::updated_at.eq(excluded(entities::updated_at)),
            entities::sum.eq(excluded(entities::sum)),
        );
        let insert = diesel::insert_into(entities::table).values(row);
        insert.on_conflict((entities::kind, entities::key)).do_update().set(after).execute(connection)?;
    }
    for (kind, count) in &changed.counts {
        count_on_sqlite(connection, kind, *count)?;
    }
    Ok(())
}

fn count_on_sqlite(connection: &mut SqliteConnection, kind: &EntityType, count: i64) -> QueryResult<()> {
    if count == 0 {
        diesel::delete(entity_types::table.find(kind.as_str())).execute(connection)?;
        return Ok(());
    }
    let row = (entity_types::kind.eq(kind.as_str()), entity_types::count.eq(count));
    diesel::replace_into(entity_types::table).values(row).execute(connection)?;
    Ok(())
}

/// The same on PostgreSQL.
pub(super) fn store_on_postgres(connection: &mut PgConnection, changed: &Changed, now: Timestamp) -> QueryResult<()> {
    StoreRows::new(&changed.rows, now).execute(connection)?;
    for (kind, count) in &changed.counts {
        if *count == 0 {
            diesel::delete(entity_types::table.find(kind.as_str())).execute(connection)?;
            continue;
        }
        let row = (entity_types::kind.eq(kind.as_str()), entity_types::count.eq(count));
        let insert = diesel::insert_into(entity_types::table).values(row);
        insert.on_conflict(entity_types::kind).do_update().set(entity_types::count.eq(count)).execute(connection)?;
    }
    Ok(())
}

/// Which of any number of entities are there, with their versions.
struct KnownOnes<'a> {
    kinds: Vec<&'a str>,
    keys: Vec<&'a str>,
}

impl QueryId for KnownOnes<'_> {
    type QueryId = KnownOnes<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl diesel::query_builder::Query for KnownOnes<'_> {
    type SqlType = (Text, Text, BigInt);
}

impl RunQueryDsl<PgConnection> for KnownOnes<'_> {}

impl QueryFragment<Pg> for KnownOnes<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT type, key, version FROM entities JOIN unnest(");
        out.push_bind_param::<Array<Text>, _>(&self.kinds)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.keys)?;
        out.push_sql(") AS wanted (type, key) USING (type, key) WHERE value IS NOT NULL");
        Ok(())
    }
}

/// Inserts or replaces any number of different entities.
struct StoreRows<'a> {
    kind: Vec<&'a str>,
    key: Vec<&'a str>,
    version: Vec<i64>,
    value: Vec<Option<&'a str>>,
    now: i64,
    slot: Vec<i32>,
    sum: Vec<i64>,
}

impl<'a> StoreRows<'a> {
    fn new(rows: &'a HashMap<EntityId, EntityRow>, now: Timestamp) -> Self {
        let (mut slot, mut sum) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for (entity, row) in rows {
            let mark = Mark::of(entity.key.as_str(), row.version);
            slot.push(mark.slot as i32);
            sum.push(mark.sum as i64);
        }
        Self {
            kind: rows.keys().map(|entity| entity.kind.as_str()).collect(),
            key: rows.keys().map(|entity| entity.key.as_str()).collect(),
            version: rows.values().map(|row| row.version).collect(),
            value: rows.values().map(|row| row.value.as_deref()).collect(),
            now: now.0,
            slot,
            sum,
        }
    }
}

impl QueryId for StoreRows<'_> {
    type QueryId = StoreRows<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl RunQueryDsl<PgConnection> for StoreRows<'_> {}

impl QueryFragment<Pg> for StoreRows<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("INSERT INTO entities (updated_at, type, key, version, value, slot, sum) SELECT ");
        out.push_bind_param::<BigInt, _>(&self.now)?;
        out.push_sql(", * FROM unnest(");
        out.push_bind_param::<Array<Text>, _>(&self.kind)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.key)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.version)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.value)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Integer>, _>(&self.slot)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.sum)?;
        out.push_sql(
            ") ON CONFLICT (type, key) DO UPDATE SET version = excluded.version, value = excluded.value, \
             updated_at = excluded.updated_at, sum = excluded.sum",
        );
        Ok(())
    }
}
