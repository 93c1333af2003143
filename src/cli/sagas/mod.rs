//! `event-handler sagas`: the tools with which definitions are written.

mod simulate;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Failure, output};
use crate::config::{Config, read_sagas};

const EXAMPLES: &str = r#"A line of EVENTS is a JSON object. Each takes effect after the one before it, `after` so long (such as "5m").
  {"event_name":"auction.ended","payload":{"auction_id":7},"after":"10s"}
                                   an event is published: it may begin a saga, or be a reply
  {"step":"transfer","status":503} the next call of this step ends so, after all its tries; `"operation":"compensation"`
                                   is its compensation, `"operation":"probe"` what its probe finds out, `body` the
                                   answer, and no `status` means that nobody knows
  {"after":"1h"}                   time passes

A call of which no line says how it ends is answered 200 with {}. After the last line time passes until nothing is due.

Examples:
  event-handler sagas check sagas/auction.toml
  event-handler sagas simulate sagas/auction.toml events.ndjson"#;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SagasArgs {
    #[command(subcommand)]
    command: SagasCommand,
}

#[derive(Debug, Subcommand)]
enum SagasCommand {
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
