use std::io;
use std::time::Duration;

use crate::Bench;
use crate::load::fan_out::{Audience, Outcome, Pacing, Plan};
use crate::peers::Subject;
use crate::report::Row;

const PAYLOAD: usize = 200;
const MOST: u64 = 200_000;

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let system = subject.start(bench)?;
    let request = system.publish_request("bench.fan", PAYLOAD);
    let mut kinds = vec![("subscribers", system.subscription(&["bench.fan"]))];
    if subject.is_event_handler() {
        kinds.push(("SSE subscribers", system.event_stream("bench.fan")));
    }
    let mut rows = Vec::new();
    for ((kind, subscription), size) in kinds.iter().flat_map(|kind| [1, 100, 1_000, 5_000].map(|size| (kind, size))) {
        let mut audience = Audience::gather(subscription, size)?;
        for publishers in [1, 16] {
            let pacing = Pacing::Outstanding(publishers);
            let mut plan =
                Plan { publishers: publishers as usize, pacing, duration: Duration::from_millis(500), events: MOST };
            audience.publish(&system, bench.clock, &plan, &request)?;
            plan.duration = bench.duration;
            let outcome = audience.publish(&system, bench.clock, &plan, &request)?;
            rows.push(row(format!("{size} {kind}, {publishers} at a time"), outcome));
        }
    }
    Ok(rows)
}

/// The figures of a fan-out.
pub fn row(case: impl Into<String>, outcome: Outcome) -> Row {
    let [p50, p99, longest] = outcome.latencies.quantiles([0.5, 0.99, 1.0]);
    Row::new(case, outcome.faults)
        .figure("deliveries/s", outcome.cost.per_second(outcome.delivered))
        .figure("p50 ms", p50)
        .figure("p99 ms", p99)
        .figure("max ms", longest)
        .figure("CPU µs/delivery", outcome.cost.server_micros_per(outcome.delivered))
        .figures(outcome.cost.busy())
}
