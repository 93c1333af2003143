//! `event-handler types`: the catalogue of event types of a running service, and the tools with which types are written.

use std::path::PathBuf;

use actix_web::http::Method;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::api_client::{ApiClient, segment};
use super::target::TargetArgs;
use super::{Failure, output, table};
use crate::config::{Config, TypeFile};
use crate::domain::entity::as_judged;
use crate::domain::name::EventName;
use crate::domain::schema::compat::{Compatibility, Reason, compare_texts};
use crate::domain::schema::infer::infer;

const EXAMPLES: &str = "\
Examples:
  event-handler types list                      the catalogue, as a table
  event-handler types show order.made           one type, as JSON
  event-handler types check order.json          what it would mean to put the type of a file
  event-handler types check --local order.json  whether it is one; needs no running service
  event-handler types put order.json            put it
  event-handler types diff order.made 3 4       what is between two versions; without numbers, the two newest
  event-handler types infer order.made > order.json
                                                a proposal, made of the newest stored events

A file has the fields of PUT /event-types/{name} and `name`. `check` exits with 1 if the schema is not compatible or stored
events would fail, and with 78 if the file has no type. `put` is for operators, with the token of `event-handler services`.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TypesArgs {
    #[command(subcommand)]
    command: TypesCommand,
}

#[derive(Debug, Subcommand)]
enum TypesCommand {
    /// Print all types.
    List {
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Print one type as JSON.
    Show {
        name: String,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Put the type of a file.
    Put {
        file: PathBuf,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Say what it would mean to put the type of a file: reasons, and stored events that would fail.
    Check {
        file: PathBuf,
        /// Only read the file.
        #[arg(long)]
        local: bool,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Compare two versions of a type: both ways, and strictly.
    Diff {
        name: String,
        #[arg(requires = "to")]
        from: Option<u32>,
        to: Option<u32>,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Propose a type, made of the newest stored events.
    Infer {
        name: String,
        /// How many events are looked at, at most.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// What a dry run answers.
#[derive(Deserialize)]
struct Preview {
    compatible: bool,
    strictly_compatible: bool,
    reasons: Vec<Value>,
    history: History,
}

#[derive(Deserialize)]
struct History {
    checked: usize,
    failing: Vec<Value>,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
    schema: Box<RawValue>,
}

#[derive(Deserialize)]
struct Published {
    event_name: String,
    payload: Box<RawValue>,
}

pub fn run(args: &TypesArgs, config: &Config) -> Result<(), Failure> {
    let system = actix_rt::System::new();
    match &args.command {
        TypesCommand::List { json, target } => {
            let api = ApiClient::new(target.resolve(config)?);
            let types = system.block_on(api.list("/event-types", false))?;
            let columns = [
                ("NAME", "name"),
                ("VERSION", "version"),
                ("MODE", "mode"),
                ("COMPATIBILITY", "compatibility"),
                ("OWNER", "owner"),
                ("UPDATED", "updated_at"),
            ];
            table::list(&types, *json, "there are no event types", columns)
        }
        TypesCommand::Show { name, target } => {
            let api = ApiClient::new(target.resolve(config)?);
            // As it is written: a number that a binary fraction does not hold must be shown as it is.
            let of: Box<RawValue> = system.block_on(async { api.data(api.get(&path(name)).await?) })?;
            output::print(format_args!("{}", indented(of.get())))
        }
        TypesCommand::Put { file, target } => {
            let (name, body) = read(file)?;
            let api = ApiClient::new(target.resolve_admin(config)?);
            let put = async { api.data(api.send_if(Method::PUT, &path(&name), body, None).await?) };
            let of: Value = system.block_on(put)?;
            output::print(format_args!("{name} version {}", of["version"]))
        }
        TypesCommand::Check { file, local: true, .. } => {
            let (name, _) = read(file)?;
            output::print(format_args!("{name}: a type"))
        }
        TypesCommand::Check { file, local: false, target } => {
            let (name, body) = read(file)?;
            let api = ApiClient::new(target.resolve_admin(config)?);
            let path = path(&name) + "?dry_run=true";
            check(&name, system.block_on(async { api.data(api.send_if(Method::PUT, &path, body, None).await?) })?)
        }
        TypesCommand::Diff { name, from, to, target } => {
            let api = ApiClient::new(target.resolve(config)?);
            let versions: Vec<Version> =
                system.block_on(async { api.data(api.get(&(path(name) + "/versions")).await?) })?;
            diff(name, &versions, from.zip(*to))
        }
        TypesCommand::Infer { name, limit, target } => {
            let api = ApiClient::new(target.resolve(config)?);
            let path = format!("/events?event_name={}&limit={limit}", segment(name));
            let events: Vec<Published> = system.block_on(async { api.data(api.get(&path).await?) })?;
            if events.is_empty() {
                return Err(Failure::Failed(format!("there are no events {name:?} to learn from")));
            }
            let payloads =
                events.iter().map(|Published { event_name, payload }| match EventName::parse(event_name.clone()) {
                    Ok(name) => as_judged(&name, payload.get()),
                    Err(_) => payload.get().into(),
                });
            let payloads: Vec<_> = payloads.collect();
            let (schema, left_out) = infer(payloads.iter().map(|payload| &**payload));
            if left_out > 0 {
                output::say(format_args!(
                    "{left_out} payloads are left out: a number or a text in them cannot be held"
                ));
            }
            print_json(&serde_json::json!({ "name": name, "mode": "observe", "schema": schema }))
        }
    }
}

fn path(name: &str) -> String {
    format!("/event-types/{}", segment(name))
}

/// The name of the type of a file, and its text; the file is known to have one.
fn read(file: &std::path::Path) -> Result<(String, Vec<u8>), Failure> {
    let (of, text) = TypeFile::read(file)?;
    Ok((of.put.name.as_str().to_owned(), text))
}

/// A JSON text with a line for each member and element; nothing else of it changes.
fn indented(json: &str) -> String {
    let (mut text, mut depth, mut is_text, mut is_escaped) = (String::with_capacity(json.len() * 2), 0, false, false);
    let line = |text: &mut String, depth: usize| text.extend(std::iter::once("\n").chain((0..depth).map(|_| "  ")));
    let mut before = ' ';
    for c in json.chars() {
        if is_text {
            is_text = is_escaped || c != '"';
            is_escaped = c == '\\' && !is_escaped;
            text.push(c);
            before = c;
            continue;
        }
        match c {
            ' ' | '\n' | '\r' | '\t' => continue,
            '}' | ']' => {
                depth -= 1;
                if !matches!(before, '{' | '[') {
                    line(&mut text, depth);
                }
            }
            _ if matches!(before, '{' | '[' | ',') => line(&mut text, depth),
            _ => {}
        }
        text.push(c);
        match c {
            '{' | '[' => depth += 1,
            ':' => text.push(' '),
            '"' => is_text = true,
            _ => {}
        }
        before = c;
    }
    text
}

fn print_json(value: &Value) -> Result<(), Failure> {
    output::print(format_args!("{value:#}"))
}

fn check(name: &str, preview: Preview) -> Result<(), Failure> {
    let Preview { compatible, strictly_compatible, reasons, history } = preview;
    let verdict = match (compatible, strictly_compatible) {
        (true, true) => "compatible, also strictly",
        (true, false) => "compatible; strictly not",
        (false, _) => "not compatible",
    };
    output::print(format_args!("{name}: {verdict}"))?;
    for reason in &reasons {
        let text = |member: &str| reason[member].as_str().unwrap_or_default().to_owned();
        output::print(format_args!("  {} ({}): {}", shown(&text("path")), text("rule"), text("message")))?;
        if let Some(witness) = reason.get("witness") {
            output::print(format_args!("    such as {witness}"))?;
        }
    }
    output::print(format_args!("{} of the newest {} events would fail", history.failing.len(), history.checked))?;
    for event in &history.failing {
        // The answer has the errors of as many as have room.
        let Some(first) = event["errors"].get(0) else {
            output::print(format_args!("  {}", event["id"]))?;
            continue;
        };
        let at = shown(first["instance_path"].as_str().unwrap_or_default());
        output::print(format_args!("  {}: {at}: {}", event["id"], first["message"].as_str().unwrap_or_default()))?;
    }
    match compatible && history.failing.is_empty() {
        true => Ok(()),
        false => Err(Failure::Failed(format!("{name} would break something"))),
    }
}

fn shown(pointer: &str) -> String {
    if pointer.is_empty() { "the root".to_owned() } else { pointer.to_owned() }
}

fn diff(name: &str, versions: &[Version], numbers: Option<(u32, u32)>) -> Result<(), Failure> {
    let find = |number: u32| {
        let found = versions.iter().find(|version| version.version == number);
        found.ok_or_else(|| Failure::Failed(format!("{name} has no version {number}")))
    };
    let (from, to) = match (numbers, versions) {
        (Some((from, to)), _) => (find(from)?, find(to)?),
        (None, [.., from, to]) => (from, to),
        (None, _) => return Err(Failure::Failed(format!("{name} has one version only"))),
    };
    for how in [Compatibility::Backward, Compatibility::Forward] {
        let direction = if how == Compatibility::Backward { "backward" } else { "forward" };
        let comparison = compare_texts(from.schema.get(), to.schema.get(), how);
        let verdict = match (comparison.reasons.is_empty(), comparison.strict_reasons.is_empty()) {
            (true, true) => "compatible, also strictly",
            (true, false) => "compatible; strictly not",
            (false, _) => "not compatible",
        };
        output::print(format_args!("{} to {}, {direction}: {verdict}", from.version, to.version))?;
        let reasons = if comparison.reasons.is_empty() { &comparison.strict_reasons } else { &comparison.reasons };
        for Reason { path, rule, message, .. } in reasons {
            output::print(format_args!("  {} ({rule}): {message}", shown(path)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::indented;

    #[test]
    fn a_text_is_indented_as_it_is() {
        let json = r#"{"a": [1e400,{}],"b":"x, \"{\\","c":[ ]}"#;
        let lines = ["{", r#"  "a": ["#, "    1e400,", "    {}", "  ],", r#"  "b": "x, \"{\\","#, r#"  "c": []"#, "}"];
        assert_eq!(indented(json), lines.join("\n"));
    }
}
