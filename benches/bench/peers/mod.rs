//! What can be measured: the Event Handler on its stores, and others for scale.

mod event_handler;
mod nchan;
mod node;
mod postgres;
pub mod redis;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Bench;
use crate::system::System;

/// Something to measure, by name.
pub struct Subject {
    pub name: String,
    /// What an answered publish means.
    pub keeps: &'static str,
    pub version: String,
    kind: Kind,
}

enum Kind {
    Sqlite { binary: PathBuf },
    Postgres { binary: PathBuf, programs: PathBuf },
    Nchan { nginx: PathBuf },
    Node(node::Programs),
}

impl Subject {
    pub fn event_handler(name: &str, binary: &Path) -> Self {
        Self {
            name: name.into(),
            keeps: "committed, fsync (SQLite)",
            version: version_of(binary, "--version"),
            kind: Kind::Sqlite { binary: binary.into() },
        }
    }

    /// Whatever of PostgreSQL and, if asked for, the peers is installed; and a hint for each that is not.
    pub fn others(binary: &Path, with_peers: bool) -> (Vec<Self>, Vec<String>) {
        let (mut found, mut hints) = (Vec::new(), Vec::new());
        let mut add = |name: &str, keeps, install, subject: Option<(String, Kind)>| match subject {
            Some((version, kind)) => found.push(Self { name: name.into(), keeps, version, kind }),
            None => hints.push(format!("left out: {name} (not installed; {install})")),
        };
        let postgres = postgres::find().map(|programs| {
            let version = version_of(&programs.join("postgres"), "--version");
            (version, Kind::Postgres { binary: binary.into(), programs })
        });
        add("on-postgres", "committed, fsync (PostgreSQL)", postgres::INSTALL, postgres);
        if with_peers {
            let nchan = nchan::find().map(|nginx| (version_of(&nginx, "-v"), Kind::Nchan { nginx }));
            add("nchan", "in memory, lost at its end", nchan::INSTALL, nchan);
            let node = node::find().map(|programs| (programs.version(), Kind::Node(programs)));
            add("node-redis", "in memory, fsync within 1 s (Redis)", node::INSTALL, node);
        }
        (found, hints)
    }

    /// Has a durable store that outlives the process and batches: the Event Handler, whatever it stores in.
    pub fn is_event_handler(&self) -> bool {
        matches!(self.kind, Kind::Sqlite { .. } | Kind::Postgres { .. })
    }

    pub fn is_sqlite(&self) -> bool {
        matches!(self.kind, Kind::Sqlite { .. })
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self.kind, Kind::Postgres { .. })
    }

    /// Starts it on an empty store.
    pub fn start(&self, bench: &Bench) -> io::Result<System> {
        match &self.kind {
            Kind::Sqlite { .. } | Kind::Postgres { .. } => self.start_with(bench, &[]),
            Kind::Nchan { nginx } => nchan::start(bench, nginx),
            Kind::Node(programs) => node::start(bench, programs),
        }
    }

    /// Starts the Event Handler on an empty store, with these variables.
    pub fn start_with(&self, bench: &Bench, settings: &[(String, String)]) -> io::Result<System> {
        match &self.kind {
            Kind::Sqlite { binary } => event_handler::start(bench, binary, None, settings),
            Kind::Postgres { binary, programs } => event_handler::start_on_postgres(bench, binary, programs, settings),
            _ => Err(io::Error::other(format!("{} has no such settings", self.name))),
        }
    }

    /// Starts several nodes on one empty database. The last of them has the database, so they are to be dropped in order.
    pub fn start_nodes(&self, bench: &Bench, count: usize, settings: &[(String, String)]) -> io::Result<Vec<System>> {
        match &self.kind {
            Kind::Postgres { binary, programs } => event_handler::start_nodes(bench, binary, programs, count, settings),
            _ => Err(io::Error::other(format!("{} has one node", self.name))),
        }
    }

    /// Starts two nodes of the Event Handler on one empty PostgreSQL, with a Redis or without; none if there is no Redis.
    pub fn start_two(&self, bench: &Bench, with_redis: bool) -> io::Result<Option<[System; 2]>> {
        let Kind::Postgres { binary, programs } = &self.kind else {
            return Err(io::Error::other(format!("{} has one node", self.name)));
        };
        let redis = if with_redis { redis::start(bench)? } else { None };
        if with_redis && redis.is_none() {
            eprintln!("   left out: redis is not installed ({})", redis::INSTALL);
            return Ok(None);
        }
        event_handler::start_two_on_postgres(bench, binary, programs, redis).map(Some)
    }

    /// Starts it on the store in `directory`, which stays; only for those that store in a file.
    pub fn start_on(&self, bench: &Bench, directory: &Path) -> io::Result<System> {
        match &self.kind {
            Kind::Sqlite { binary } => event_handler::start(bench, binary, Some(directory), &[]),
            _ => Err(io::Error::other(format!("{} has no store of its own", self.name))),
        }
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|directory| directory.join(name)).find(|path| path.is_file())
}

fn version_of(program: &Path, flag: &str) -> String {
    let text = Command::new(program).arg(flag).output().map(|output| [output.stdout, output.stderr].concat());
    let text = text.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}
