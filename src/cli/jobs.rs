//! `event-handler jobs`: redrives and replays.

use clap::{Args, Subcommand};

use super::api_client::ApiClient;
use super::target::TargetArgs;
use super::{Failure, output, table};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  event-handler jobs                    redrives and replays, the newest first
  event-handler jobs --json --limit 1   one JSON object a line
  event-handler jobs cancel 3           stop one; what it has made stays

Columns: what it makes anew and how much so far, and the id at which it goes on, up to the last one.";

/// What to do.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct JobsArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Most jobs to print, 1 to 1000.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: u32,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Stop a job. The deliveries that it has made anew stay.
    Cancel {
        /// Its id.
        id: i64,
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// Prints or cancels.
pub fn run(args: &JobsArgs, config: &Config) -> Result<(), Failure> {
    let system = actix_rt::System::new();
    if let Some(Command::Cancel { id, target }) = &args.command {
        let api = ApiClient::new(target.resolve_admin(config)?);
        system.block_on(api.delete(&format!("/admin/jobs/{id}")))?.success()?;
        return output::print(format_args!("job {id} is cancelled"));
    }
    let ListArgs { limit, json, target } = &args.list;
    let api = ApiClient::new(target.resolve_admin(config)?);
    let jobs = system.block_on(api.list(&format!("/admin/jobs?limit={limit}"), false))?;
    let columns = [
        ("JOB", "id"),
        ("KIND", "kind"),
        ("SERVICE", "service"),
        ("STATE", "state"),
        ("MADE", "made"),
        ("NEXT", "next_id"),
        ("TO", "to"),
        ("EVENTS", "event_name"),
        ("BEGUN", "created_at"),
    ];
    table::list(&jobs, *json, "there are no jobs", columns)
}
