//! The customary build of such a service: Node with express and ws, Redis for pub/sub and a stream.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{fs, io};

use super::{find_program, version_of};
use crate::Bench;
use crate::system::{Dialect, System, free_addr, log_file};

pub const INSTALL: &str = "apt-get install nodejs npm redis-server";

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/node");

pub struct Programs {
    node: PathBuf,
    npm: PathBuf,
    redis: PathBuf,
}

impl Programs {
    pub fn version(&self) -> String {
        format!("node {}, {}", version_of(&self.node, "--version"), version_of(&self.redis, "--version"))
    }
}

pub fn find() -> Option<Programs> {
    Some(Programs { node: find_program("node")?, npm: find_program("npm")?, redis: find_program("redis-server")? })
}

pub fn start(bench: &Bench, programs: &Programs) -> io::Result<System> {
    let home = install(bench, programs)?;
    let scratch = bench.scratch("node")?;
    let (redis_addr, addr) = (free_addr()?, free_addr()?);
    let mut redis = bench.cores.spawn_server(
        Command::new(&programs.redis)
            .args(["--bind", "127.0.0.1", "--port", &redis_addr.port().to_string(), "--dir"])
            .arg(scratch.path())
            .args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""])
            .stdin(Stdio::null())
            .stdout(log_file(scratch.path())?),
    )?;
    redis.await_port(redis_addr)?;
    let began = Instant::now();
    let server = bench.cores.spawn_server(
        Command::new(&programs.node)
            .arg("server.js")
            .current_dir(&home)
            .env("NODE_ENV", "production")
            .env("PORT", addr.port().to_string())
            .env("REDIS_URL", format!("redis://{redis_addr}"))
            .stdin(Stdio::null())
            .stdout(log_file(scratch.path())?)
            .stderr(log_file(scratch.path())?),
    )?;
    System::adopt(addr, Dialect::EventHandler, began, server, vec![redis], scratch)
}

/// Copies the peer's sources below the bench directory and installs its packages there, once.
fn install(bench: &Bench, programs: &Programs) -> io::Result<PathBuf> {
    let home = bench.directory.join("peer-node");
    fs::create_dir_all(&home)?;
    let manifest = fs::read(Path::new(SOURCE).join("package.json"))?;
    let is_installed = home.join("node_modules").is_dir() && fs::read(home.join("package.json")).ok() == Some(manifest);
    for file in ["package.json", "server.js"] {
        fs::copy(Path::new(SOURCE).join(file), home.join(file))?;
    }
    if !is_installed {
        let status = Command::new(&programs.npm)
            .args(["install", "--omit=dev", "--no-package-lock", "--no-audit", "--no-fund", "--silent"])
            .current_dir(&home)
            .status()?;
        if !status.success() {
            fs::remove_file(home.join("package.json"))?;
            return Err(io::Error::other(format!("npm install failed, {status}")));
        }
    }
    Ok(home)
}
