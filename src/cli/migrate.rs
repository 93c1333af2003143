//! `event-handler migrate`: the database schema, up to date.

use super::{Failure, output};
use crate::config::Config;
use crate::serve;
use crate::storage::{self, StoreErrorKind};

/// Applies what is missing and names it.
pub fn run(config: &Config) -> Result<(), Failure> {
    let options = serve::store_options(config)?;
    let applied = storage::migrate(&options).map_err(|error| match error.kind {
        StoreErrorKind::Unusable => Failure::Config(config.error_at("store.url", error.message)),
        _ => Failure::Failed(format!("{}: {error}", options.url)),
    })?;
    for name in &applied {
        output::print(format_args!("applied {name}"))?;
    }
    output::print(format_args!("{}: schema is up to date", options.url))
}
