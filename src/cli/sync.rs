//! `event-handler sync`: how far services agree with the entities that they keep a copy of.

use clap::{Args, ValueEnum};
use serde_json::value::RawValue;

use super::api_client::{ApiClient, segment};
use super::target::TargetArgs;
use super::{Failure, table};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  event-handler sync                            every service and type, as a table
  event-handler sync list --json | jq .state    one JSON object a line
  event-handler sync check stream-manager       compare it now
  event-handler sync repair stream-manager      and send it what differs, whatever is configured
  event-handler sync repair eliza --ahead       also write anew what is later there than here
  event-handler sync cancel stream-manager      end what is under way

States: unknown (not compared yet, or the comparison failed), catching_up (it is compared once what it missed is
delivered), synced, diverged. Differences: missing there, stale, extra (deleted or never here), ahead (later there than
here). The work is done by the node that delivers to the service.";

/// What to print or do.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SyncArgs {
    /// What to do; without it, all are printed.
    #[arg(value_enum)]
    command: Option<Command>,
    /// Name of the service.
    #[arg(required_if_eq_any([("command", "check"), ("command", "repair"), ("command", "cancel")]))]
    name: Option<String>,
    /// With repair: write what is later there than here anew, as a new version.
    #[arg(long)]
    ahead: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Command {
    /// Print how far each service agrees.
    List,
    /// Compare a service.
    Check,
    /// Compare a service, and send it what differs.
    Repair,
    /// End the comparison or the repairs under way.
    Cancel,
}

/// Prints all, or those of a service after it was told something.
pub fn run(args: &SyncArgs, config: &Config) -> Result<(), Failure> {
    if args.ahead && args.command != Some(Command::Repair) {
        return Err(Failure::Usage("--ahead goes with repair".to_owned()));
    }
    let api = ApiClient::new(args.target.resolve_admin(config)?);
    let told = args.command.filter(|command| *command != Command::List).zip(args.name.as_deref());
    let rows: Vec<Box<RawValue>> = actix_rt::System::new().block_on(async {
        let Some((command, name)) = told else { return api.list("/admin/sync", false).await };
        let verb = command.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let body = if args.ahead { br#"{"ahead":true}"#.to_vec() } else { Vec::new() };
        api.data(api.post(&format!("/admin/sync/{}/{verb}", segment(name)), body).await?)
    })?;
    let columns = [
        ("SERVICE", "service"),
        ("TYPE", "type"),
        ("STATE", "state"),
        ("LAG", "lag"),
        ("CHECKED", "checked_at"),
        ("NEXT", "next_check_at"),
        ("DIFFERENCES", "differences"),
        ("ERROR", "error"),
    ];
    table::list(&rows, args.json, "no service keeps a copy of entities; see sync in [[services]]", columns)
}
