//! `event-handler compact`: a SQLite file without what is free in it.

use super::{Failure, output};
use crate::config::Config;
use crate::serve;
use crate::storage::{self, Compacted, StoreError, StoreLock};

/// Writes the file anew, and says what that gave back. The service must not run.
pub fn run(config: &Config) -> Result<(), Failure> {
    let options = serve::store_options(config)?;
    let unusable = |error: StoreError| config.error_at("store.url", error.to_string());
    let _lock = StoreLock::take(&options).map_err(unusable)?;
    let compacted = storage::compact(&options).map_err(|error| match error.stops_start(&options.url) {
        true => Failure::Config(unusable(error)),
        false => Failure::Failed(format!("{}: {error}", options.url)),
    })?;
    match compacted {
        None => output::print(format_args!("{}: PostgreSQL gives space back by itself", options.url)),
        Some(Compacted { before, after }) => output::print(format_args!(
            "{}: {before} bytes before, {after} now; from now on it shrinks by itself",
            options.url
        )),
    }
}
