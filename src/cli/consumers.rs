//! `event-handler consumers`: durable subscriptions.

use clap::{Args, Subcommand};
use serde_json::json;

use super::api_client::{ApiClient, segment};
use super::target::TargetArgs;
use super::{Failure, output, table};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  event-handler consumers                              durable subscriptions, and how far each is
  event-handler consumers --json | jq .lag             one JSON object a line
  event-handler consumers seek billing --after 4711    have it go on after that event
  event-handler consumers seek billing --since 2026-01-31T12:00:00Z
  event-handler consumers delete billing               forget it, its position and its dead letters

Columns: everything up to the floor is settled; ids behind the end of the log; members here; events that are with them,
and that wait for them.";

/// What to do.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct ConsumersArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Have one go on elsewhere in the log; what its members have is theirs no more.
    Seek {
        /// Its name.
        name: String,
        /// After the event with this id; or with the earliest one kept, or the next one published.
        #[arg(long, value_name = "ID|earliest|latest", required_unless_present = "since", conflicts_with = "since")]
        after: Option<String>,
        /// With the first event from this time on (RFC 3339, such as 2026-01-31T12:00:00Z).
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Forget one, with its position and its dead letters.
    Delete {
        /// Its name.
        name: String,
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// Prints, moves or deletes.
pub fn run(args: &ConsumersArgs, config: &Config) -> Result<(), Failure> {
    let system = actix_rt::System::new();
    match &args.command {
        None => {
            let api = ApiClient::new(args.list.target.resolve_admin(config)?);
            let consumers = system.block_on(api.list("/admin/durables", false))?;
            let columns = [
                ("CONSUMER", "name"),
                ("EVENTS", "event_name"),
                ("STATE", "state"),
                ("FLOOR", "floor"),
                ("LAG", "lag"),
                ("MEMBERS", "members"),
                ("IN FLIGHT", "in_flight"),
                ("WAITING", "waiting"),
            ];
            table::list(&consumers, args.list.json, "there are no durable subscriptions", columns)
        }
        Some(Command::Seek { name, after, since, target }) => {
            let api = ApiClient::new(target.resolve_admin(config)?);
            let body = match (after, since) {
                (Some(after), _) => match after.parse::<i64>() {
                    Ok(id) => json!({ "after": id }),
                    Err(_) => json!({ "after": after }),
                },
                (None, since) => json!({ "since": since }),
            };
            let path = format!("/admin/durables/{}/seek", segment(name));
            let answer = system.block_on(api.post(&path, body.to_string().into_bytes()))?;
            let moved: serde_json::Value = api.data(answer)?;
            output::print(format_args!("{name} goes on after event {}", moved["floor"]))
        }
        Some(Command::Delete { name, target }) => {
            let api = ApiClient::new(target.resolve_admin(config)?);
            system.block_on(api.delete(&format!("/admin/durables/{}", segment(name))))?.success()?;
            output::print(format_args!("{name} is deleted"))
        }
    }
}
