//! The catalogue of event types, changed in the transaction of the event that tells of it.

use std::sync::Arc;

use diesel::sql_types::{BigInt, Nullable};
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, RunQueryDsl as _};

use super::connection::{Connection, on_backend};
use super::error::{StoreError, StoreErrorKind};
use super::schema::{event_type_files, event_type_versions, event_types};
use super::statement::{Column, insert};
use crate::domain::catalogue::{Catalogue, EventType, Mode, Settings};
use crate::domain::event::{EventId, NewEvent, Timestamp};
use crate::domain::judgement::Generation;
use crate::domain::pattern::Pattern;

/// A change of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeChange {
    pub name: Pattern,
    /// The generation of the type on which this was decided; none if there was none.
    pub based_on: Option<Generation>,
    pub version: u32,
    /// What the type is from now on; none if it is deleted.
    pub new: Option<NewType>,
    /// The digest of the file from which it comes.
    pub file: Option<String>,
    /// The event that tells of it; none if nothing changes, and only the file is noted.
    pub event: Option<NewEvent>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewType {
    pub settings: Settings,
    pub schema: String,
    pub is_new_version: bool,
}

/// A version of the schema of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeVersion {
    pub version: u32,
    pub schema: String,
    pub created_at: Timestamp,
}

type Row = (String, i64, String, Option<String>, i64, i64);

fn event_type((name, version, schema, settings, generation, changed_at): Row) -> EventType {
    // Only valid ones are stored. Of what cannot be read, as much is kept as can be: the type is not enforced.
    let unreadable = || Settings { mode: Mode::Off, ..Settings::default() };
    let settings = settings.map(|json| serde_json::from_str(&json).unwrap_or_else(|_| unreadable()));
    let (version, changed_at) = (version_of(version), Timestamp(changed_at));
    EventType { name: Pattern::from_store(name), version, schema, settings, generation, changed_at }
}

fn version_of(stored: i64) -> u32 {
    u32::try_from(stored).unwrap_or_default()
}

/// The generation of what is stored.
fn generation(connection: &mut Connection) -> Result<Generation, StoreError> {
    let newest = diesel::dsl::sql::<Nullable<BigInt>>("SELECT max(generation) FROM event_types");
    let newest: Option<i64> = on_backend!(connection, c => newest.get_result(c))?;
    Ok(newest.unwrap_or(0))
}

/// The catalogue that is stored, made of `known` if that is not it already.
pub(super) fn current(connection: &mut Connection, known: Arc<Catalogue>) -> Result<Arc<Catalogue>, StoreError> {
    let generation = generation(connection)?;
    if generation == known.generation() {
        return Ok(known);
    }
    // If it has gone back, the store is another one than it was.
    let (base, since) = match known.generation() {
        known_generation if known_generation < generation => ((*known).clone(), known_generation),
        _ => (known.emptied(), 0),
    };
    let changed = event_types::table.filter(event_types::generation.gt(since));
    let changed: Vec<Row> = on_backend!(connection, c => changed.load(c))?;
    let changed: Vec<EventType> = changed.into_iter().map(event_type).collect();
    let (catalogue, errors) = base.after(&changed, generation);
    for (name, error) in errors {
        log::error!(event_type = name.as_str(), field = error.field.as_str(), reason = error.message.as_str(); "a schema of the catalogue cannot be read: its type is not enforced");
    }
    Ok(Arc::new(catalogue))
}

/// The type of this name, also if it was deleted.
pub(super) fn find(connection: &mut Connection, name: &Pattern) -> Result<Option<EventType>, StoreError> {
    let query = event_types::table.find(name.as_str());
    let row: Option<Row> = on_backend!(connection, c => query.first(c).optional())?;
    Ok(row.map(event_type))
}

/// All types in the order of their names, but those that were deleted.
pub(super) fn list(connection: &mut Connection) -> Result<Vec<EventType>, StoreError> {
    let query = event_types::table.filter(event_types::settings.is_not_null()).order(event_types::name);
    let rows: Vec<Row> = on_backend!(connection, c => query.load(c))?;
    Ok(rows.into_iter().map(event_type).collect())
}

/// The versions of a type, the oldest first; or the one that is asked for.
pub(super) fn versions(
    connection: &mut Connection,
    name: &Pattern,
    only: Option<u32>,
) -> Result<Vec<TypeVersion>, StoreError> {
    use event_type_versions as versions;
    let (least, most) = only.map_or((0, i64::MAX), |only| (only.into(), only.into()));
    let query = versions::table
        .filter(versions::name.eq(name.as_str()))
        .filter(versions::version.between(least, most))
        .order(versions::version)
        .select((versions::version, versions::schema, versions::created_at));
    let rows: Vec<(i64, String, i64)> = on_backend!(connection, c => query.load(c))?;
    let version =
        |(version, schema, at)| TypeVersion { version: version_of(version), schema, created_at: Timestamp(at) };
    Ok(rows.into_iter().map(version).collect())
}

/// The digests of the files of this name that were put.
pub(super) fn files(connection: &mut Connection, name: &Pattern) -> Result<Vec<String>, StoreError> {
    let query = event_type_files::table.filter(event_type_files::name.eq(name.as_str()));
    let query = query.select(event_type_files::digest);
    Ok(on_backend!(connection, c => query.load(c))?)
}

/// Whether a change may be stored: nobody has changed the type since it was decided on.
pub(super) fn is_due(connection: &mut Connection, change: &TypeChange) -> Result<bool, StoreError> {
    let stored = find(connection, &change.name)?;
    Ok(stored.map(|stored| stored.generation) == change.based_on)
}

/// Notes that the file of a change was put.
pub(super) fn note_file(connection: &mut Connection, change: &TypeChange) -> Result<(), StoreError> {
    if let Some(digest) = &change.file {
        let name = Column::texts([change.name.as_str()]);
        let columns = vec![("name", name), ("digest", Column::texts([digest.as_str()]))];
        insert(connection, "event_type_files", columns, "ON CONFLICT DO NOTHING")?;
    }
    Ok(())
}

/// Stores a change, whose event has the id `id`.
pub(super) fn save(
    connection: &mut Connection,
    change: &TypeChange,
    id: EventId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let TypeChange { name, version, new, .. } = change;
    let name = Some(name.as_str());
    let settings = new.as_ref().map(|new| serde_json::to_string(&new.settings)).transpose();
    let settings = settings
        .map_err(|error| StoreError::new(StoreErrorKind::Invalid, format!("the settings of a type: {error}")))?;
    let schema = new.as_ref().map_or("", |new| new.schema.as_str());
    let columns = vec![
        ("name", Column::texts([name])),
        ("version", Column::ints([i64::from(*version)])),
        ("schema", Column::texts([schema])),
        ("settings", Column::texts([settings.as_deref()])),
        ("generation", Column::ints([id])),
        ("changed_at", Column::ints([now.0])),
    ];
    const THEN: &str = "ON CONFLICT (name) DO UPDATE SET version = excluded.version, schema = excluded.schema, \
                        settings = excluded.settings, generation = excluded.generation, \
                        changed_at = excluded.changed_at";
    insert(connection, "event_types", columns, THEN)?;
    if new.as_ref().is_some_and(|new| new.is_new_version) {
        let columns = vec![
            ("name", Column::texts([name])),
            ("version", Column::ints([i64::from(*version)])),
            ("schema", Column::texts([schema])),
            ("created_at", Column::ints([now.0])),
        ];
        insert(connection, "event_type_versions", columns, "")?;
    }
    Ok(())
}
