//! The command line.

mod health;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError, LoadArgs, process_environment};
use crate::serve::{self, ServeError};
use crate::storage;
use crate::telemetry::logging;

/// Exit code for a configuration that cannot be used (`EX_CONFIG` of sysexits.h).
const EXIT_CONFIG: u8 = 78;
/// Exit code when the supervisor has given up (`EX_SOFTWARE`).
const EXIT_SOFTWARE: u8 = 70;

/// The central event service between microservices: publish, store, push.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
pub struct Cli {
    /// Configuration file (TOML); see config/default.toml for every key.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one configuration key, for example --set server.port=4301; may be repeated.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    overrides: Vec<(String, String)>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service (the default).
    Serve,
    /// Check the configuration and print what is in effect, secrets hidden.
    CheckConfig,
    /// Bring the database schema up to date, and say what was done.
    Migrate,
    /// Ask a running service whether it is well; exit code 0 if so.
    Health(health::HealthArgs),
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs what the arguments of the process ask for.
pub fn run() -> ExitCode {
    let Cli { config: file, overrides, command } = Cli::parse();
    let config = match Config::load(LoadArgs { file, overrides }, process_environment()) {
        Ok(config) => config,
        Err(error) => return refuse_config(&error),
    };
    match command.unwrap_or(Command::Serve) {
        Command::Serve => serve(config),
        Command::CheckConfig => check_config(&config),
        Command::Migrate => migrate(&config),
        Command::Health(args) => health::run(&args, &config),
    }
}

fn refuse_config(error: &ConfigError) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(EXIT_CONFIG)
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("event-handler: {error}");
    ExitCode::FAILURE
}

fn serve(config: Config) -> ExitCode {
    let log = match logging::init(&config.log, config.is_production()) {
        Ok(log) => log,
        Err(error) => return fail(&error),
    };
    let outcome = actix_rt::System::new().block_on(serve::serve(config));
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(ServeError::Config(error)) => refuse_config(&error),
        Err(error) => {
            log::error!(error:% = error; "ending");
            match error {
                ServeError::Escalated(_) => ExitCode::from(EXIT_SOFTWARE),
                _ => ExitCode::FAILURE,
            }
        }
    };
    log.flush(Duration::from_secs(1));
    code
}

fn check_config(config: &Config) -> ExitCode {
    match serve::store_options(config) {
        Ok(_) => {
            print!("{}", config.to_toml_redacted());
            ExitCode::SUCCESS
        }
        Err(error) => refuse_config(&error),
    }
}

fn migrate(config: &Config) -> ExitCode {
    let options = match serve::store_options(config) {
        Ok(options) => options,
        Err(error) => return refuse_config(&error),
    };
    match storage::migrate(&options) {
        Ok(applied) => {
            for name in &applied {
                println!("applied {name}");
            }
            println!("{}: schema is up to date", options.url);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&format!("{}: {error}", options.url)),
    }
}
