//! A private Redis that keeps nothing.

use std::io;
use std::process::{Command, Stdio};

use super::find_program;
use crate::Bench;
use crate::proc::Process;
use crate::system::free_addr;

pub const INSTALL: &str = "apt-get install redis-server";

/// The server and its URL; none if it is not installed.
pub fn start(bench: &Bench) -> io::Result<Option<(Process, String)>> {
    let Some(program) = find_program("redis-server") else { return Ok(None) };
    let addr = free_addr()?;
    let mut server = bench.cores.spawn_server(
        Command::new(program)
            .args(["--bind", "127.0.0.1", "--port", &addr.port().to_string(), "--save", "", "--appendonly", "no"])
            .current_dir(&bench.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null()),
    )?;
    server.await_port(addr)?;
    Ok(Some((server, format!("redis://{addr}"))))
}
