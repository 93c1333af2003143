//! The command line: one file a command.
//!
//! A command reads its arguments, does its work, and returns a [`Failure`] or nothing. What it prints goes through
//! [`output`], so that a closed standard output ends it quietly.

mod api_client;
mod backup;
mod check_config;
mod compact;
mod completions;
mod consumers;
mod dead;
mod drain;
mod event_line;
mod events;
mod explain;
mod health;
mod job;
mod jobs;
mod man;
mod migrate;
mod nodes;
mod output;
mod payload;
mod publish;
mod replay;
mod sagas;
mod schedules;
mod secret;
mod serve;
mod services;
mod sessions;
mod state;
mod sync;
mod system;
mod table;
mod tail;
mod target;
mod token;
mod trace;
mod types;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::config::{Config, ConfigError, LoadArgs, process_environment};

const EXAMPLES: &str = "\
Examples:
  event-handler                                    run the service on http://127.0.0.1:4300
  event-handler --port 8080 --set log.level=debug  the same, elsewhere and more talkative
  event-handler publish user.created '{\"user_id\":\"123\"}'
  event-handler tail 'user.>'                      watch what is published
  event-handler events user.created --limit 10     look back
  event-handler services                           how each downstream service fares
  event-handler dead list                          what could not be delivered
  event-handler trace 4711                         what became of an event
  event-handler explain user.created               whom an event would reach
  event-handler backup /backups/today.db           copy the store, while the service runs

Exit codes:
   0  done
   1  failed; standard error says why
   2  wrong usage
  70  gave up: a part of the service kept failing, or no connection came back in time
  78  the configuration or the store it names cannot be used; one line names where, which key, and the reason";

/// The central event service between microservices: publish, store, push.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    configuration: ConfigurationArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Configuration")]
struct ConfigurationArgs {
    /// Configuration file (TOML); config/default.toml lists every key.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the service: `server.host`.
    #[arg(long, global = true, value_name = "ADDRESS")]
    host: Option<String>,
    /// Port of the service: `server.port`.
    #[arg(long, global = true, value_name = "PORT")]
    port: Option<String>,
    /// Where events are stored: `store.url` (`sqlite:PATH` or `postgres://…`).
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// Sets any one key, such as `--set publish.max_batch=500`; may be repeated.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

impl ConfigurationArgs {
    /// A flag of its own wins over `--set`.
    fn load(self) -> Result<Config, ConfigError> {
        let Self { config: file, host, port, database_url, set } = self;
        let flags = [
            ("--host", "server.host", host),
            ("--port", "server.port", port),
            ("--database-url", "store.url", database_url),
        ];
        let set = set.into_iter().map(|(key, value)| ("--set", key, value));
        let flags = flags.into_iter().filter_map(|(flag, key, value)| Some((flag, key.to_owned(), value?)));
        Config::load(LoadArgs { file, overrides: set.chain(flags).collect() }, process_environment())
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Configured(Box<ConfiguredCommand>),
    /// Print the completions of a shell, such as for `source <(event-handler completions bash)`.
    Completions(completions::CompletionsArgs),
    /// Print the man page, or write one for every command to a folder.
    Man(man::ManArgs),
}

/// The commands that read the configuration.
#[derive(Debug, Subcommand)]
enum ConfiguredCommand {
    /// Run the service (the default).
    Serve,
    /// Publish one event and print its id.
    Publish(publish::PublishArgs),
    /// Print events as they are published, through every reconnection.
    Tail(tail::TailArgs),
    /// Print stored events.
    Events(events::EventsArgs),
    /// Print how each service that events are delivered to fares, or tell one what to do.
    Services(services::ServicesArgs),
    /// Print deliveries that were given up, or have them tried again.
    Dead(dead::DeadArgs),
    /// Send stored events to a service once more.
    Replay(replay::ReplayArgs),
    /// Print redrives and replays, or stop one.
    Jobs(jobs::JobsArgs),
    /// Print what became of an event: who got it, and every attempt.
    Trace(trace::TraceArgs),
    /// Print whom an event would reach, and why not the others.
    Explain(explain::ExplainArgs),
    /// Print events that are to be published later, or take one back.
    Schedules(schedules::SchedulesArgs),
    /// Print or change the newest values of entities.
    State(state::StateArgs),
    /// Print how far services agree with the entities that they keep, compare them, or repair them.
    Sync(sync::SyncArgs),
    /// Print the instances of sagas, tell one what to do, or begin one; check definitions, or try one in virtual time.
    Sagas(sagas::SagasArgs),
    /// Print the catalogue of event types, put one, see what a change would mean, or propose one.
    Types(types::TypesArgs),
    /// Print durable subscriptions, or move or delete one.
    Consumers(consumers::ConsumersArgs),
    /// Print who is connected, or close a connection.
    Sessions(sessions::SessionsArgs),
    /// Show the nodes that share the store, and what each does for all.
    Nodes(nodes::NodesArgs),
    /// Send everybody elsewhere before the node is stopped.
    Drain(drain::DrainArgs),
    /// Print the state of the whole system, or change it.
    System(system::SystemArgs),
    /// Make tokens for clients, or make them void.
    Token(token::TokenArgs),
    /// Make secrets that deliveries are signed with.
    Secret(secret::SecretArgs),
    /// Check the configuration and print what is in effect, secrets hidden.
    CheckConfig,
    /// Bring the database schema up to date, and say what was done.
    Migrate,
    /// Give what is free in the SQLite file back to the file system; the service must not run.
    Compact,
    /// Copy the store to a file, also while the service runs.
    Backup(backup::BackupArgs),
    /// Put a copy in the place of the store, or say that the store was restored.
    Restore(backup::RestoreArgs),
    /// Ask a running service whether it is well; exit code 0 if so.
    Health(health::HealthArgs),
}

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Failed(String),
    #[error("{0}\n\nFor more information, try '--help'.")]
    Usage(String),
    #[error("{0}")]
    GaveUp(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The last line of the log says what.
    #[error("the service ended")]
    Logged { exit_code: u8 },
    /// Nobody reads the output any more (`… | head`): no failure to be told of.
    #[error("standard output was closed")]
    OutputClosed,
}

impl Failure {
    fn failed(reason: impl std::fmt::Display) -> Self {
        Self::Failed(reason.to_string())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::GaveUp(_) => 70, // EX_SOFTWARE of sysexits.h
            Self::Config(_) => 78, // EX_CONFIG
            Self::Logged { exit_code } => *exit_code,
        }
    }

    /// Says it on standard error: an error in the configuration as one line that begins with its origin.
    fn tell(&self) {
        match self {
            Self::OutputClosed | Self::Logged { .. } => {}
            Self::Config(error) => output::say(error),
            Self::Failed(_) | Self::Usage(_) | Self::GaveUp(_) => output::say(format_args!("event-handler: {self}")),
        }
    }
}

/// Runs what the arguments of the process ask for.
pub fn run() -> ExitCode {
    let Cli { configuration, command } = Cli::parse();
    let outcome = match command.unwrap_or_else(|| Command::Configured(Box::new(ConfiguredCommand::Serve))) {
        Command::Configured(command) => run_configured(*command, configuration),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell();
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run_configured(command: ConfiguredCommand, configuration: ConfigurationArgs) -> Result<(), Failure> {
    let config = configuration.clone().load()?;
    match command {
        ConfiguredCommand::Serve => serve::run(config, move || configuration.clone().load()),
        ConfiguredCommand::Publish(args) => publish::run(&args, &config),
        ConfiguredCommand::Tail(args) => tail::run(&args, &config),
        ConfiguredCommand::Events(args) => events::run(&args, &config),
        ConfiguredCommand::Services(args) => services::run(&args, &config),
        ConfiguredCommand::Dead(args) => dead::run(&args, &config),
        ConfiguredCommand::Replay(args) => replay::run(&args, &config),
        ConfiguredCommand::Jobs(args) => jobs::run(&args, &config),
        ConfiguredCommand::Trace(args) => trace::run(&args, &config),
        ConfiguredCommand::Explain(args) => explain::run(&args, &config),
        ConfiguredCommand::Schedules(args) => schedules::run(&args, &config),
        ConfiguredCommand::State(args) => state::run(&args, &config),
        ConfiguredCommand::Sync(args) => sync::run(&args, &config),
        ConfiguredCommand::Sagas(args) => sagas::run(&args, &config),
        ConfiguredCommand::Types(args) => types::run(&args, &config),
        ConfiguredCommand::Consumers(args) => consumers::run(&args, &config),
        ConfiguredCommand::Sessions(args) => sessions::run(&args, &config),
        ConfiguredCommand::Nodes(args) => nodes::run(&args, &config),
        ConfiguredCommand::Drain(args) => drain::run(&args, &config),
        ConfiguredCommand::System(args) => system::run(&args, &config),
        ConfiguredCommand::Token(args) => token::run(&args, &config),
        ConfiguredCommand::Secret(args) => secret::run(&args),
        ConfiguredCommand::CheckConfig => check_config::run(&config),
        ConfiguredCommand::Migrate => migrate::run(&config),
        ConfiguredCommand::Compact => compact::run(&config),
        ConfiguredCommand::Backup(args) => backup::back_up(&args, &config),
        ConfiguredCommand::Restore(args) => backup::restore(&args, &config),
        ConfiguredCommand::Health(args) => health::run(&args, &config),
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
