//! A private PostgreSQL for the Event Handler to store in: stock configuration, fsync on.

use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::find_program;
use crate::Bench;
use crate::proc::Process;
use crate::system::{free_addr, log_file};

pub const INSTALL: &str = "apt-get install postgresql";

const PROGRAMS: [&str; 3] = ["initdb", "postgres", "pg_isready"];

/// The directory of the newest server programs.
pub fn find() -> Option<PathBuf> {
    let of_path = find_program("initdb").and_then(|path| Some(path.parent()?.to_path_buf()));
    let mut packaged: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect())
        .unwrap_or_default();
    packaged.sort();
    let has_all = |bin: &PathBuf| PROGRAMS.iter().all(|program| bin.join(program).is_file());
    packaged.into_iter().rev().chain(of_path).find(has_all)
}

pub struct Postgres {
    pub server: Process,
    pub url: String,
    pub scratch: TempDir,
}

pub fn start(bench: &Bench, programs: &Path) -> io::Result<Postgres> {
    let scratch = bench.scratch("postgres")?;
    let user = unprivileged_user();
    let data = scratch.path().join("data");
    if let Some((uid, gid)) = user {
        std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755))?;
        chown(scratch.path(), Some(uid), Some(gid))?;
    }
    let run_as = |program: &str| {
        let mut command = Command::new(programs.join(program));
        command.current_dir(scratch.path()).stdin(Stdio::null());
        if let Some((uid, gid)) = user {
            command.gid(gid).uid(uid);
        }
        command
    };
    let made = run_as("initdb")
        .args(["--auth=trust", "--username=bench", "--encoding=UTF8", "--locale=C", "-D"])
        .arg(&data)
        .stdout(log_file(scratch.path())?)
        .stderr(log_file(scratch.path())?)
        .status()?;
    if !made.success() {
        return Err(io::Error::other(format!("initdb failed, {made}; is the bench directory open to other users?")));
    }
    let addr = free_addr()?;
    let mut server = bench.cores.spawn_server(
        run_as("postgres")
            .args(["-h", "127.0.0.1", "-p", &addr.port().to_string(), "-k", "", "-D"])
            .arg(&data)
            .stdout(log_file(scratch.path())?)
            .stderr(log_file(scratch.path())?),
    )?;
    server.await_ready(Duration::from_millis(20), || {
        let asked = Command::new(programs.join("pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-U", "bench", "-d", "postgres", "-p", &addr.port().to_string()])
            .status();
        asked.is_ok_and(|status| status.success())
    })?;
    Ok(Postgres { server, url: format!("postgres://bench@{addr}/postgres"), scratch })
}

/// PostgreSQL refuses to run as root: then the first of these users runs it.
fn unprivileged_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    ["postgres", "nobody"].into_iter().find_map(|name| {
        let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}
