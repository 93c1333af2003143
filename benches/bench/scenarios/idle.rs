use std::io;
use std::time::Duration;

use crate::Bench;
use crate::load::fan_out::Audience;
use crate::load::ws::Subscription;
use crate::peers::Subject;
use crate::report::Row;
use crate::system::System;

const SOCKETS: usize = 5_000;
const SETTLE: Duration = Duration::from_secs(2);

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let mut rows = vec![measure(bench, subject, "sockets", |system| system.subscription(&["bench.idle"]))?];
    if subject.is_event_handler() {
        rows.push(measure(bench, subject, "SSE sockets", |system| system.event_stream("bench.idle"))?);
    }
    Ok(rows)
}

fn measure(
    bench: &Bench,
    subject: &Subject,
    kind: &str,
    subscription: impl FnOnce(&System) -> Subscription,
) -> io::Result<Row> {
    let system = subject.start(bench)?;
    std::thread::sleep(SETTLE);
    let before = system.usage()?;
    let mut audience = Audience::gather(&subscription(&system), SOCKETS)?;
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
    Ok(Row::new(format!("{SOCKETS} {kind}"), faults)
        .figure("KB/socket", grown / 1024.0 / SOCKETS as f64)
        .figure("resident MB before", before.resident as f64 / 1e6)
        .figure("resident MB", after.resident as f64 / 1e6)
        .figure("CPU %", 100.0 * cpu.as_secs_f64() / bench.duration.as_secs_f64()))
}
