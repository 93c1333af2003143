//! `event-handler migrate`: the database schema, up to date.

use super::{Failure, output};
use crate::config::Config;
use crate::storage::{StoreErrorKind, StoreLock};
use crate::{serve, storage};

/// Applies what is missing and names it. A process that uses the SQLite file has to end before its schema changes.
pub fn run(config: &Config) -> Result<(), Failure> {
    let options = serve::store_options(config)?;
    let _lock = match StoreLock::take(&options) {
        Err(error) if error.kind == StoreErrorKind::Locked && storage::is_current(&options).unwrap_or(false) => None,
        lock => Some(lock.map_err(|error| config.error_at("store.url", error.to_string()))?),
    };
    let applied = storage::migrate(&options).map_err(|error| Failure::Failed(format!("{}: {error}", options.url)))?;
    for name in &applied {
        output::print(format_args!("applied {name}"))?;
    }
    output::print(format_args!("{}: schema is up to date", options.url))
}
