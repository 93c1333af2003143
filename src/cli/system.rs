//! `event-handler system`: the state of the whole system.

use actix_web::http::Method;
use clap::Args;
use serde_json::{Map, Value, json};

use super::api_client::ApiClient;
use super::target::TargetArgs;
use super::{Failure, output};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  event-handler system                                      which state it is in, and who is waited for
  event-handler system maintenance --reason upgrade         at once
  event-handler system draining --barrier auction-manager   when that service has acknowledged it
  event-handler system running --barrier eliza --timeout 2m --on-timeout proceed

A change is made when every service of the barrier has taken $sys.system.changing (2xx). A service that answers 4xx, or
the time-out, takes it back. In maintenance, publishes of system.maintenance_refuses are refused; in draining, every node
drains.";

/// What to print or change.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SystemArgs {
    /// The state to change to: running, maintenance or draining. Without it, the present one is printed.
    state: Option<String>,
    /// Why.
    #[arg(long, requires = "state")]
    reason: Option<String>,
    /// Service that has to acknowledge the change; may be given several times, or as a list with commas.
    #[arg(long, requires = "state", value_delimiter = ',')]
    barrier: Vec<String>,
    /// Time for all of them, 30s unless it is given.
    #[arg(long, requires = "state")]
    timeout: Option<String>,
    /// What happens when it is over: revert or proceed.
    #[arg(long, requires = "state")]
    on_timeout: Option<String>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Prints the state, or begins a change.
pub fn run(args: &SystemArgs, config: &Config) -> Result<(), Failure> {
    let api = ApiClient::new(args.target.resolve_admin(config)?);
    let told: Value = actix_rt::System::new().block_on(async {
        let Some(state) = &args.state else { return api.data(api.get("/system").await?) };
        let mut asked =
            Map::from_iter([("state".to_owned(), json!(state)), ("barrier".to_owned(), json!(args.barrier))]);
        let given = [("reason", &args.reason), ("timeout", &args.timeout), ("on_timeout", &args.on_timeout)];
        asked.extend(given.into_iter().filter_map(|(field, value)| Some((field.to_owned(), json!(value.as_ref()?)))));
        let body = Value::Object(asked).to_string().into_bytes();
        api.data(api.send_if(Method::PUT, "/system", body, None).await?)
    })?;
    if args.json {
        return output::print(told);
    }
    let text = |field: &str| told[field].as_str().unwrap_or("-").to_owned();
    let waiting: Vec<&str> = told["waiting_for"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    output::print(format_args!("{} since {} (reason: {})", text("state"), text("since"), text("reason")))?;
    match waiting.is_empty() {
        true => Ok(()),
        false => output::print(format_args!("a change waits for {}", waiting.join(", "))),
    }
}
