//! `event-handler state`: the newest value of each entity.

use actix_web::http::Method;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::api_client::{ApiClient, segment};
use super::tail::TailArgs;
use super::target::TargetArgs;
use super::{Failure, output, payload, table, tail};
use crate::config::Config;
use crate::domain::event::EventId;

const EXAMPLES: &str = "\
Examples:
  event-handler state                                   the types, with how many entities each has
  event-handler state list auction --prefix eu-         the first 100 of a type, in the order of their keys
  event-handler state get auction a1                    one, as JSON
  event-handler state put auction a1 '{\"bid\":5}' --if-version 57
  event-handler state delete auction a1
  event-handler state watch auction                     all of a type, and then every change
  event-handler state digest auction --as-of 4711       to be compared with another digest

The version of an entity is the id of the event that made it.";

/// What to do; without a command, the types are printed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct StateArgs {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print one entity.
    Get {
        #[command(flatten)]
        entity: EntityArgs,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Store a value.
    Put {
        #[command(flatten)]
        entity: EntityArgs,
        /// The value as JSON; - reads it from standard input.
        value: Option<String>,
        #[command(flatten)]
        condition: ConditionArgs,
        /// Only if there is no such entity.
        #[arg(long, conflicts_with = "if_version")]
        new: bool,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Delete an entity.
    Delete {
        #[command(flatten)]
        entity: EntityArgs,
        #[command(flatten)]
        condition: ConditionArgs,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Print the entities of a type in the order of their keys.
    List {
        /// The type.
        kind: String,
        /// How their keys begin.
        #[arg(long, default_value = "")]
        prefix: String,
        /// Most entities to print, 1 to 1000; with --all, most to ask for at once.
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
    },
    /// Print all entities of a type, one JSON object a line, and then every change as it is made.
    Watch {
        /// The type.
        kind: String,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Print the digest of a type.
    Digest {
        /// The type.
        kind: String,
        /// As of the event with this id, and not as of now.
        #[arg(long, value_name = "ID")]
        as_of: Option<EventId>,
        /// Number of buckets: a power of two up to 65536.
        #[arg(long, default_value_t = 256)]
        buckets: u32,
        #[command(flatten)]
        target: TargetArgs,
    },
}

#[derive(Debug, Args)]
struct EntityArgs {
    /// Its type.
    kind: String,
    /// Its key.
    key: String,
}

#[derive(Debug, Args)]
struct ConditionArgs {
    /// Only if this is its version.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<EventId>,
    /// Who changes it.
    #[arg(long)]
    source: Option<String>,
}

impl EntityArgs {
    fn path(&self) -> String {
        format!("/state/{}/{}", segment(&self.kind), segment(&self.key))
    }

    fn changed_by(&self, condition: &ConditionArgs) -> String {
        let source = condition.source.as_ref().map(|source| format!("?source={}", segment(source)));
        self.path() + &source.unwrap_or_default()
    }
}

impl ConditionArgs {
    fn header(&self) -> Option<(&'static str, String)> {
        self.if_version.map(|version| ("If-Match", format!("\"{version}\"")))
    }
}

#[derive(Deserialize)]
struct Page {
    as_of: EventId,
    entities: Vec<Box<RawValue>>,
}

/// Does what is asked.
pub fn run(args: &StateArgs, config: &Config) -> Result<(), Failure> {
    let connect = |target: &TargetArgs| Ok::<_, Failure>(ApiClient::new(target.resolve(config)?));
    let system = actix_rt::System::new();
    match &args.command {
        None => {
            let types = system.block_on(connect(&args.target)?.list("/state", false))?;
            table::list(&types, args.json, "there are no entities", [("TYPE", "type"), ("ENTITIES", "count")])
        }
        Some(Command::Get { entity, target }) => {
            let api = connect(target)?;
            let answer = system.block_on(api.get(&entity.path()))?;
            output::print(api.data::<Box<RawValue>>(answer)?)
        }
        Some(Command::Put { entity, value, condition, new, target }) => {
            let Some(value) = payload::read(value.as_deref())? else {
                return Err(Failure::Usage("give the value as JSON".to_owned()));
            };
            let header = if *new { Some(("If-None-Match", "*".to_owned())) } else { condition.header() };
            let api = connect(target)?;
            let path = entity.changed_by(condition);
            let put = api.send_if(Method::PUT, &path, value.get().as_bytes().to_vec(), header);
            output::print(api.data::<Box<RawValue>>(system.block_on(put)?)?)
        }
        Some(Command::Delete { entity, condition, target }) => {
            let api = connect(target)?;
            let path = entity.changed_by(condition);
            let delete = api.send_if(Method::DELETE, &path, Vec::new(), condition.header());
            output::print(api.data::<Box<RawValue>>(system.block_on(delete)?)?)
        }
        Some(Command::List { kind, prefix, limit, all, json, target }) => {
            let path = format!("/state/{}?prefix={}&limit={limit}", segment(kind), segment(prefix));
            let (entities, _) = system.block_on(pages(&connect(target)?, path, *all))?;
            let columns = [("KEY", "key"), ("VERSION", "version"), ("CHANGED", "updated_at"), ("VALUE", "value")];
            table::list(&entities, *json, "there are no such entities", columns)
        }
        Some(Command::Watch { kind, target }) => {
            let (entities, as_of) =
                system.block_on(pages(&connect(target)?, format!("/state/{}?limit=1000", segment(kind)), true))?;
            drop(system);
            entities.iter().try_for_each(output::print)?;
            tail::run(&TailArgs::of_changes(kind, as_of, target.clone()), config)
        }
        Some(Command::Digest { kind, as_of, buckets, target }) => {
            let as_of = as_of.map(|as_of| format!("&as_of={as_of}")).unwrap_or_default();
            let api = connect(target)?;
            let answer =
                system.block_on(api.get(&format!("/state/{}/digest?buckets={buckets}{as_of}", segment(kind))))?;
            output::print(api.data::<Box<RawValue>>(answer)?)
        }
    }
}

/// The entities of all pages, or of the first, and as of which event they are.
async fn pages(api: &ApiClient, path: String, all: bool) -> Result<(Vec<Box<RawValue>>, EventId), Failure> {
    let (mut entities, mut as_of, mut next) = (Vec::new(), 0, Some(path));
    while let Some(path) = next {
        let answer = api.get(&path).await?.success()?;
        next = answer.next_page(&path).filter(|_| all);
        let page: Page = api.data(answer)?;
        as_of = page.as_of;
        entities.extend(page.entities);
    }
    Ok((entities, as_of))
}
