use std::io;
use std::time::Duration;

use crate::Bench;
use crate::peers::Subject;
use crate::report::Row;
use crate::system::System;

const STARTS: usize = 7;
const SETTLE: Duration = Duration::from_secs(1);

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let history = bench.stores.filled(bench, subject, bench.history)?;
    Ok(vec![
        measure("new store", || subject.start(bench))?,
        measure(&format!("{} events", bench.history), || subject.start_on(bench, &history))?,
    ])
}

/// The median, least and most of several starts.
fn measure(case: &str, start: impl Fn() -> io::Result<System>) -> io::Result<Row> {
    let mut times = Vec::with_capacity(STARTS);
    for _ in 1..STARTS {
        times.push(start()?.started_in);
    }
    let system = start()?;
    times.push(system.started_in);
    times.sort_unstable();
    std::thread::sleep(SETTLE);
    let usage = system.server_usage()?;
    let millis = |index: usize| times[index].as_secs_f64() * 1e3;
    Ok(Row::new(case, Vec::new())
        .figure("median ms", millis(STARTS / 2))
        .figure("min ms", millis(0))
        .figure("max ms", millis(STARTS - 1))
        .figure("resident MB", usage.resident as f64 / 1e6)
        .figure("threads", usage.threads as f64))
}
