//! `event-handler dead`: deliveries that were given up.

use clap::{Args, Subcommand};
use serde_json::{Map, Value};
use url::form_urlencoded::Serializer;

use super::Failure;
use super::api_client::ApiClient;
use super::job;
use super::table;
use super::target::TargetArgs;
use crate::config::Config;

const LIST_EXAMPLES: &str = "\
Examples:
  event-handler dead list                            the newest 100, of all services
  event-handler dead list --service eliza --limit 10
  event-handler dead list --json | jq -r .event_id   one JSON object a line";

const REDRIVE_EXAMPLES: &str = "\
Examples:
  event-handler dead redrive --service eliza --dry-run                  how many would be tried again
  event-handler dead redrive --service eliza                            all of one service
  event-handler dead redrive --event-id 4711                            one event, at all services where it is dead
  event-handler dead redrive --since 2026-01-31T12:00:00Z --event-name 'order.>'

What is given must all fit. The deliveries get their attempts anew, at a measured pace behind live traffic.";

/// What to do.
#[derive(Debug, Args)]
pub struct DeadArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print dead deliveries, the newest first.
    List(ListArgs),
    /// Have dead deliveries tried again.
    Redrive(RedriveArgs),
}

#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
struct ListArgs {
    /// Only those of this service.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Most deliveries to print, 1 to 1000.
    #[arg(long, value_name = "COUNT")]
    limit: Option<String>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Args)]
#[command(after_help = REDRIVE_EXAMPLES)]
struct RedriveArgs {
    /// Only those of this service.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only those of this event.
    #[arg(long, value_name = "ID")]
    event_id: Option<i64>,
    /// Only of events published from this time on (RFC 3339, such as 2026-01-31T12:00:00Z).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only of events published up to this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only of events of this name or pattern; may be repeated.
    #[arg(long, value_name = "NAME|PATTERN")]
    event_name: Vec<String>,
    /// Count them, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Prints or redrives.
pub fn run(args: &DeadArgs, config: &Config) -> Result<(), Failure> {
    match &args.command {
        Command::List(args) => list(args, config),
        Command::Redrive(args) => redrive(args, config),
    }
}

fn list(args: &ListArgs, config: &Config) -> Result<(), Failure> {
    let api = ApiClient::new(args.target.resolve_admin(config)?);
    let mut query = Serializer::new("state=dead".to_owned());
    for (name, value) in [("service", &args.service), ("limit", &args.limit)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let path = format!("/admin/deliveries?{}", query.finish());
    let dead = actix_rt::System::new().block_on(api.list(&path, false))?;
    let columns = [
        ("EVENT", "event_id"),
        ("NAME", "event_name"),
        ("SERVICE", "service"),
        ("ATTEMPTS", "attempts"),
        ("REASON", "dead_reason"),
        ("SINCE", "finished_at"),
        ("LAST ERROR", "last_error"),
    ];
    table::list(&dead, args.json, "no delivery is dead", columns)
}

fn redrive(args: &RedriveArgs, config: &Config) -> Result<(), Failure> {
    let api = ApiClient::new(args.target.resolve_admin(config)?);
    let RedriveArgs { service, event_id, since, until, event_name, dry_run, target: _ } = args;
    let mut fields = Map::new();
    for (field, text) in [("service", service), ("since", since), ("until", until)] {
        if let Some(text) = text {
            fields.insert(field.into(), text.as_str().into());
        }
    }
    if let Some(id) = event_id {
        fields.insert("event_id".into(), (*id).into());
    }
    if !event_name.is_empty() {
        fields.insert("event_name".into(), event_name.clone().into());
    }
    if fields.is_empty() {
        return Err(Failure::Usage("say which: --service, --event-id, --since, --until or --event-name".into()));
    }
    fields.insert("dry_run".into(), (*dry_run).into());
    let body = Value::Object(fields).to_string().into_bytes();
    let answer = actix_rt::System::new().block_on(api.post("/admin/deliveries/redrive", body))?;
    job::tell(&api.data(answer)?, ["redriving", "redriven"], "no such delivery is dead")
}
