use std::io;
use std::time::Duration;

use memchr::memmem;

use super::store::Batches;
use super::{Counted, closed_loop_row, publish};
use crate::Bench;
use crate::load::http::{Limits, Workload, closed_loop};
use crate::load::requests;
use crate::peers::Subject;
use crate::report::Row;
use crate::system::System;

const SMALL: u64 = 200_000;
const CONNECTIONS: usize = 16;
const MOST: u64 = 1_000_000;

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut sizes = vec![SMALL.min(bench.history), bench.history];
    sizes.dedup();
    for events in sizes {
        let directory = bench.stores.filled(bench, subject, events)?;
        let system = subject.start_on(bench, &directory)?;
        let mut of_store = vec![
            read(bench, &system, "newest 100", 100, |_| "/events?limit=100".into())?,
            read(bench, &system, "1,000 after an id", 1_000, |random| {
                format!("/events?after={}&limit=1000", random % (events - 1_000))
            })?,
            read(bench, &system, "newest 100 of a name (1 %)", 100, |_| {
                format!("/events?event_name={}&limit=100", Batches::COMMON_NAME)
            })?,
            read(bench, &system, "newest 100 of a name (0.1 %)", 100, |_| {
                format!("/events?event_name={}&limit=100", Batches::RARE_NAME)
            })?,
            read(bench, &system, "one by id", 1, |random| format!("/events/{}", 1 + random % (events - 1)))?,
            publish::measure(bench, &system, 64)?,
        ];
        of_store.extend(bench.stores.take_row(subject, events));
        rows.extend(of_store.into_iter().map(|row| row.prefix(&format!("{events} events: "))));
    }
    Ok(rows)
}

fn read(
    bench: &Bench,
    system: &System,
    case: &str,
    expected: usize,
    target: impl Fn(u64) -> String,
) -> io::Result<Row> {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let requests = (0..256).map(|_| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        requests::get(system.addr, &target(random >> 20))
    });
    let mut reads = Reads { requests: requests.collect(), next: 0, expected };
    let warm_up = Limits { duration: Duration::from_millis(300), requests: MOST };
    closed_loop(system, bench.clock, CONNECTIONS, &warm_up, &mut reads)?;
    let limits = Limits { duration: bench.duration, requests: MOST };
    let outcome = closed_loop(system, bench.clock, CONNECTIONS, &limits, &mut reads)?;
    Ok(closed_loop_row(case, outcome, Counted::REQUESTS))
}

struct Reads {
    requests: Vec<Vec<u8>>,
    next: usize,
    /// Events in each answer.
    expected: usize,
}

impl Workload for Reads {
    fn next(&mut self, _connection: usize, _nanos: u64) -> &[u8] {
        self.next = (self.next + 1) % self.requests.len();
        &self.requests[self.next]
    }

    fn check(&mut self, _connection: usize, body: &[u8]) -> Option<String> {
        let found = memmem::find_iter(body, b"\"event_name\":").count();
        (found != self.expected).then(|| format!("{found} events in an answer instead of {}", self.expected))
    }
}
