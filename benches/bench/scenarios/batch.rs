use std::io;
use std::time::Duration;

use super::store::Batches;
use super::{Counted, closed_loop_row};
use crate::Bench;
use crate::load::http::{Limits, closed_loop};
use crate::peers::Subject;
use crate::report::Row;

const CONNECTIONS: usize = 4;
const MOST: u64 = 5_000;

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let system = subject.start(bench)?;
    let mut batches = Batches::new(system.addr);
    let warm_up = Limits { duration: Duration::from_millis(500), requests: 100 };
    closed_loop(&system, bench.clock, CONNECTIONS, &warm_up, &mut batches)?;
    let limits = Limits { duration: bench.duration, requests: MOST };
    let outcome = closed_loop(&system, bench.clock, CONNECTIONS, &limits, &mut batches)?;
    Ok(vec![closed_loop_row("batches of 1,000", outcome, Counted::events(Batches::EVENTS))])
}
