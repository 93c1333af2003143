//! Stores with a history, filled through the front door and kept for all scenarios of a run.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use memchr::memmem;
use tempfile::TempDir;

use super::{Counted, closed_loop_row};
use crate::Bench;
use crate::load::http::{Limits, Workload, closed_loop};
use crate::load::requests;
use crate::peers::Subject;
use crate::report::Row;

const PAYLOAD: usize = 200;

/// The same batch over and over: 100 common names in turn, and one rare event in a thousand.
pub struct Batches(Vec<u8>);

impl Batches {
    pub const EVENTS: u64 = 1_000;
    /// Each has 1 % of the events.
    pub const COMMON_NAME: &str = "bench.k7";
    /// Has 0.1 % of the events.
    pub const RARE_NAME: &str = "bench.rare";

    pub fn new(addr: SocketAddr) -> Self {
        let payload = requests::payload(PAYLOAD);
        let mut body = String::from("[");
        for index in 0..Self::EVENTS {
            let separator = if index == 0 { "" } else { "," };
            let name = match index {
                500 => Self::RARE_NAME.to_owned(),
                _ => format!("bench.k{}", index % 100),
            };
            write!(body, r#"{separator}{{"event_name":"{name}","payload":{payload}}}"#)
                .expect("invariant: writing to a String does not fail");
        }
        body.push(']');
        Self(requests::post(addr, "/publish/batch", body.as_bytes()))
    }
}

impl Workload for Batches {
    fn next(&mut self, _connection: usize, _nanos: u64) -> &[u8] {
        &self.0
    }

    fn check(&mut self, _connection: usize, body: &[u8]) -> Option<String> {
        let is_whole = memmem::find(body, b"\"count\":1000").is_some();
        (!is_whole).then(|| format!("not 1,000 events: {}", String::from_utf8_lossy(body)))
    }
}

/// Filled stores by subject and size.
#[derive(Default)]
pub struct Stores(RefCell<HashMap<(String, u64), Filled>>);

struct Filled {
    directory: TempDir,
    row: Option<Row>,
}

impl Stores {
    /// The directory of a store of at least `events` events, filled the first time it is asked for.
    pub fn filled(&self, bench: &Bench, subject: &Subject, events: u64) -> io::Result<PathBuf> {
        let key = (subject.name.clone(), events);
        if let Some(filled) = self.0.borrow().get(&key) {
            return Ok(filled.directory.path().into());
        }
        let directory = bench.scratch("store")?;
        let row = fill(bench, subject, &directory, events)?;
        let path = directory.path().into();
        self.0.borrow_mut().insert(key, Filled { directory, row: Some(row) });
        Ok(path)
    }

    /// What filling it was like; only once.
    pub fn take_row(&self, subject: &Subject, events: u64) -> Option<Row> {
        self.0.borrow_mut().get_mut(&(subject.name.clone(), events))?.row.take()
    }
}

fn fill(bench: &Bench, subject: &Subject, directory: &TempDir, events: u64) -> io::Result<Row> {
    let system = subject.start_on(bench, directory.path())?;
    let requests = events.div_ceil(Batches::EVENTS);
    let limits = Limits { duration: Duration::from_secs(900), requests };
    let outcome = closed_loop(&system, bench.clock, 4, &limits, &mut Batches::new(system.addr))?;
    if outcome.answered < requests {
        let reason = outcome.faults.first().cloned().unwrap_or_else(|| "too slow".into());
        return Err(io::Error::other(format!("cannot fill the store with {events} events: {reason}")));
    }
    Ok(closed_loop_row("filling it", outcome, Counted::events(Batches::EVENTS)))
}
