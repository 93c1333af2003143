//! `event-handler services`: how services fare, and what they are told.

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::Value;

use super::api_client::{ApiClient, segment};
use super::table::{self, cell};
use super::target::TargetArgs;
use super::{Failure, output};
use crate::actors::clock::now;
use crate::config::Config;
use crate::domain::event::Timestamp;

const EXAMPLES: &str = "\
Examples:
  event-handler services                         all, as a table
  event-handler services --json | jq .breaker    one JSON object a line
  event-handler services pause stream-manager    send it nothing; what comes is kept
  event-handler services resume stream-manager   send it what was kept, and go on

Columns: breaker (closed, open, half_open, or forced_open and forced_closed by an operator), deliveries in flight,
pending and dead, seconds that the oldest pending has waited, what the next attempt waits for and how long, deliveries
per second, and the last error.

The token is the one of the configuration (admin.token, ADMIN_TOKEN), or the one that the service has made and keeps
beside its data; else give it by EVENT_HANDLER_TOKEN or --token.";

/// What to ask or tell.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServicesArgs {
    /// What to tell the service; without it, all services are printed.
    #[arg(value_enum, requires = "name")]
    command: Option<Command>,
    /// Name of the service.
    name: Option<String>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Command {
    /// Send nothing; keep what comes.
    Pause,
    /// Send again, beginning with what was kept.
    Resume,
    /// Keep its circuit breaker open.
    Open,
    /// Keep its circuit breaker closed, whatever fails.
    Close,
    /// Let its circuit breaker begin anew, closed, and judge by itself.
    Reset,
}

/// Prints all services, or the one that was told something, after that.
pub fn run(args: &ServicesArgs, config: &Config) -> Result<(), Failure> {
    let api = ApiClient::new(args.target.resolve_admin(config)?);
    let Answer { data: services, orphaned } = actix_rt::System::new().block_on(async {
        match (&args.command, &args.name) {
            (Some(command), Some(name)) => {
                let command = command.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
                let told = api.post(&format!("/admin/services/{}/{command}", segment(name)), Vec::new()).await?;
                Ok(Answer { data: vec![api.data(told)?], orphaned: Vec::new() })
            }
            _ => api.whole(api.get("/admin/services").await?),
        }
    })?;
    if args.json {
        return services.iter().try_for_each(output::print);
    }
    for orphan in &orphaned {
        let [name, pending, dead] = ["service", "pending", "dead"].map(|field| cell(&orphan[field]));
        output::say(format!(
            "event-handler: {name} is not configured, but has {pending} pending and {dead} dead deliveries; \
             POST /admin/deliveries/move or /cancel settles them"
        ));
    }
    if services.is_empty() {
        output::say("event-handler: no services are configured; see [[services]] in config/default.toml");
        return Ok(());
    }
    let heading =
        ["SERVICE", "STATE", "BREAKER", "IN FLIGHT", "PENDING", "DEAD", "OLDEST", "NEXT", "RATE", "LAST ERROR"];
    table::print(heading, &services.iter().map(row).collect::<Vec<_>>())
}

/// What the server says of services.
#[derive(Deserialize)]
struct Answer {
    data: Vec<Value>,
    /// Left for services that are not configured.
    #[serde(default)]
    orphaned: Vec<Value>,
}

fn row(service: &Value) -> [String; 10] {
    let state = match service["paused"].as_str() {
        Some(reason) => format!("paused ({reason})"),
        None => cell(&service["state"]),
    };
    let oldest = service["oldest_pending_age_seconds"].as_f64().map_or("-".to_owned(), |age| format!("{age:.0}s"));
    [
        cell(&service["service"]),
        state,
        cell(&service["breaker"]["state"]),
        cell(&service["in_flight"]),
        cell(&service["pending"]),
        cell(&service["dead"]),
        oldest,
        next(service),
        service["rate"].as_f64().map_or("-".to_owned(), |rate| format!("{rate:.0}/s")),
        cell(&service["last_errors"][0]["error"]),
    ]
}

/// What the next attempt waits for, and for how long.
fn next(service: &Value) -> String {
    let why = match service["waits_for"].as_str() {
        None | Some("empty") => return "-".to_owned(),
        Some(why) => why,
    };
    let at = service["next_attempt_at"].as_str().and_then(Timestamp::parse);
    at.map_or(why.to_owned(), |at| format!("{why} {:.0}s", at.since(now()).as_secs_f64().ceil()))
}
