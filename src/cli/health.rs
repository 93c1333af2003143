//! `event-handler health`: what containers call.

use std::time::Duration;

use clap::Args;

use super::api_client::ApiClient;
use super::target::TargetArgs;
use super::{Failure, output};
use crate::config::Config;

/// What to ask.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Ask whether it is ready for its job, not only whether it can serve.
    #[arg(long)]
    ready: bool,
    /// Longest time to wait for an answer, in seconds.
    #[arg(long, default_value_t = 3, value_name = "SECONDS")]
    timeout: u64,
    #[command(flatten)]
    target: TargetArgs,
}

/// Prints the answer; fails unless it is 200.
pub fn run(args: &HealthArgs, config: &Config) -> Result<(), Failure> {
    let api = ApiClient::new(args.target.resolve(config)?);
    let path = if args.ready { "/health/ready" } else { "/health" };
    let answer = actix_rt::System::new().block_on(async {
        let late = || format!("no answer from {} within {} s", api.target().http(path), args.timeout);
        let answer = tokio::time::timeout(Duration::from_secs(args.timeout), api.get(path)).await;
        answer.map_err(|_| Failure::Failed(late()))?
    })?;
    let body = String::from_utf8_lossy(&answer.body);
    match answer.status {
        200 => output::print(body.trim_end()),
        status => Err(Failure::Failed(format!("{} answered {status}: {body}", api.target().http(path)))),
    }
}
