//! `event-handler schedules`: events for later.

use clap::{Args, Subcommand};

use super::api_client::{ApiClient, segment};
use super::target::TargetArgs;
use super::{Failure, output, table};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  event-handler schedules                 the next 100, in the order in which they are due
  event-handler schedules --all --json    all of them, one JSON object a line
  event-handler schedules cancel sch_…    take one back

Events are scheduled by `event-handler publish --deliver-at TIME`.";

/// What to do.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct SchedulesArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Most schedules to print, 1 to 1000; with --all, most to ask for at once.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
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
    /// Take a schedule back.
    Cancel {
        /// Its id.
        id: String,
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// Prints or cancels.
pub fn run(args: &SchedulesArgs, config: &Config) -> Result<(), Failure> {
    let system = actix_rt::System::new();
    if let Some(Command::Cancel { id, target }) = &args.command {
        let api = ApiClient::new(target.resolve(config)?);
        system.block_on(api.delete(&format!("/schedules/{}", segment(id))))?.success()?;
        return output::print(format_args!("schedule {id} is cancelled"));
    }
    let ListArgs { limit, all, json, target } = &args.list;
    let api = ApiClient::new(target.resolve(config)?);
    let waiting = system.block_on(api.list(&format!("/schedules?limit={limit}"), *all))?;
    let columns = [
        ("SCHEDULE", "schedule_id"),
        ("DUE", "deliver_at"),
        ("NAME", "event_name"),
        ("SOURCE", "source"),
        ("KEY", "key"),
        ("ASKED FOR", "created_at"),
    ];
    table::list(&waiting, *json, "nothing is scheduled", columns)
}
