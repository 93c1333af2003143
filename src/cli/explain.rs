//! `event-handler explain`: whom an event would reach.

use clap::Args;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::api_client::ApiClient;
use super::event_line::one_line;
use super::table::{self, cell};
use super::target::TargetArgs;
use super::{Failure, output, payload};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  event-handler explain user.created '{\"tier\":\"gold\"}'   services, durable subscriptions and sessions
  event-handler explain user.created < user.json --json

Nothing is stored. Where something waits for a service (paused, its circuit breaker open), that is said too.";

/// The event.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ExplainArgs {
    /// Name of the event, such as user.created.
    name: String,
    /// Payload as JSON text. Without one it is read from standard input, unless that is a terminal; where there is nothing
    /// it is {}. - reads it from there in any case.
    payload: Option<String>,
    /// Who would publish; without one, "api".
    #[arg(long)]
    source: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Prints who would get it, and why not the others.
pub fn run(args: &ExplainArgs, config: &Config) -> Result<(), Failure> {
    let api = ApiClient::new(args.target.resolve_admin(config)?);
    let mut fields = Map::from_iter([("event_name".to_owned(), Value::from(args.name.as_str()))]);
    fields.extend(args.source.as_deref().map(|source| ("source".to_owned(), source.into())));
    let mut body = Value::Object(fields).to_string();
    if let Some(payload) = payload::read(args.payload.as_deref())? {
        body.truncate(body.len() - 1);
        body = format!(r#"{body},"payload":{payload}}}"#);
    }
    let answer = actix_rt::System::new().block_on(api.post("/admin/explain", body.into_bytes()))?;
    let data: Box<RawValue> = api.data(answer)?;
    if args.json {
        return output::print(one_line(data.get()));
    }
    let told: Value = serde_json::from_str(data.get()).map_err(Failure::failed)?;
    let of = |list: &str, kind: &'static str, name: &'static str| {
        let list = told[list].as_array().cloned().unwrap_or_default();
        list.into_iter().map(move |receiver| {
            let gets = if receiver["gets"] == true { "yes" } else { "no" };
            let why = match (&receiver["why_not"], &receiver["waits_for"]) {
                (Value::Null, Value::Null) => String::new(),
                (Value::Null, waits_for) => format!("waits for {}", cell(waits_for)),
                (why_not, _) => cell(why_not),
            };
            [kind.to_owned(), cell(&receiver[name]), gets.to_owned(), why]
        })
    };
    let rows: Vec<_> = of("services", "service", "service").chain(of("durables", "consumer", "durable")).collect();
    if !rows.is_empty() {
        table::print(["RECEIVER", "NAME", "GETS IT", "WHY"], &rows)?;
    }
    let sessions = &told["sessions"];
    output::print(format_args!("sessions: {} get it, {} do not", sessions["count"], sessions["others_count"]))
}
