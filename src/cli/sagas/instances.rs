//! The instances of a running service: what is printed of them, and what they are told.

use std::collections::BTreeMap;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::cli::api_client::{ApiClient, segment};
use crate::cli::event_line::one_line;
use crate::cli::target::TargetArgs;
use crate::cli::{Failure, output, payload, table};
use crate::config::Config;

/// Which instances.
#[derive(Debug, Args)]
struct FilterArgs {
    /// Of this saga.
    #[arg(long)]
    name: Option<String>,
    /// In this state: queued, running, waiting, compensating, completed, compensated, aborted or needs_operator.
    #[arg(long)]
    state: Option<String>,
    /// With this correlation value, as JSON: 7, or '"a1"' with its quotes.
    #[arg(long, value_name = "JSON", value_parser = json)]
    correlation: Option<Box<RawValue>>,
    /// Made before then (RFC 3339, such as 2026-01-31T12:00:00Z).
    #[arg(long, value_name = "TIME")]
    started_before: Option<String>,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Most instances to print, 1 to 1000; with --all, most to ask for at once.
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

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Id of the instance.
    id: String,
    /// Print it as one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Args)]
pub struct OrderArgs {
    /// Id of the instance; without it, all live ones that the filters select are told.
    #[arg(conflicts_with_all = ["name", "state", "correlation", "started_before", "dry_run"])]
    id: Option<String>,
    /// Why. It is kept in the journal, or in the log.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only count those to which it could be said.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Args)]
pub struct SkipArgs {
    /// What the skipped step has answered, as JSON.
    #[arg(long, value_name = "JSON", value_parser = json)]
    result: Option<Box<RawValue>>,
    #[command(flatten)]
    order: OrderArgs,
}

#[derive(Debug, Args)]
pub struct StartArgs {
    /// Name of the saga.
    name: String,
    /// The payload of the event that it would begin with, as JSON; - reads it from standard input.
    payload: Option<String>,
    /// Repeated with the same key, one instance is begun.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    target: TargetArgs,
}

impl FilterArgs {
    fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let Self { name, state, correlation: _, started_before } = self;
        let texts = [("name", name), ("state", state), ("started_before", started_before)];
        texts.into_iter().filter_map(|(field, text)| Some((field, text.as_deref()?)))
    }

    /// As parameters of a query.
    fn query(&self, limit: u32) -> String {
        let correlation = self.correlation.as_ref().map(|value| ("correlation", value.get()));
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.texts().chain(correlation));
        query.append_pair("limit", &limit.to_string()).finish()
    }

    /// As fields of a body, each with its JSON text.
    fn fields(&self) -> BTreeMap<&'static str, String> {
        let correlation = self.correlation.as_ref().map(|value| ("correlation", value.get().to_owned()));
        self.texts().map(|(field, text)| (field, Value::from(text).to_string())).chain(correlation).collect()
    }
}

fn body(fields: &BTreeMap<&'static str, String>) -> Vec<u8> {
    let members: Vec<String> = fields.iter().map(|(field, json)| format!(r#""{field}":{json}"#)).collect();
    format!("{{{}}}", members.join(",")).into_bytes()
}

pub fn list(args: &ListArgs, config: &Config) -> Result<(), Failure> {
    let ListArgs { filter, limit, all, json, target } = args;
    let api = ApiClient::new(target.resolve_admin(config)?);
    let found = actix_rt::System::new().block_on(api.list(&format!("/sagas?{}", filter.query(*limit)), *all))?;
    let columns = [
        ("ID", "id"),
        ("SAGA", "name"),
        ("VERSION", "version"),
        ("VALUE", "correlation"),
        ("STATE", "state"),
        ("PAUSED", "paused"),
        ("BEGUN", "started_at"),
        ("CHANGED", "updated_at"),
    ];
    table::list(&found, *json, "there are no such instances", columns)
}

/// An instance.
#[derive(Deserialize)]
struct Shown {
    name: String,
    version: u32,
    correlation: Box<RawValue>,
    state: String,
    paused: bool,
    started_at: Option<String>,
    deadline_at: Option<String>,
    error: Option<String>,
    steps: Vec<Box<RawValue>>,
    waiting_for: Vec<Box<RawValue>>,
    journal: Vec<Box<RawValue>>,
}

pub fn show(args: &ShowArgs, config: &Config) -> Result<(), Failure> {
    let ShowArgs { id, json, target } = args;
    let api = ApiClient::new(target.resolve_admin(config)?);
    let answer = actix_rt::System::new().block_on(api.get(&format!("/sagas/{}", segment(id))))?;
    let shown: Box<RawValue> = api.data(answer)?;
    if *json {
        return output::print(one_line(shown.get()));
    }
    let wrong = |error: serde_json::Error| Failure::Failed(format!("the answer cannot be read: {error}"));
    let Shown {
        name,
        version,
        correlation,
        state,
        paused,
        started_at,
        deadline_at,
        error,
        steps,
        waiting_for,
        journal,
    } = serde_json::from_str(shown.get()).map_err(wrong)?;
    let (paused, correlation) = (if paused { ", paused" } else { "" }, one_line(correlation.get()));
    output::print(format_args!("{name} version {version}, {correlation}: {state}{paused}"))?;
    let [begun, deadline] = [&started_at, &deadline_at].map(|at| at.as_deref().unwrap_or("-"));
    output::print(format_args!("begun {begun}, deadline {deadline}"))?;
    if let Some(error) = error {
        output::print(format_args!("its journal cannot be read: {error}"))?;
    }
    output::print("")?;
    let columns =
        [("STEP", "name"), ("STATE", "state"), ("ATTEMPTS", "attempts"), ("BEGUN", "started_at"), ("ERROR", "error")];
    table::list(&steps, false, "its steps are not known", columns)?;
    if !waiting_for.is_empty() {
        output::print("")?;
        let columns = [("STEP", "step"), ("WAITS FOR", "for"), ("EVENT", "event"), ("UNTIL", "until")];
        table::list(&waiting_for, false, "", columns)?;
    }
    output::print("")?;
    let columns = [
        ("N", "n"),
        ("AT", "at"),
        ("WHAT", "kind"),
        ("STEP", "step"),
        ("VERB", "verb"),
        ("OUTCOME", "outcome"),
        ("STATE", "state"),
        ("REASON", "reason"),
        ("ERROR", "error"),
    ];
    table::list(&journal, false, "its journal is empty", columns)
}

/// An instance that was told something.
#[derive(Deserialize)]
struct Told {
    state: String,
}

/// Of many: how many were told, and how many it does not fit.
#[derive(Deserialize)]
struct ToldMany {
    count: u64,
    unfit: u64,
    /// Where it goes on.
    next: Option<String>,
}

#[derive(Deserialize)]
struct Begun {
    id: String,
}

pub fn skip(args: &SkipArgs, config: &Config) -> Result<(), Failure> {
    tell("skip", &args.order, args.result.as_deref(), config)
}

/// Tells one instance, or many.
pub fn order(verb: &str, args: &OrderArgs, config: &Config) -> Result<(), Failure> {
    tell(verb, args, None, config)
}

fn tell(
    verb: &str,
    OrderArgs { id, reason, filter, dry_run, target }: &OrderArgs,
    result: Option<&RawValue>,
    config: &Config,
) -> Result<(), Failure> {
    let mut fields = filter.fields();
    if id.is_none() && fields.is_empty() {
        return Err(Failure::Usage(
            "name an instance by its id, or many by --name, --state, --correlation or --started-before".to_owned(),
        ));
    }
    fields.insert("reason", Value::from(reason.as_str()).to_string());
    fields.extend(result.map(|result| ("result", result.get().to_owned())));
    let api = ApiClient::new(target.resolve_admin(config)?);
    let system = actix_rt::System::new();
    if let Some(id) = id {
        let path = format!("/sagas/{}/{verb}", segment(id));
        let told: Told = api.data(system.block_on(api.post(&path, body(&fields)))?)?;
        return output::print(format_args!("{id} is {}", told.state));
    }
    fields.insert("dry_run", dry_run.to_string());
    let (mut count, mut unfit) = (0, 0);
    loop {
        let told = system.block_on(api.post(&format!("/admin/sagas/{verb}"), body(&fields)))?;
        let told: ToldMany = api.data(told)?;
        (count, unfit) = (count + told.count, unfit + told.unfit);
        match told.next {
            Some(next) => fields.insert("after", Value::from(next).to_string()),
            None => break,
        };
    }
    let done = if *dry_run { "would be told" } else { "told" };
    output::print(format_args!("{count} {done}, {unfit} in a state that it does not fit"))
}

pub fn start(args: &StartArgs, config: &Config) -> Result<(), Failure> {
    let StartArgs { name, payload, idempotency_key, target } = args;
    let payload = payload::read(payload.as_deref())?;
    let body = payload.map_or_else(|| "{}".to_owned(), |payload| format!(r#"{{"payload":{}}}"#, payload.get()));
    let api = ApiClient::new(target.resolve_admin(config)?);
    let key = idempotency_key.clone().map(|key| ("Idempotency-Key", key));
    let path = format!("/sagas/{}/start", segment(name));
    let begin = api.send_if(actix_web::http::Method::POST, &path, body.into_bytes(), key);
    let begun: Begun = api.data(actix_rt::System::new().block_on(begin)?)?;
    output::print(begun.id)
}

fn json(text: &str) -> Result<Box<RawValue>, serde_json::Error> {
    serde_json::from_str(text)
}
