//! The benchmark: starts the release binary on one core, loads it from another, and prints what it cost.
//!
//! `cargo bench --bench bench -- --help` names scenarios and options; `docs/benchmarks.md` tells what the figures mean.

mod load;
mod peers;
mod proc;
mod report;
mod scenarios;
mod system;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::json;
use tempfile::TempDir;

use load::Clock;
use peers::Subject;
use proc::Cores;
use report::{Machine, Report};
use scenarios::{Scenario, Stores};

const NAME: &str = "event-handler";
const BINARY: &str = env!("CARGO_BIN_EXE_event-handler");
const OTHER: &str = "compared";

/// Enough for 5,000 connections on either side.
const OPEN_FILES: u64 = 16_384;

/// Enough for a full page of the rarest name.
const LEAST_HISTORY: u64 = 100_000;

/// Measures the Event Handler under load.
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Scenarios to run; all without any
    scenarios: Vec<String>,
    /// List the scenarios and end
    #[arg(long)]
    list: bool,
    /// Also measure other systems: nginx with nchan, and Node with Redis
    #[arg(long)]
    peers: bool,
    /// Also measure another build of the Event Handler, in alternation
    #[arg(long, value_name = "BINARY")]
    compare: Option<PathBuf>,
    /// How often to repeat each scenario; medians are reported [default: 3 with --compare, else 1]
    #[arg(long)]
    rounds: Option<u32>,
    /// Seconds of load for each figure
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Events in the large store; at least 100,000
    #[arg(long, default_value_t = 5_000_000)]
    history: u64,
    /// Half a second of load and a store of 100,000 events: tells whether everything runs, not how fast
    #[arg(long)]
    quick: bool,
    /// Where stores and peers are put; wants to be on the disk that is meant [default: the target directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where to write the report [default: bench.json in the target directory]
    #[arg(long)]
    json: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// What all scenarios share.
pub struct Bench {
    pub clock: Clock,
    pub cores: Cores,
    pub duration: Duration,
    pub history: u64,
    pub directory: PathBuf,
    pub stores: Stores,
}

impl Bench {
    fn new(arguments: &Arguments) -> io::Result<Self> {
        let directory = arguments.dir.clone().unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
        std::fs::create_dir_all(&directory)?;
        let cores = Cores::choose()?;
        cores.pin_client()?;
        let seconds = if arguments.quick { 0.5 } else { arguments.seconds.clamp(0.1, 60.0) };
        Ok(Self {
            clock: Clock::start(),
            cores,
            duration: Duration::from_secs_f64(seconds),
            history: if arguments.quick { LEAST_HISTORY } else { arguments.history.max(LEAST_HISTORY) },
            directory: directory.canonicalize()?,
            stores: Stores::default(),
        })
    }

    /// Whether only a trial was asked for.
    pub fn is_quick(&self) -> bool {
        self.history == LEAST_HISTORY
    }

    /// A directory of its own for one server.
    pub fn scratch(&self, name: &str) -> io::Result<TempDir> {
        tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(&self.directory)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        scenarios::ALL.iter().for_each(|scenario| println!("{:<10} {}", scenario.name, scenario.about));
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(faults) => {
            eprintln!("{faults} faults, marked with !! above");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the number of faults.
fn run(arguments: &Arguments) -> io::Result<usize> {
    let selected = select(&arguments.scenarios)?;
    let bench = Bench::new(arguments)?;
    let machine = Machine::describe(&bench.directory);
    let subjects = subjects(arguments);
    let rounds = arguments.rounds.unwrap_or(if arguments.compare.is_some() { 3 } else { 1 }).max(1);
    let open_files = rlimit::increase_nofile_limit(OPEN_FILES)?;
    machine.print();
    println!(
        "load: {} s for each figure, rounds: {rounds}, server on core {}, load generator on core {}",
        bench.duration.as_secs_f64(),
        bench.cores.server,
        bench.cores.client
    );
    if !bench.cores.are_distinct() {
        println!("WARNING: one core for both sides; the figures mean little");
    }
    if open_files < OPEN_FILES {
        println!("WARNING: only {open_files} open files are allowed; the larger audiences will fail");
    }
    let mut report = Report::default();
    for scenario in selected {
        println!("\n== {}: {}", scenario.name, scenario.about);
        for round in 0..rounds as usize {
            for index in 0..subjects.len() {
                let subject = &subjects[(index + round) % subjects.len()];
                if (scenario.takes)(subject) {
                    eprintln!("   … {} round {}", subject.name, round + 1);
                    report.add(scenario.name, subject, (scenario.run)(&bench, subject));
                }
            }
        }
        report.print(scenario.name, NAME);
    }
    let default_json = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench.json");
    let path = arguments.json.clone().unwrap_or_else(default_json);
    let load = json!({"seconds": bench.duration.as_secs_f64(), "rounds": rounds, "history": bench.history});
    report.write_json(&path, &machine, &subjects, &load)?;
    println!("\nwritten to {}", path.display());
    Ok(report.faults())
}

fn select(names: &[String]) -> io::Result<Vec<&'static Scenario>> {
    if names.is_empty() {
        return Ok(scenarios::ALL.iter().collect());
    }
    let find = |name: &String| scenarios::ALL.iter().find(|scenario| scenario.name == name);
    names
        .iter()
        .map(|name| find(name).ok_or_else(|| io::Error::other(format!("no scenario '{name}'; --list names them"))))
        .collect()
}

/// Everything to measure, described on the way.
fn subjects(arguments: &Arguments) -> Vec<Subject> {
    let binary = Path::new(BINARY);
    let mut subjects = vec![Subject::event_handler(NAME, binary)];
    subjects.extend(arguments.compare.as_deref().map(|other| Subject::event_handler(OTHER, other)));
    let (others, hints) = Subject::others(binary, arguments.peers);
    subjects.extend(others);
    for Subject { name, version, keeps, .. } in &subjects {
        println!("system: {name}: {version}; an answered publish is {keeps}");
    }
    hints.iter().for_each(|hint| println!("{hint}"));
    subjects
}
