use std::io;
use std::time::Duration;

use super::fan_out::row;
use crate::Bench;
use crate::load::fan_out::{Audience, Pacing, Plan, Stalled};
use crate::load::http::{Limits, Workload, closed_loop};
use crate::load::requests::Stamped;
use crate::peers::Subject;
use crate::report::Row;
use crate::system::System;

const SUBSCRIBERS: usize = 1_000;
const RATE: u32 = 50;
const PAYLOAD: usize = 200;
/// What only the stalled subscriber gets: more than sockets and queues hold on the way to it.
const FLOOD_EVENTS: u64 = 400;
const FLOOD_PAYLOAD: usize = 60_000;
/// What the flood leaves to do, a checkpoint of the store for one, is over by then.
const SETTLE: Duration = Duration::from_secs(1);

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let system = subject.start(bench)?;
    let mut audience = Audience::gather(&system.subscription(&["bench.fan"]), SUBSCRIBERS)?;
    let request = system.publish_request("bench.fan", PAYLOAD);
    let mut measure = |duration| {
        let plan = Plan { publishers: 16, pacing: Pacing::PerSecond(RATE), duration, events: u64::MAX };
        audience.publish(&system, bench.clock, &plan, &request)
    };
    measure(Duration::from_millis(500))?;
    // Both cases come after the same flood, so that they differ only in who was to get it.
    flood(bench, &system)?;
    let before = row("all read", measure(bench.duration)?).figure("resident MB", resident(&system)?);
    let _stalled = Stalled::join(&system.subscription(&["bench.fan", "bench.flood"]))?;
    flood(bench, &system)?;
    let after = row("one stalled", measure(bench.duration)?).figure("resident MB", resident(&system)?);
    Ok(vec![before, after])
}

fn resident(system: &System) -> io::Result<f64> {
    Ok(system.server_usage()?.resident as f64 / 1e6)
}

fn flood(bench: &Bench, system: &System) -> io::Result<()> {
    let limits = Limits { duration: Duration::from_secs(60), requests: FLOOD_EVENTS };
    let mut flood = Flood { request: system.publish_request("bench.flood", FLOOD_PAYLOAD), number: 0 };
    let outcome = closed_loop(system, bench.clock, 4, &limits, &mut flood)?;
    match outcome.faults.first() {
        None => {
            std::thread::sleep(SETTLE);
            Ok(())
        }
        Some(fault) => Err(io::Error::other(format!("cannot flood the stalled subscriber: {fault}"))),
    }
}

struct Flood {
    request: Stamped,
    number: u64,
}

impl Workload for Flood {
    fn next(&mut self, _connection: usize, nanos: u64) -> &[u8] {
        self.number += 1;
        self.request.fill(nanos, self.number)
    }
}
