//! The schema, embedded, brought up to date.

use diesel::connection::SimpleConnection;
use diesel::{Connection as _, PgConnection, SqliteConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::connection::{Access, Connection};
use super::error::{StoreError, StoreErrorKind};
use super::options::StoreOptions;

const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");
const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Taken while the schema changes, so that of several processes that start at once one does it.
const MIGRATION_LOCK: i64 = 0x6576_656e_745f_6d67;

/// Creates the store if it is missing and brings its schema up to date; returns the versions that were applied.
pub fn migrate(options: &StoreOptions) -> Result<Vec<String>, StoreError> {
    run(&mut Connection::open(options, Access::Write)?)
}

/// Whether there is nothing to do for [`migrate`].
pub fn is_current(options: &StoreOptions) -> Result<bool, StoreError> {
    let pending = match &mut Connection::open(options, Access::Read)? {
        Connection::Sqlite(file) => file.connection.has_pending_migration(SQLITE),
        Connection::Postgres(connection) => connection.has_pending_migration(POSTGRES),
    };
    pending.map(|pending| !pending).map_err(|error| in_migration(&*error))
}

pub(super) fn run(connection: &mut Connection) -> Result<Vec<String>, StoreError> {
    match connection {
        Connection::Sqlite(file) => sqlite(&mut file.connection),
        Connection::Postgres(connection) => postgres(connection),
    }
    .map_err(|failure| match failure {
        Failure::Store(error) => error,
        Failure::Migration(error) => in_migration(&*error),
    })
}

fn sqlite(connection: &mut SqliteConnection) -> Result<Vec<String>, Failure> {
    connection.immediate_transaction(|connection| Ok(apply(connection, SQLITE)?))
}

fn postgres(connection: &mut PgConnection) -> Result<Vec<String>, Failure> {
    connection.transaction(|connection| {
        connection.batch_execute(&format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))?;
        Ok(apply(connection, POSTGRES)?)
    })
}

fn apply<C, DB>(connection: &mut C, migrations: EmbeddedMigrations) -> diesel::migration::Result<Vec<String>>
where
    C: MigrationHarness<DB>,
    DB: diesel::backend::Backend,
{
    let versions = connection.run_pending_migrations(migrations)?;
    Ok(versions.iter().map(ToString::to_string).collect())
}

enum Failure {
    Store(StoreError),
    Migration(Box<dyn std::error::Error + Send + Sync>),
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

/// The harness boxes what failed: its text tells the kind.
fn in_migration(error: &(dyn std::error::Error + Send + Sync)) -> StoreError {
    let kind = StoreErrorKind::of_message(&error.to_string()).unwrap_or(StoreErrorKind::Internal);
    StoreError::new(kind, format!("schema migration: {error}"))
}
