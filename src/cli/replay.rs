//! `event-handler replay`: stored events, once more.

use clap::Args;
use serde_json::{Map, Value};

use super::api_client::ApiClient;
use super::target::TargetArgs;
use super::{Failure, job};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  event-handler replay eliza --from 1 --dry-run                   how many events it would get
  event-handler replay eliza --from 4711 --to 4800                these, whether they were delivered before or not
  event-handler replay eliza --since 2026-01-31T12:00:00Z --event-name 'order.>'

What is given must all fit. The service's routes and their filters hold; it goes at a measured pace behind live traffic,
and goes on when the service is restarted. `event-handler jobs` shows how far it is.";

/// What is sent, and to whom.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ReplayArgs {
    /// Name of the service.
    service: String,
    /// From the event with this id on; this or --since must be given.
    #[arg(long, value_name = "ID", required_unless_present = "since")]
    from: Option<i64>,
    /// Up to the event with this id.
    #[arg(long, value_name = "ID")]
    to: Option<i64>,
    /// Only events from this time on (RFC 3339, such as 2026-01-31T12:00:00Z).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only events up to this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only events of this name or pattern; may be repeated.
    #[arg(long, value_name = "NAME|PATTERN")]
    event_name: Vec<String>,
    /// Count them, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Begins it, and prints how much it is.
pub fn run(args: &ReplayArgs, config: &Config) -> Result<(), Failure> {
    let api = ApiClient::new(args.target.resolve_admin(config)?);
    let ReplayArgs { service, from, to, since, until, event_name, dry_run, target: _ } = args;
    let mut fields = Map::from_iter([("service".to_owned(), Value::from(service.as_str()))]);
    for (field, id) in [("from", from), ("to", to)] {
        fields.extend(id.map(|id| (field.to_owned(), id.into())));
    }
    for (field, text) in [("since", since), ("until", until)] {
        fields.extend(text.as_deref().map(|text| (field.to_owned(), text.into())));
    }
    if !event_name.is_empty() {
        fields.insert("event_name".into(), event_name.clone().into());
    }
    fields.insert("dry_run".into(), (*dry_run).into());
    let body = Value::Object(fields).to_string().into_bytes();
    let answer = actix_rt::System::new().block_on(api.post("/admin/replay", body))?;
    job::tell(&api.data(answer)?, ["sending", "sent"], "no such event is for this service")
}
