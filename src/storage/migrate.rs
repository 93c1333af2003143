//! Embedded migrations of the schema. A schema that is up to date is only read, so that a role without the right to
//! create tables is enough.

use diesel::connection::SimpleConnection;
use diesel::migration::{Migration as _, MigrationSource};
use diesel::sql_types::{Array, Bool, Text};
use diesel::sqlite::Sqlite;
use diesel::{Connection as _, PgConnection, RunQueryDsl as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::connection::{Connection, on_backend};
use super::error::{StoreError, StoreErrorKind};
use super::options::{Access, StoreOptions};
use super::session::{self, PostgresSession, quoted};

const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");
const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// The advisory lock during migrations: of several processes that start at once, one migrates and the others wait.
const MIGRATION_LOCK: i64 = 0x6576_656e_745f_6d67;

/// The table in which diesel notes the applied migrations.
const APPLIED: &str = "__diesel_schema_migrations";

/// A migration whose first version was not a valid date. Databases that have the old version get the new one as well,
/// so that both earlier and later programs accept them.
const RENAMED: (&str, &str) = ("20260400000000", "20260401000000");

/// The tables of the first migrations. If one exists without those migrations, it belongs to another program.
const TABLES: [&str; 8] = [
    "events",
    "idempotency_keys",
    "services",
    "deliveries",
    "delivery_attempts",
    "delivery_jobs",
    "schedules",
    "service_commands",
];

/// The tables of later migrations that the role must be able to write. Of `log` it need only read the one row.
const LATER: [&str; 26] = [
    "durables",
    "durable_marks",
    "revocations",
    "clock_turns",
    "log_gaps",
    "nodes",
    "leases",
    "positions",
    "heard_events",
    "entities",
    "entity_types",
    "sent_events",
    "syncs",
    "calls",
    "call_ends",
    "system_state",
    "sagas",
    "saga_journal",
    "saga_awaits",
    "saga_counts",
    "saga_definitions",
    "saga_declarations",
    "saga_names",
    "event_types",
    "event_type_versions",
    "event_type_files",
];

/// Whether this process has used the store before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// The store is refused if the role may not use all tables, or a newer program has changed the schema.
    First,
    /// The process goes on beside a newer program, whose migrations only add: nodes are replaced one after the other.
    Further,
}

/// Creates the store if it is missing, and applies the missing migrations. Returns their versions. Fails with
/// [`StoreErrorKind::Unusable`] if the role may not use the tables.
pub fn migrate(options: &StoreOptions) -> Result<Vec<String>, StoreError> {
    run(&mut Connection::open(options, Access::Write)?, Use::First)
}

/// A schema that a role may not use looks to it as if it were empty.
fn refuse_closed_schema(connection: &mut Connection) -> Result<(), StoreError> {
    let place = place(connection);
    let Connection::Postgres(PostgresSession { connection, schema, .. }) = connection else { return Ok(()) };
    let is_closed = diesel::dsl::sql::<Bool>("EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = ")
        .bind::<Text, _>(&**schema)
        .sql(" AND NOT has_schema_privilege(oid, 'USAGE'))");
    let is_closed: bool = diesel::select(is_closed).get_result(connection)?;
    if is_closed { Err(refused(&place, "USAGE on the schema is missing")) } else { Ok(()) }
}

fn refuse_closed_tables(connection: &mut Connection) -> Result<(), StoreError> {
    #[derive(diesel::QueryableByName)]
    struct Closed {
        #[diesel(sql_type = Text)]
        table: String,
    }
    const CLOSED: &str = "SELECT c.relname::text AS table FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND (c.relname = ANY($2) AND NOT (has_table_privilege(c.oid, 'SELECT') \
         AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE') \
         AND has_table_privilege(c.oid, 'DELETE')) OR c.relname = 'log' AND NOT has_table_privilege(c.oid, 'SELECT')) \
         ORDER BY c.relname";
    let place = place(connection);
    let Connection::Postgres(PostgresSession { connection, schema, .. }) = connection else { return Ok(()) };
    let tables: Vec<&str> = TABLES.iter().chain(&LATER).copied().collect();
    let query = diesel::sql_query(CLOSED).bind::<Text, _>(&**schema).bind::<Array<Text>, _>(tables);
    let closed: Vec<Closed> = query.load(connection)?;
    if closed.is_empty() {
        return Ok(());
    }
    let closed: Vec<String> = closed.into_iter().map(|closed| closed.table).collect();
    Err(refused(&place, &format!("SELECT, INSERT, UPDATE or DELETE is missing on {}", closed.join(", "))))
}

fn refused(place: &str, reason: &str) -> StoreError {
    let message =
        format!("does not let this role make or use tables in {place} ({reason}); grant that, or {ELSEWHERE}");
    StoreError::new(StoreErrorKind::Unusable, message)
}

/// Whether [`migrate`] would do nothing.
pub fn is_current(options: &StoreOptions) -> Result<bool, StoreError> {
    Ok(!is_behind(&mut Connection::open(options, Access::Read)?, Use::First)?)
}

/// Applies the missing migrations. Fails with [`StoreErrorKind::Unusable`] if the tables belong to another program or
/// to a newer version of this one, or if the role may not create them.
pub(super) fn run(connection: &mut Connection, usage: Use) -> Result<Vec<String>, StoreError> {
    let place = place(connection);
    if usage == Use::First {
        refuse_closed_schema(connection)?;
    }
    let applied = bring_up_to_date(connection, usage).map_err(|failure| match failure {
        Failure::Store(error) => or_refused(error, &place),
        // The harness boxes the error, so its text has to tell the kind.
        Failure::Migration(error) => {
            let kind = StoreErrorKind::of_message(&error.to_string()).unwrap_or(StoreErrorKind::Internal);
            or_refused(StoreError::new(kind, format!("schema migration: {error}")), &place)
        }
    })?;
    if usage == Use::First {
        refuse_closed_tables(connection)?;
    }
    Ok(applied)
}

fn bring_up_to_date(connection: &mut Connection, usage: Use) -> Result<Vec<String>, Failure> {
    if !is_behind(connection, usage)? {
        return Ok(Vec::new());
    }
    match connection {
        Connection::Sqlite(file) => file.connection.immediate_transaction(|connection| Ok(apply(connection, SQLITE)?)),
        Connection::Postgres(PostgresSession { connection, schema, .. }) => connection.transaction(|connection| {
            connection.batch_execute(&format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))?;
            if !has_schema(connection, schema)? {
                connection.batch_execute(&format!("CREATE SCHEMA {}", quoted(schema)))?;
            }
            Ok(apply(connection, POSTGRES)?)
        }),
    }
}

/// Whether migrations are missing. Fails if the tables were not made by migrations of this program.
pub(super) fn is_behind(connection: &mut Connection, usage: Use) -> Result<bool, StoreError> {
    let known = versions()?;
    let is_ours = |applied: &[String]| known.first().is_some_and(|first| applied.contains(first));
    let mut applied = applied_versions(connection)?;
    if !is_ours(&applied) {
        let mut found = None;
        for table in TABLES {
            if found.is_none() && has_table(connection, table)? {
                found = Some(table);
            }
        }
        let Some(table) = found else { return Ok(true) };
        // Another process may have applied all of them in between.
        applied = applied_versions(connection)?;
        if !is_ours(&applied) {
            return Err(foreign(table, &place(connection)));
        }
    }
    match (applied.last(), known.last()) {
        (Some(theirs), Some(ours)) if theirs > ours && usage == Use::First => {
            let message = format!(
                "has a store of a newer version: its schema is {theirs}, this program ({}) knows up to {ours}; start a \
                 program at least as new as the one that made it",
                env!("CARGO_PKG_VERSION")
            );
            Err(StoreError::new(StoreErrorKind::Unusable, message))
        }
        _ => Ok(known.iter().any(|version| !applied.contains(version))),
    }
}

/// The versions of all migrations in rising order. Both backends have the same.
fn versions() -> Result<Vec<String>, StoreError> {
    let migrations = MigrationSource::<Sqlite>::migrations(&SQLITE);
    let migrations = migrations.map_err(|error| StoreError::new(StoreErrorKind::Internal, error.to_string()))?;
    let mut versions: Vec<String> = migrations.iter().map(|migration| migration.name().version().to_string()).collect();
    versions.sort_unstable();
    Ok(versions)
}

/// The versions that were applied, in rising order. Empty if none ever was.
fn applied_versions(connection: &mut Connection) -> Result<Vec<String>, StoreError> {
    #[derive(diesel::QueryableByName)]
    struct Applied {
        #[diesel(sql_type = Text)]
        version: String,
    }
    if !has_table(connection, APPLIED)? {
        return Ok(Vec::new());
    }
    let query = diesel::sql_query(format!("SELECT version FROM {APPLIED}"));
    let rows: Vec<Applied> = on_backend!(connection, c => query.load(c))?;
    let mut versions: Vec<String> = rows.into_iter().map(|row| row.version).collect();
    if versions.iter().any(|version| version == RENAMED.0) {
        versions.push(RENAMED.1.to_owned());
    }
    versions.sort_unstable();
    Ok(versions)
}

pub(super) fn has_table(connection: &mut Connection, name: &str) -> Result<bool, StoreError> {
    match connection {
        Connection::Sqlite(file) => {
            let found = diesel::dsl::sql::<Bool>("EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ");
            Ok(diesel::select(found.bind::<Text, _>(name).sql(")")).get_result(&mut file.connection)?)
        }
        Connection::Postgres(session) => session::has_table(&mut session.connection, name),
    }
}

fn has_schema(connection: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    let found = diesel::dsl::sql::<Bool>("to_regnamespace(").bind::<Text, _>(quoted(name)).sql(") IS NOT NULL");
    Ok(diesel::select(found).get_result(connection)?)
}

/// Applies the missing migrations. To be called within a transaction.
fn apply<C, DB>(connection: &mut C, migrations: EmbeddedMigrations) -> diesel::migration::Result<Vec<String>>
where
    C: MigrationHarness<DB> + SimpleConnection,
    DB: diesel::backend::Backend,
{
    // Asking for the applied migrations also creates the table of them.
    if connection.applied_migrations()?.iter().any(|version| version.to_string() == RENAMED.0) {
        let (old, new) = RENAMED;
        connection.batch_execute(&format!(
            "INSERT INTO {APPLIED} (version) SELECT '{new}' WHERE NOT EXISTS \
             (SELECT 1 FROM {APPLIED} WHERE version = '{new}') AND EXISTS (SELECT 1 FROM {APPLIED} WHERE version = '{old}')"
        ))?;
    }
    let versions = connection.run_pending_migrations(migrations)?;
    Ok(versions.iter().map(ToString::to_string).collect())
}

/// Names the place of the tables, for messages.
fn place(connection: &Connection) -> String {
    match connection {
        Connection::Sqlite(_) => "the file".to_owned(),
        Connection::Postgres(session) => format!("the schema {}", quoted(&session.schema)),
    }
}

fn foreign(table: &str, place: &str) -> StoreError {
    let message = format!("has a table {table:?} of another program in {place}; {ELSEWHERE}");
    StoreError::new(StoreErrorKind::Unusable, message)
}

const ELSEWHERE: &str = "name another database, or on PostgreSQL another schema (store.schema)";

/// Turns `error` into [`StoreErrorKind::Unusable`] if an operator has to act first.
fn or_refused(error: StoreError, place: &str) -> StoreError {
    let message = if error.message.contains("already exists") {
        format!("has something of another program in {place} ({}); {ELSEWHERE}", error.message)
    } else if error.message.contains("permission denied") {
        return refused(place, &error.message);
    } else {
        return error;
    };
    StoreError::new(StoreErrorKind::Unusable, message)
}

enum Failure {
    Store(StoreError),
    Migration(Box<dyn std::error::Error + Send + Sync>),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<diesel::result::Error> for Failure {
    fn from(error: diesel::result::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<Box<dyn std::error::Error + Send + Sync>> for Failure {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self::Migration(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rights_on_all_tables_are_looked_at() {
        let lines = include_str!("schema.rs").lines();
        let tables = lines.filter_map(|line| line.strip_prefix("    ")?.split_once(" (")?.0.split(' ').next());
        let known: Vec<&str> = TABLES.into_iter().chain(LATER).chain(["log"]).collect();
        let missing: Vec<&str> = tables.filter(|table| !known.contains(table)).collect();
        assert_eq!(missing, [] as [&str; 0]);
    }
}
