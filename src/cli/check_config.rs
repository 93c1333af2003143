//! `event-handler check-config`: what is in effect.

use super::{Failure, output};
use crate::actors::client::tls;
use crate::config::Config;
use crate::serve;

/// Prints the configuration as TOML, secrets hidden, with a note where a value is not built in.
pub fn run(config: &Config) -> Result<(), Failure> {
    serve::store_options(config)?;
    tls::check_files(config)?;
    serve::access_control(config)?;
    output::print(config.to_toml_redacted().trim_end())
}
