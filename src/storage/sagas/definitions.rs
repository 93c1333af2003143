//! The definitions that the store keeps, and which of them are declared.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use diesel::sql_types::{BigInt, Nullable, Text};
use diesel::{ExpressionMethods as _, QueryDsl as _, RunQueryDsl as _};

use crate::domain::event::{EventId, Timestamp};
use crate::storage::connection::{Connection, on_backend};
use crate::storage::error::StoreError;
use crate::storage::position;
use crate::storage::schema::{saga_declarations, saga_definitions, saga_names};
use crate::storage::statement::{Column, Statement, insert};

/// For how long it counts what a node has declared.
const KEPT: Duration = Duration::from_secs(10 * 60);

/// A definition of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDefinition {
    pub saga: String,
    pub version: u32,
    /// Its JSON text. Equal definitions have one text.
    pub text: String,
}

/// A saga that begins new instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredSaga {
    pub saga: String,
    /// The greatest that some node declares.
    pub version: u32,
    /// Later events begin instances.
    pub since: EventId,
}

/// See [`Write::DeclareSagas`](crate::storage::Write::DeclareSagas).
pub fn declare(
    connection: &mut Connection,
    node: &str,
    sagas: &[StoredDefinition],
    now: Timestamp,
) -> Result<Vec<(String, u32)>, StoreError> {
    let mut conflicts = Vec::new();
    for StoredDefinition { saga, version, text } in sagas {
        let stored = saga_definitions::table
            .find((saga, i64::from(*version)))
            .filter(saga_definitions::text.ne(text))
            .select(saga_definitions::saga);
        let others: Vec<String> = on_backend!(connection, c => stored.load(c))?;
        conflicts.extend(others.into_iter().map(|saga| (saga, *version)));
    }
    if !conflicts.is_empty() {
        return Ok(conflicts);
    }
    let columns = vec![
        ("saga", Column::texts(sagas.iter().map(|saga| saga.saga.as_str()))),
        ("version", Column::ints(sagas.iter().map(|saga| i64::from(saga.version)))),
        ("text", Column::texts(sagas.iter().map(|saga| saga.text.as_str()))),
    ];
    insert(connection, "saga_definitions", columns, "ON CONFLICT DO NOTHING")?;
    declare_for(connection, node, sagas, now)?;
    name_declared(connection)?;
    Ok(Vec::new())
}

/// Replaces what `node` declares, and forgets what others have declared long ago. On SQLite there are no others.
fn declare_for(
    connection: &mut Connection,
    node: &str,
    sagas: &[StoredDefinition],
    now: Timestamp,
) -> Result<(), StoreError> {
    let kept_since = match connection {
        Connection::Sqlite(_) => i64::MAX,
        Connection::Postgres(_) => now.0.saturating_sub(KEPT.as_micros() as i64),
    };
    let gone = saga_declarations::table
        .filter(saga_declarations::node.eq(node))
        .or_filter(saga_declarations::seen_at.lt(kept_since));
    on_backend!(connection, c => diesel::delete(gone).execute(c))?;
    let mut versions: BTreeMap<&str, u32> = BTreeMap::new();
    for StoredDefinition { saga, version, .. } in sagas {
        let newest = versions.entry(saga).or_default();
        *newest = (*newest).max(*version);
    }
    let columns = vec![
        ("saga", Column::texts(versions.keys().copied())),
        ("node", Column::texts(versions.keys().map(|_| node))),
        ("version", Column::ints(versions.values().map(|version| i64::from(*version)))),
        ("seen_at", Column::ints(versions.keys().map(|_| now.0))),
    ];
    insert(connection, "saga_declarations", columns, "")?;
    Ok(())
}

/// Sagas that are declared now begin instances with events from now on; those that nobody declares begin none.
fn name_declared(connection: &mut Connection) -> Result<(), StoreError> {
    let declared = saga_declarations::table.select(saga_declarations::saga);
    let declared: Vec<String> = on_backend!(connection, c => declared.load(c))?;
    let named: Vec<String> = on_backend!(connection, c => saga_names::table.select(saga_names::saga).load(c))?;
    for name in named.iter().filter(|name| !declared.contains(name)) {
        on_backend!(connection, c => diesel::delete(saga_names::table.find(name)).execute(c))?;
    }
    let new: BTreeSet<&str> = declared.iter().filter(|name| !named.contains(name)).map(String::as_str).collect();
    let since = position::bounds(connection)?.last;
    let columns =
        vec![("saga", Column::texts(new.iter().copied())), ("since", Column::ints(new.iter().map(|_| since)))];
    insert(connection, "saga_names", columns, "")?;
    Ok(())
}

/// See [`Reader::saga_definitions`](crate::storage::Reader::saga_definitions).
pub fn definitions(connection: &mut Connection) -> Result<Vec<StoredDefinition>, StoreError> {
    let query = saga_definitions::table.order((saga_definitions::saga, saga_definitions::version));
    let rows: Vec<(String, i64, String)> = on_backend!(connection, c => query.load(c))?;
    let stored = |(saga, version, text)| StoredDefinition { saga, version: version_of(version), text };
    Ok(rows.into_iter().map(stored).collect())
}

/// See [`Reader::declared_sagas`](crate::storage::Reader::declared_sagas).
pub fn declared(connection: &mut Connection) -> Result<Vec<DeclaredSaga>, StoreError> {
    const TEXT: &str = "SELECT n.saga, (SELECT max(d.version) FROM saga_declarations d WHERE d.saga = n.saga), n.since \
                        FROM saga_names n ORDER BY n.saga";
    let query: Statement<'_, (Text, Nullable<BigInt>, BigInt)> = Statement::new(TEXT.to_owned(), Vec::new());
    let rows: Vec<(String, Option<i64>, i64)> = on_backend!(connection, c => query.load(c))?;
    let named = rows.into_iter().filter_map(|(saga, version, since)| Some((saga, version?, since)));
    Ok(named.map(|(saga, version, since)| DeclaredSaga { saga, version: version_of(version), since }).collect())
}

fn version_of(stored: i64) -> u32 {
    u32::try_from(stored).unwrap_or_default()
}
