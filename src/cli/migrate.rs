//! `event-handler migrate`: the database schema, up to date.

use super::{Failure, output};
use crate::config::Config;
use crate::serve;
use crate::storage::{self, StoreErrorKind, StoreLock};

/// Applies what is missing and names it. A process that uses the SQLite file has to end before its schema changes.
pub fn run(config: &Config) -> Result<(), Failure> {
    let options = serve::store_options(config)?;
    let _lock = match StoreLock::take(&options) {
        Err(error) if error.kind == StoreErrorKind::Locked && storage::is_current(&options).unwrap_or(false) => None,
        lock => Some(lock.map_err(|error| config.error_at("store.url", error.to_string()))?),
    };
    let applied = storage::migrate(&options).map_err(|error| match error.stops_start(&options.url) {
        true => Failure::Config(config.error_at("store.url", error.message)),
        false => Failure::Failed(format!("{}: {error}", options.url)),
    })?;
    for name in &applied {
        output::print(format_args!("applied {name}"))?;
    }
    output::print(format_args!("{}: schema is up to date", options.url))
}
