//! `event-handler serve`: the service itself.

use std::time::Duration;

use super::Failure;
use crate::config::{Config, ConfigError};
use crate::serve::{self, ServeError};
use crate::telemetry::logging;

/// Time for the last log lines to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// Serves until the process is told to stop; `load` reads the configuration again.
pub fn run(config: Config, load: impl Fn() -> Result<Config, ConfigError> + 'static) -> Result<(), Failure> {
    let log = logging::init(&config.log, config.is_production()).map_err(Failure::failed)?;
    let outcome = actix_rt::System::new().block_on(serve::serve(config, load));
    // What is wrong with the start is told, what goes wrong later is logged; not both.
    let outcome = outcome.map_err(|error| match error {
        ServeError::Config(error) => Failure::Config(error),
        ServeError::Listen { .. } => Failure::failed(error),
        ServeError::Start(_) => logged(&error, 1),
        ServeError::Escalated(_) => logged(&error, 70),
    });
    log.flush(LOG_PATIENCE);
    outcome
}

fn logged(error: &ServeError, exit_code: u8) -> Failure {
    log::error!(error:% = error; "ending");
    Failure::Logged { exit_code }
}
