//! `event-handler drain`: send everybody elsewhere.

use clap::Args;
use serde_json::Value;

use super::api_client::ApiClient;
use super::target::TargetArgs;
use super::{Failure, output};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  event-handler drain          before a node is taken away
  event-handler drain --undo   it stays

A node that drains is not ready, refuses publishes and new subscribers, and sends its subscribers elsewhere. The process
goes on until it is stopped, and stopping it drains too: this is for load balancers that need time.";

/// What to do.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DrainArgs {
    /// Take a drain back. Who was told to leave leaves all the same.
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Drains, and says what that means.
pub fn run(args: &DrainArgs, config: &Config) -> Result<(), Failure> {
    let api = ApiClient::new(args.target.resolve_admin(config)?);
    let system = actix_rt::System::new();
    if args.undo {
        system.block_on(api.delete("/admin/drain"))?.success()?;
        return output::print("draining no more");
    }
    let answer = system.block_on(api.post("/admin/drain", Vec::new()))?;
    let begun: Value = api.data(answer)?;
    let seconds = begun["spread_ms"].as_f64().unwrap_or_default() / 1e3;
    output::print(format_args!("draining: {} subscribers leave within {seconds} s", begun["sessions"]))
}
