//! `event-handler serve`: the service itself.

use std::time::Duration;

use super::Failure;
use crate::config::Config;
use crate::serve::{self, ServeError};
use crate::telemetry::logging;

/// Time for the last log lines to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// Serves until the process is told to stop.
pub fn run(config: Config) -> Result<(), Failure> {
    let log = logging::init(&config.log, config.is_production()).map_err(Failure::failed)?;
    let outcome = actix_rt::System::new().block_on(serve::serve(config));
    if let Err(error) = &outcome
        && !matches!(error, ServeError::Config(_))
    {
        log::error!(error:% = error; "ending");
    }
    log.flush(LOG_PATIENCE);
    outcome.map_err(|error| match error {
        ServeError::Config(error) => Failure::Config(error),
        ServeError::Escalated(_) => Failure::GaveUp(error.to_string()),
        ServeError::Listen { .. } | ServeError::Start(_) => Failure::failed(error),
    })
}
