//! `event-handler nodes`: the nodes that share the store.

use clap::Args;

use super::api_client::ApiClient;
use super::target::TargetArgs;
use super::{Failure, table};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  event-handler nodes                      the nodes, as a table
  event-handler nodes --json | jq .holds   one JSON object a line

Columns: what it is doing (up, draining, lost), its version, since when it runs, when the store last heard of it, by how
many events it is behind, and what it does for all nodes.";

/// What to print.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct NodesArgs {
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Prints all nodes.
pub fn run(args: &NodesArgs, config: &Config) -> Result<(), Failure> {
    let api = ApiClient::new(args.target.resolve_admin(config)?);
    let nodes = actix_rt::System::new().block_on(api.list("/admin/nodes", false))?;
    let columns = [
        ("NODE", "name"),
        ("STATE", "state"),
        ("VERSION", "version"),
        ("STARTED", "started_at"),
        ("SEEN", "last_seen"),
        ("LAG", "lag"),
        ("HOLDS", "holds"),
    ];
    table::list(&nodes, args.json, "there are no nodes", columns)
}
