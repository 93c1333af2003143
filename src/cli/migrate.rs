//! `event-handler migrate`: the database schema, up to date.

use super::{Failure, output};
use crate::config::Config;
use crate::{serve, storage};

/// Applies what is missing and names it.
pub fn run(config: &Config) -> Result<(), Failure> {
    let options = serve::store_options(config)?;
    let applied = storage::migrate(&options).map_err(|error| Failure::Failed(format!("{}: {error}", options.url)))?;
    for name in &applied {
        output::print(format_args!("applied {name}"))?;
    }
    output::print(format_args!("{}: schema is up to date", options.url))
}
