//! A session with a PostgreSQL server: checks before its use, and its settings.
//!
//! The writer first rules out a pooler that shares server connections between sessions, because settings would reach
//! other applications there. Readers cannot connect before the writer has done so and has found the schema. A replica is
//! another server, so it is looked at in the same way.

use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::sql_types::{Bool, Nullable, Text};
use diesel::{Connection as _, PgConnection, RunQueryDsl as _};

use super::error::{StoreError, StoreErrorKind};
use super::options::{Access, Durability, Schema, StoreOptions};

/// The timeout of a statement. Every statement here is bounded and takes a fraction of it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// For how long a node that has stopped in a transaction of its own may hold up all others, which wait for its lock.
const IDLE_IN_TRANSACTION: Duration = Duration::from_millis(1_500);

/// After which the server gives up a node that acknowledges nothing, and frees its locks. Without this it would take the
/// kernel two hours.
const SILENCE: Duration = Duration::from_secs(5);

/// How often the test for a pooler is repeated. To mislead it, another user of the pooler would have to interfere at
/// the same point each time. Three times were too few on a busy machine.
const POOLER_LOOKS: usize = 10;

/// An open session with its settings.
pub(super) struct PostgresSession {
    pub connection: PgConnection,
    pub schema: Arc<str>,
    /// Combined with the numbers of advisory locks, so that installations in the same database do not share locks.
    pub locks: i32,
}

impl PostgresSession {
    pub fn open(url: &str, options: &StoreOptions, access: Access) -> Result<Self, StoreError> {
        let known = match access {
            Access::Read | Access::Replica => Some(options.schema.found()?),
            Access::Write => None,
        };
        let (mut connection, conninfo) = reach(options, url, access)?;
        if access != Access::Read {
            refuse_pooler(&mut connection, &conninfo)?;
        }
        if access != Access::Replica {
            refuse_standby(&mut connection)?;
        }
        let schema = match known {
            Some(schema) => schema,
            None => {
                refuse_encoding(&mut connection)?;
                let schema = find_schema(&mut connection, &options.schema.name)?;
                options.reached.connected();
                options.schema.set_found(&schema);
                schema
            }
        };
        connection.batch_execute(&settings(options, access, &schema))?;
        let locks = if &*schema == Schema::EARLIER { 0 } else { hash(&schema) };
        Ok(Self { connection, schema, locks })
    }
}

/// Quotes `name` as an SQL identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn settings(options: &StoreOptions, access: Access, schema: &str) -> String {
    let synchronous_commit = match options.durability {
        // A server with a stronger setting, such as `remote_apply`, keeps it.
        Durability::Full => {
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        }
        Durability::Normal => "SET synchronous_commit = off",
    };
    let read_only = if access != Access::Write { "SET default_transaction_read_only = on;" } else { "" };
    let statement = STATEMENT_TIMEOUT.as_millis();
    let lock = options.busy_timeout.as_millis();
    let idle = IDLE_IN_TRANSACTION.as_millis();
    // Every statement here walks an index in its order, and looks up what belongs to each row by another. Without
    // statistics, as on a fresh table, or with those of a small one, the planner may prefer to read whole tables, to sort
    // or to hash them, and would keep that plan while they grow.
    format!(
        "SET search_path = {}; SET statement_timeout = {statement}; SET lock_timeout = {lock}; \
         SET idle_in_transaction_session_timeout = {idle}; SET client_min_messages = error; \
         {}; {synchronous_commit}; {read_only} \
         SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET enable_hashjoin = off; \
         SET enable_mergejoin = off; SET enable_material = off; SET enable_memoize = off; SET jit = off;",
        quoted(schema),
        forget_the_silent()
    )
}

/// Has the server end the session of a client that is not reached any more.
pub(super) fn forget_the_silent() -> String {
    let silence = SILENCE.as_millis();
    format!(
        "SET tcp_keepalives_idle = 2; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 3; \
         SET tcp_user_timeout = {silence}"
    )
}

/// Connects to the first host of `url` that answers and is of the right kind, beginning with the one that was reached
/// last. Also returns how.
fn reach(options: &StoreOptions, url: &str, access: Access) -> Result<(PgConnection, String), StoreError> {
    let mut conninfos = options.conninfos(url, access);
    let count = conninfos.len();
    let mut failures: Vec<StoreError> = Vec::new();
    let mut answers = None;
    for place in (options.reached.host()..).take(count).map(|place| place % count) {
        match establish(&conninfos[place]) {
            Ok(connection) => {
                options.reached.set_host(place);
                return Ok((connection, conninfos.swap_remove(place)));
            }
            Err(error) if error.kind == StoreErrorKind::Unusable => return Err(error),
            Err(error) => {
                if !error.message.contains("timeout expired") {
                    answers.get_or_insert(place);
                }
                failures.push(error);
            }
        }
    }
    // A host that says that it takes no writes may take them the next time. One that says nothing costs time.
    answers.into_iter().for_each(|place| options.reached.set_host(place));
    let messages: Vec<&str> = failures.iter().map(|failure| failure.message.as_str()).collect();
    let kind = match failures.as_slice() {
        [failure] => failure.kind,
        _ => StoreErrorKind::Unavailable,
    };
    Err(StoreError::new(kind, messages.join("; ")))
}

fn establish(conninfo: &str) -> Result<PgConnection, StoreError> {
    PgConnection::establish(conninfo).map_err(|error| {
        let error = StoreError::from(error);
        if is_of_pooler(&error.message) {
            return pooled();
        }
        if !cfg!(feature = "postgres-tls") && error.message.contains("no encryption") {
            let message = format!("{}; this build has no TLS: use one with the feature `postgres-tls`", error.message);
            return StoreError::new(error.kind, message);
        }
        error
    })
}

/// Identifies the server process that runs the statements of `connection`.
fn backend(connection: &mut PgConnection) -> Result<String, StoreError> {
    #[derive(diesel::QueryableByName)]
    struct Backend {
        #[diesel(sql_type = Text)]
        backend: String,
    }
    const QUERY: &str =
        "SELECT pid::text || ' ' || backend_start::text AS backend FROM pg_stat_activity WHERE pid = pg_backend_pid()";
    let mut look = || {
        // A statement is prepared and then executed. Only a transaction guarantees that a pooler sends both to the same
        // server connection.
        connection.batch_execute("BEGIN")?;
        let Backend { backend } = diesel::sql_query(QUERY).get_result(connection)?;
        connection.batch_execute("ROLLBACK")?;
        Ok(backend)
    };
    let looked: diesel::QueryResult<String> = look();
    looked.map_err(|error| {
        let error = StoreError::from(error);
        if is_of_pooler(&error.message) { pooled() } else { error }
    })
}

/// Fails if several sessions may share a server connection.
///
/// Each of two idle sessions has a server process of its own, which stays the same. A pooler in transaction mode
/// assigns processes anew with each transaction.
fn refuse_pooler(connection: &mut PgConnection, conninfo: &str) -> Result<(), StoreError> {
    let mut other = establish(conninfo)?;
    let mine = match backend(connection) {
        Err(error) if error.kind == StoreErrorKind::Unavailable && takes_no_transaction(conninfo)? => {
            return Err(pooled());
        }
        looked => looked?,
    };
    let others = backend(&mut other)?;
    for _ in 0..POOLER_LOOKS {
        // With this order of queries, a pooler that assigns processes in turn gives different ones.
        if mine == others || backend(&mut other)? != others || backend(connection)? != mine {
            return Err(pooled());
        }
    }
    Ok(())
}

/// Whether a session accepts statements but is cut off when a transaction begins. It is tried twice, so that a server
/// that restarts is not mistaken for a pooler.
fn takes_no_transaction(conninfo: &str) -> Result<bool, StoreError> {
    for _ in 0..2 {
        let mut session = establish(conninfo)?;
        session.batch_execute("SELECT 1")?;
        if session.batch_execute("BEGIN").is_ok() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_of_pooler(message: &str) -> bool {
    message.contains("prepared statement") || message.contains("pooling mode")
}

fn pooled() -> StoreError {
    StoreError::new(
        StoreErrorKind::Unusable,
        "leads to a connection pooler that gives out server connections by the transaction (PgBouncer with pool_mode \
         = transaction or statement); sessions are needed here: set pool_mode = session for this database, or name \
         the server itself",
    )
}

/// A standby takes no writes, and what it lacks would count as lost.
fn refuse_standby(connection: &mut PgConnection) -> Result<(), StoreError> {
    let recovers = diesel::dsl::sql::<Bool>("pg_is_in_recovery()");
    if diesel::select(recovers).get_result(connection)? {
        return Err(StoreError::new(StoreErrorKind::ReadOnly, "this is a standby, which takes no writes"));
    }
    Ok(())
}

/// Only UTF8 and SQL_ASCII can store every text.
fn refuse_encoding(connection: &mut PgConnection) -> Result<(), StoreError> {
    let encoding = diesel::dsl::sql::<Text>("current_setting('server_encoding')");
    let encoding: String = diesel::select(encoding).get_result(connection)?;
    if matches!(encoding.as_str(), "UTF8" | "SQL_ASCII") {
        return Ok(());
    }
    let message = format!(
        "names a database with the encoding {encoding}, which cannot hold every text; create one with ENCODING 'UTF8' \
         (CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0)"
    );
    Err(StoreError::new(StoreErrorKind::Unusable, message))
}

/// The schema of the tables: `name`, or the schema in which an earlier version has created them.
fn find_schema(connection: &mut PgConnection, name: &Arc<str>) -> Result<Arc<str>, StoreError> {
    // No other application's table `events` has a column `log_offset`.
    const HAS_TABLES: &str = "EXISTS (SELECT 1 FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
         WHERE c.relname = 'events' AND a.attname = 'log_offset' AND n.nspname = ";
    let mut has_tables = |schema: &str| -> Result<bool, StoreError> {
        let has = diesel::dsl::sql::<Bool>(HAS_TABLES).bind::<Text, _>(schema.to_owned()).sql(")");
        Ok(diesel::select(has).get_result(connection)?)
    };
    if &**name == Schema::DEFAULT && !has_tables(name)? && has_tables(Schema::EARLIER)? {
        return Ok(Schema::EARLIER.into());
    }
    Ok(Arc::clone(name))
}

/// Whether the schema in use has a table of this name.
pub(super) fn has_table(connection: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    let found = diesel::dsl::sql::<Nullable<Text>>("to_regclass(").bind::<Text, _>(quoted(name)).sql(")::text");
    Ok(diesel::select(found).get_result::<Option<String>>(connection)?.is_some())
}

/// The channel on which the nodes that share the tables of this schema are notified of commits.
pub(super) fn channel(schema: &str) -> String {
    format!("event_handler_{:08x}", hash(schema))
}

/// FNV-1a in 31 bits. It must give the same number on every node and in every version.
fn hash(text: &str) -> i32 {
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    i32::try_from(hash >> 1).unwrap_or_default()
}
