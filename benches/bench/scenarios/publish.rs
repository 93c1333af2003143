use std::io;
use std::time::Duration;

use super::{Counted, closed_loop_row};
use crate::Bench;
use crate::load::http::{Limits, Workload, closed_loop};
use crate::load::requests::Stamped;
use crate::peers::Subject;
use crate::report::Row;
use crate::system::System;

const PAYLOAD: usize = 200;
const MOST: u64 = 2_000_000;

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let system = subject.start(bench)?;
    [64, 256].into_iter().map(|connections| measure(bench, &system, connections)).collect()
}

/// Single publishes on `connections` connections, after a short warm-up.
pub fn measure(bench: &Bench, system: &System, connections: usize) -> io::Result<Row> {
    let mut publishes = Publishes { request: system.publish_request("bench.publish", PAYLOAD), number: 0 };
    let warm_up = Limits { duration: Duration::from_millis(500), requests: MOST };
    closed_loop(system, bench.clock, connections, &warm_up, &mut publishes)?;
    let limits = Limits { duration: bench.duration, requests: MOST };
    let outcome = closed_loop(system, bench.clock, connections, &limits, &mut publishes)?;
    Ok(closed_loop_row(format!("publish, {connections} connections"), outcome, Counted::REQUESTS))
}

struct Publishes {
    request: Stamped,
    number: u64,
}

impl Workload for Publishes {
    fn next(&mut self, _connection: usize, nanos: u64) -> &[u8] {
        self.number += 1;
        self.request.fill(nanos, self.number)
    }
}
