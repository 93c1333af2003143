use std::io;
use std::time::Duration;

use crate::Bench;
use crate::load::fan_out::Audience;
use crate::peers::Subject;
use crate::report::Row;

const SOCKETS: usize = 5_000;
const SETTLE: Duration = Duration::from_secs(2);

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let system = subject.start(bench)?;
    std::thread::sleep(SETTLE);
    let before = system.usage()?;
    let mut audience = Audience::gather(&system.subscription(&["bench.idle"]), SOCKETS)?;
    audience.idle(bench.clock, SETTLE)?;
    let connected = system.usage()?;
    audience.idle(bench.clock, bench.duration)?;
    let after = system.usage()?;
    let mut faults = Vec::new();
    if audience.closed() > 0 {
        faults.push(format!("CLOSED {} of {SOCKETS} idle sockets", audience.closed()));
    }
    let grown = after.resident.saturating_sub(before.resident) as f64;
    let cpu = after.cpu.saturating_sub(connected.cpu);
    Ok(vec![
        Row::new(format!("{SOCKETS} sockets"), faults)
            .figure("KB/socket", grown / 1024.0 / SOCKETS as f64)
            .figure("resident MB before", before.resident as f64 / 1e6)
            .figure("resident MB", after.resident as f64 / 1e6)
            .figure("CPU %", 100.0 * cpu.as_secs_f64() / bench.duration.as_secs_f64()),
    ])
}
