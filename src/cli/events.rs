//! `event-handler events`: what is stored.

use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;
use url::form_urlencoded::Serializer;

use super::api_client::{Answer, ApiClient};
use super::event_line::event_line;
use super::target::TargetArgs;
use super::{Failure, output};
use crate::config::Config;

/// Events asked for at once when all are wanted.
const PAGE: &str = "1000";

const EXAMPLES: &str = "\
Examples:
  event-handler events                             the newest 100
  event-handler events user.created 'order.>'      of these names and patterns
  event-handler events --since 2026-01-31T12:00:00Z --source crm --limit 10
  event-handler events 'order.>' --after 4711 --all --json > orders.ndjson

Without --after these are the newest matching events; --all goes through all of them, page by page.";

/// Which events, and how they are printed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct EventsArgs {
    /// Names or patterns; without any, all events but the service's own.
    #[arg(value_name = "NAME|PATTERN")]
    names: Vec<String>,
    /// Only events after the one with this id.
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Only events before the one with this id.
    #[arg(long, value_name = "ID")]
    before: Option<String>,
    /// Only events from this time on (RFC 3339, such as 2026-01-31T12:00:00Z).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only events up to this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only events of this source.
    #[arg(long)]
    source: Option<String>,
    /// Only events with this ordering key.
    #[arg(long)]
    key: Option<String>,
    /// Only events in this state of delivery: processed, pending or failed.
    #[arg(long)]
    status: Option<String>,
    /// Most events to print, 1 to 1000; with --all, most to ask for at once.
    #[arg(long, value_name = "COUNT")]
    limit: Option<String>,
    /// asc (oldest first) or desc.
    #[arg(long)]
    order: Option<String>,
    /// Go on through every page.
    #[arg(long)]
    all: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

/// Prints the events.
pub fn run(args: &EventsArgs, config: &Config) -> Result<(), Failure> {
    let api = ApiClient::new(args.target.resolve(config)?);
    actix_rt::System::new().block_on(async {
        let mut next = Some(format!("/events?{}", query(args)));
        while let Some(path) = next {
            let answer = api.get(&path).await?.success()?;
            print_page(&api, &answer, args.json)?;
            next = answer.next_page(&path).filter(|_| args.all);
        }
        Ok(())
    })
}

fn query(args: &EventsArgs) -> String {
    let EventsArgs { names, after, before, since, until, source, key, status, limit, order, all, json: _, target: _ } =
        args;
    let mut query = Serializer::new(String::new());
    query.extend_pairs(names.iter().map(|name| ("event_name", name)));
    let descending = order.as_deref() == Some("desc");
    // Ascending, all events begin with the first; without a cursor it would be the newest page.
    let after = after.as_deref().or_else(|| (*all && !descending).then_some("0"));
    let limit = limit.as_deref().or_else(|| all.then_some(PAGE));
    let parameters = [
        ("after", after),
        ("before", before.as_deref()),
        ("since", since.as_deref()),
        ("until", until.as_deref()),
        ("source", source.as_deref()),
        ("key", key.as_deref()),
        ("status", status.as_deref()),
        ("limit", limit),
        ("order", order.as_deref()),
    ];
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

fn print_page(api: &ApiClient, answer: &Answer, as_json: bool) -> Result<(), Failure> {
    let page: Page<'_> = serde_json::from_slice(&answer.body)
        .map_err(|error| Failure::Failed(format!("{} is not an Event Handler: {error}", api.target().base())))?;
    for event in page.data {
        let (_, line) = event_line(event.get(), as_json).map_err(Failure::failed)?;
        output::print(line)?;
    }
    Ok(())
}
