//! `event-handler sessions`: who is connected.

use clap::{Args, Subcommand};
use url::form_urlencoded::Serializer;

use super::api_client::{ApiClient, segment};
use super::target::TargetArgs;
use super::{Failure, output, table};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  event-handler sessions                            the connected subscribers
  event-handler sessions --pattern 'order.>'        those with this very subscription
  event-handler sessions --peer 10.0.0.7 --json     one JSON object a line
  event-handler sessions close 17                   close one; it is told not to come back (4008)

Columns: subscriptions, whether it is up to date (else it catches up), events by which it is behind, bytes that wait for
it, and frames pushed so far.";

/// What to do.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct SessionsArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only these: websocket or sse.
    #[arg(long)]
    kind: Option<String>,
    /// Only those from this address, with its port or without.
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<String>,
    /// Only those with this very subscription.
    #[arg(long)]
    pattern: Option<String>,
    /// Most sessions to print, 1 to 10000; with --all, most to ask for at once.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    limit: u32,
    /// Go on through every page.
    #[arg(long)]
    all: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Close a session.
    Close {
        /// Its id.
        id: String,
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// Prints or closes.
pub fn run(args: &SessionsArgs, config: &Config) -> Result<(), Failure> {
    let system = actix_rt::System::new();
    if let Some(Command::Close { id, target }) = &args.command {
        let api = ApiClient::new(target.resolve_admin(config)?);
        system.block_on(api.delete(&format!("/admin/sessions/{}", segment(id))))?.success()?;
        return output::print(format_args!("session {id} is closed"));
    }
    let ListArgs { kind, peer, pattern, limit, all, json, target } = &args.list;
    let api = ApiClient::new(target.resolve_admin(config)?);
    let mut query = Serializer::new(format!("limit={limit}"));
    for (name, value) in [("kind", kind), ("peer", peer), ("pattern", pattern)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let sessions = system.block_on(api.list(&format!("/admin/sessions?{}", query.finish()), *all))?;
    let columns = [
        ("SESSION", "id"),
        ("KIND", "kind"),
        ("PEER", "peer"),
        ("SUBSCRIPTIONS", "subscriptions"),
        ("LIVE", "live"),
        ("LAG", "lag"),
        ("QUEUED", "queue_bytes"),
        ("FRAMES", "frames"),
    ];
    table::list(&sessions, *json, "nobody is connected", columns)
}
