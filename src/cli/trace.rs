//! `event-handler trace`: what became of an event.

use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::api_client::ApiClient;
use super::event_line::{event_line, one_line};
use super::table::{self, cell};
use super::target::TargetArgs;
use super::{Failure, output};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  event-handler trace 4711          who got it, and every attempt
  event-handler trace 4711 --json   the same as one JSON object";

/// Which event.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TraceArgs {
    /// Its id.
    id: i64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Deserialize)]
struct Trace {
    event: Box<RawValue>,
    pushed_to: Option<u64>,
    deliveries: Vec<Value>,
}

/// Prints it.
pub fn run(args: &TraceArgs, config: &Config) -> Result<(), Failure> {
    let api = ApiClient::new(args.target.resolve(config)?);
    let answer = actix_rt::System::new().block_on(api.get(&format!("/events/{}/trace", args.id)))?;
    let data: Box<RawValue> = api.data(answer)?;
    if args.json {
        return output::print(one_line(data.get()));
    }
    let Trace { event, pushed_to, deliveries } = serde_json::from_str(data.get()).map_err(Failure::failed)?;
    output::print(event_line(event.get(), false).map_err(Failure::failed)?.1)?;
    output::print(match pushed_to {
        Some(count) => format!("pushed to {count} subscribers"),
        None => "to how many subscribers it was pushed is no longer known".to_owned(),
    })?;
    if deliveries.is_empty() {
        return output::print("to be delivered to no service");
    }
    let rows: Vec<[String; 8]> = deliveries.iter().flat_map(rows).collect();
    table::print(["SERVICE", "STATE", "NEXT", "ATTEMPT", "AT", "TOOK", "STATUS", "WHY"], &rows)
}

/// A row for each attempt, the first with what holds of the delivery; or one row alone.
fn rows(delivery: &Value) -> Vec<[String; 8]> {
    let attempts = delivery["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_delivery = |at: usize| -> [String; 3] {
        if at > 0 {
            Default::default()
        } else {
            ["service", "state", "next_attempt_at"].map(|field| cell(&delivery[field]))
        }
    };
    let row = |at: usize, attempt: &Value, why: &Value| {
        let [service, state, next] = of_delivery(at);
        let took = attempt["took_ms"].as_f64().map_or("-".to_owned(), |took| format!("{took:.0}ms"));
        let [number, when, status] = ["attempt", "at", "http_status"].map(|field| cell(&attempt[field]));
        [service, state, next, number, when, took, status, cell(why)]
    };
    match attempts {
        [] => vec![row(0, &Value::Null, &delivery["reason"])],
        attempts => attempts.iter().enumerate().map(|(at, attempt)| row(at, attempt, &attempt["error"])).collect(),
    }
}
