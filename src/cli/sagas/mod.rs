//! `event-handler sagas`: the instances of a running service, and the tools with which definitions are written.

mod instances;
mod simulate;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use self::instances::{ListArgs, OrderArgs, ShowArgs, SkipArgs, StartArgs};
use super::{Failure, output};
use crate::config::{Config, read_sagas};

const EXAMPLES: &str = r#"Examples:
  event-handler sagas list --state needs_operator       the instances that somebody has to look at
  event-handler sagas show ID                           one: its steps, its journal, and what it waits for
  event-handler sagas retry ID --reason "bank is back"  try again what has failed
  event-handler sagas skip ID --reason "paid by hand" --result '{"receipt":17}'
  event-handler sagas compensate ID --reason "sold out" undo what was done
  event-handler sagas abort ID --reason "a test"        end it as it is; nothing is undone
  event-handler sagas pause --name settle-auction --reason "audit" --dry-run
                                                        without an id: all live ones that the filters select
  event-handler sagas start settle-auction '{"auction_id":7}'
  event-handler sagas check sagas/auction.toml
  event-handler sagas simulate sagas/auction.toml events.ndjson

`check` and `simulate` need no running service; the others are for operators, with the token of `event-handler services`.

For simulate, a line of EVENTS is a JSON object. Each takes effect after the one before it, `after` so long (such as "5m").
  {"event_name":"auction.ended","payload":{"auction_id":7},"after":"10s"}
                                   an event is published: it may begin a saga, or be a reply
  {"step":"transfer","status":503} the next call of this step ends so, after all its tries; `"operation":"compensation"`
                                   is its compensation, `"operation":"probe"` what its probe finds out, `body` the
                                   answer, and no `status` means that nobody knows
  {"after":"1h"}                   time passes

A call of which no line says how it ends is answered 200 with {}. After the last line time passes until nothing is due."#;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SagasArgs {
    #[command(subcommand)]
    command: SagasCommand,
}

#[derive(Debug, Subcommand)]
enum SagasCommand {
    /// Print instances, the newest first.
    List(ListArgs),
    /// Print one instance: its steps, its journal, and what it waits for and until when.
    Show(ShowArgs),
    /// Try again what has failed, or what waits for its next attempt.
    Retry(OrderArgs),
    /// Go on as if what has failed were done, with an answer that you give.
    Skip(SkipArgs),
    /// Undo what was done.
    Compensate(OrderArgs),
    /// End an instance as it is. Nothing is undone.
    Abort(OrderArgs),
    /// Begin no further step. What is under way ends.
    Pause(OrderArgs),
    /// Go on after a pause.
    Resume(OrderArgs),
    /// Begin an instance by hand, and print its id. The trigger's filter does not apply.
    Start(StartArgs),
    /// Check a file of sagas: exit code 78 and one line that names where and why, if one cannot be run.
    Check {
        /// A file with [[sagas]].
        file: PathBuf,
        /// Do not ask for the services to be configured.
        #[arg(long)]
        any_service: bool,
    },
    /// Run the sagas of a file against a file of events, in no time, and print what each would do.
    Simulate {
        /// A file with [[sagas]].
        file: PathBuf,
        /// Events and answers of services, one JSON object a line; `-` is standard input.
        events: PathBuf,
    },
}

pub fn run(args: &SagasArgs, config: &Config) -> Result<(), Failure> {
    match &args.command {
        SagasCommand::List(args) => instances::list(args, config),
        SagasCommand::Show(args) => instances::show(args, config),
        SagasCommand::Retry(args) => instances::order("retry", args, config),
        SagasCommand::Skip(args) => instances::skip(args, config),
        SagasCommand::Compensate(args) => instances::order("compensate", args, config),
        SagasCommand::Abort(args) => instances::order("abort", args, config),
        SagasCommand::Pause(args) => instances::order("pause", args, config),
        SagasCommand::Resume(args) => instances::order("resume", args, config),
        SagasCommand::Start(args) => instances::start(args, config),
        SagasCommand::Check { file, any_service } => {
            let is_service = |name: &str| *any_service || config.services.iter().any(|service| service.name == name);
            for saga in read_sagas(file, is_service)? {
                let (count, version) = (saga.steps.len(), saga.version);
                output::print(format_args!(
                    "{} version {version}: {count} steps, begins with {}",
                    saga.name,
                    saga.trigger.event.as_str()
                ))?;
            }
            Ok(())
        }
        SagasCommand::Simulate { file, events } => simulate::run(read_sagas(file, |_| true)?, events),
    }
}
