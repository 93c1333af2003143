//! A running server under test: where it listens, how it is spoken to, which processes it is made of.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::load::requests::{self, Stamped};
use crate::load::ws::{Subscription, Wire};
use crate::proc::{Process, Usage};

/// How publishers and subscribers speak to a server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `POST /publish` and `/ws`, as the Event Handler has it.
    EventHandler,
    /// `POST /pub/<channel>` and `/sub/<channel>,<channel>`.
    Nchan,
}

pub struct System {
    pub addr: SocketAddr,
    pub dialect: Dialect,
    /// From before the start of the server's process to its first answer.
    pub started_in: Duration,
    /// Further nodes, which take their share of the load.
    others: Vec<System>,
    /// The server first, then what it stands on; stopped in this order, before `scratch` goes.
    processes: Vec<Process>,
    scratch: TempDir,
}

impl System {
    /// Waits until `server`, begun at `began`, answers `/health` with a 2xx.
    pub fn adopt(
        addr: SocketAddr,
        dialect: Dialect,
        began: Instant,
        mut server: Process,
        supports: Vec<Process>,
        scratch: TempDir,
    ) -> io::Result<Self> {
        let ready = server.await_ready(Duration::from_micros(200), || is_healthy(addr));
        let started_in = began.elapsed();
        let mut processes = vec![server];
        processes.extend(supports);
        match ready {
            Ok(()) => Ok(Self { addr, dialect, started_in, others: Vec::new(), processes, scratch }),
            Err(error) => Err(io::Error::other(format!("{error}\n{}", log_of(scratch.path())))),
        }
    }

    /// Has others take their share of the load. They end before this one.
    pub fn join(&mut self, others: Vec<Self>) {
        self.others = others;
    }

    /// Where a connection of this number leads to.
    pub fn addr_of(&self, connection: usize) -> SocketAddr {
        match connection % (1 + self.others.len()) {
            0 => self.addr,
            other => self.others[other - 1].addr,
        }
    }

    /// Kills the server without any warning.
    pub fn kill(&mut self) -> io::Result<()> {
        self.processes.remove(0).kill()
    }

    /// Of all processes together.
    pub fn usage(&self) -> io::Result<Usage> {
        let others = self.others.iter().flat_map(|other| &other.processes);
        Usage::of(self.processes.iter().chain(others).map(Process::id))
    }

    /// Of the server alone.
    pub fn server_usage(&self) -> io::Result<Usage> {
        Usage::of(self.processes.first().map(Process::id))
    }

    /// A request that publishes one event with `size` bytes of payload.
    pub fn publish_request(&self, event_name: &str, size: usize) -> Stamped {
        let payload = requests::payload(size);
        let bytes = match self.dialect {
            Dialect::EventHandler => {
                let body = format!(r#"{{"event_name":"{event_name}","payload":{payload}}}"#);
                requests::post(self.addr, "/publish", body.as_bytes())
            }
            Dialect::Nchan => requests::post(self.addr, &format!("/pub/{event_name}"), payload.as_bytes()),
        };
        Stamped::new(bytes)
    }

    pub fn subscription(&self, event_names: &[&str]) -> Subscription {
        let addr = self.addr;
        match self.dialect {
            Dialect::EventHandler => {
                let request = |name| format!(r#"{{"action":"subscribe","event_name":"{name}","id":1}}"#);
                let requests = event_names.iter().map(request).collect();
                Subscription { wire: Wire::WebSocket, addr, target: "/ws".into(), requests }
            }
            Dialect::Nchan => {
                let target = format!("/sub/{}", event_names.join(","));
                Subscription { wire: Wire::WebSocket, addr, target, requests: Vec::new() }
            }
        }
    }

    /// The same by server-sent events; only of the Event Handler.
    pub fn event_stream(&self, event_name: &str) -> Subscription {
        let target = format!("/events/stream?event_name={event_name}");
        Subscription { wire: Wire::EventStream, addr: self.addr, target, requests: Vec::new() }
    }
}

impl Drop for System {
    /// Tells of a server that did not live to be stopped.
    fn drop(&mut self) {
        if let Some(status) = self.processes.first_mut().and_then(Process::ended) {
            eprintln!("the server ended on its own, {status}\n{}", log_of(self.scratch.path()));
        }
    }
}

/// A port that was free a moment ago.
pub fn free_addr() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn is_healthy(addr: SocketAddr) -> bool {
    let answer = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&requests::get(addr, "/health"))?;
        let mut head = [0; 64];
        let count = stream.read(&mut head)?;
        Ok(head[..count].to_vec())
    };
    answer().is_ok_and(|head| head.starts_with(b"HTTP/1.1 2"))
}

/// The file a server's output goes to, for whoever looks for the reason of a failure.
pub fn log_file(directory: &Path) -> io::Result<std::fs::File> {
    std::fs::File::options().create(true).append(true).open(directory.join("output.log"))
}

/// The end of that file.
fn log_of(directory: &Path) -> String {
    let text = std::fs::read_to_string(directory.join("output.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
