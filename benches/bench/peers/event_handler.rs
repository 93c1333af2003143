//! The Event Handler itself: this build, or another one to compare with.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use super::postgres;
use crate::Bench;
use crate::proc::Process;
use crate::system::{Dialect, System, free_addr, log_file};

/// Variables of the environment.
type Settings = [(String, String)];

/// Starts on the SQLite file in `store`, or on one that is gone afterwards.
pub fn start(bench: &Bench, binary: &Path, store: Option<&Path>, settings: &Settings) -> io::Result<System> {
    let scratch = bench.scratch("event-handler")?;
    let url = format!("sqlite:{}", store.unwrap_or(scratch.path()).join("bench.db").display());
    launch(bench, binary, &url, scratch, Vec::new(), settings)
}

pub fn start_on_postgres(bench: &Bench, binary: &Path, programs: &Path, settings: &Settings) -> io::Result<System> {
    let database = postgres::start(bench, programs)?;
    launch(bench, binary, &database.url, database.scratch, vec![database.server], settings)
}

/// So many nodes on one database, which the last of them has.
pub fn start_nodes(
    bench: &Bench,
    binary: &Path,
    programs: &Path,
    count: usize,
    settings: &Settings,
) -> io::Result<Vec<System>> {
    let database = postgres::start(bench, programs)?;
    let url = database.url;
    let first = launch(bench, binary, &url, database.scratch, vec![database.server], settings)?;
    let others = (1..count).map(|_| launch(bench, binary, &url, bench.scratch("event-handler")?, Vec::new(), settings));
    others.chain([Ok(first)]).collect()
}

/// Two nodes on one database. What they stand on ends with the first.
pub fn start_two_on_postgres(
    bench: &Bench,
    binary: &Path,
    programs: &Path,
    redis: Option<(Process, String)>,
) -> io::Result<[System; 2]> {
    let database = postgres::start(bench, programs)?;
    let mut supports = vec![database.server];
    let mut settings = Vec::new();
    if let Some((server, url)) = redis {
        supports.push(server);
        settings.push(("REDIS_URL".to_owned(), url));
    }
    let scratch = bench.scratch("event-handler")?;
    let one = launch(bench, binary, &database.url, database.scratch, supports, &settings)?;
    Ok([one, launch(bench, binary, &database.url, scratch, Vec::new(), &settings)?])
}

fn launch(
    bench: &Bench,
    binary: &Path,
    url: &str,
    scratch: TempDir,
    supports: Vec<Process>,
    settings: &Settings,
) -> io::Result<System> {
    let addr = free_addr()?;
    let mut command = Command::new(binary);
    command
        .current_dir(scratch.path())
        .env_clear()
        .env("PORT", addr.port().to_string())
        .env("HOST", addr.ip().to_string())
        .env("DATABASE_URL", url)
        .env("RUST_LOG", "warn")
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log_file(scratch.path())?)
        .stderr(log_file(scratch.path())?);
    let began = Instant::now();
    let server = bench.cores.spawn_server(&mut command)?;
    System::adopt(addr, Dialect::EventHandler, began, server, supports, scratch)
}
