use std::io;

use super::deliver::Publisher;
use crate::Bench;
use crate::load::recovery::{Outcome, Plan, Returners};
use crate::peers::Subject;
use crate::report::Row;
use crate::system::System;

const PAYLOAD: usize = 200;
const BATCHES: u64 = 100;
const BATCH: u64 = 1_000;
/// Publishes a second while they all come back.
const RATE: u32 = 50;

#[derive(Clone, Copy)]
struct Case {
    clients: usize,
    /// Events that each of them has missed.
    missed: u64,
    /// Publishes meanwhile.
    per_second: u32,
}

const CASES: [Case; 3] = [
    Case { clients: 1, missed: 100_000, per_second: 0 },
    Case { clients: 1_000, missed: 2_000, per_second: 0 },
    Case { clients: 5_000, missed: 10_000, per_second: RATE },
];

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let system = subject.start(bench)?;
    let mut publisher = Publisher::to(system.addr, |_| "bench.resume".to_owned())?;
    let mut log_end = 0;
    for _ in 0..BATCHES {
        publisher.publish()?;
        log_end += BATCH;
    }
    let mut rows = Vec::new();
    for case in CASES {
        let outcome = recover(bench, &system, case, log_end - case.missed)?;
        log_end += outcome.accepted;
        rows.push(row(case, outcome));
    }
    Ok(rows)
}

/// `clients` come back to position `after`, and get `missed` events and what comes meanwhile.
fn recover(bench: &Bench, system: &System, case: Case, after: u64) -> io::Result<Outcome> {
    let Case { clients, missed, per_second } = case;
    let returners = Returners::connect(&system.subscription(&[]), clients)?;
    let request = format!(r#"{{"action":"subscribe","id":1,"event_name":"bench.resume","after":{after}}}"#);
    let publish = system.publish_request("bench.resume", PAYLOAD);
    returners.recover(system, bench.clock, Plan { request: &request, missed, per_second, publish })
}

fn row(case: Case, outcome: Outcome) -> Row {
    let Case { clients, missed, per_second } = case;
    let meanwhile = if per_second > 0 { format!(", {per_second} publishes/s meanwhile") } else { String::new() };
    let seconds = outcome.cost.wall.as_secs_f64();
    let row = Row::new(format!("{clients} clients miss {missed} events{meanwhile}"), outcome.faults)
        .figure("events/s", outcome.cost.per_second(outcome.delivered))
        .figure("seconds", seconds)
        .figure("CPU µs/event", outcome.cost.server_micros_per(outcome.delivered));
    let [p50, p99] = outcome.publishes.quantiles([0.5, 0.99]);
    let row = if per_second > 0 { row.figure("publish p50 ms", p50).figure("publish p99 ms", p99) } else { row };
    row.figures(outcome.cost.busy())
}
