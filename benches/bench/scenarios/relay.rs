use std::io;
use std::time::Duration;

use super::fan_out;
use crate::Bench;
use crate::load::fan_out::{Audience, Pacing, Plan};
use crate::peers::Subject;
use crate::report::Row;

const PAYLOAD: usize = 200;
const MOST: u64 = 200_000;
/// Until both nodes know each other, and hear of each other's commits.
const SETTLE: Duration = Duration::from_secs(3);
/// Little, so that latencies are those of one event.
const PER_SECOND: u32 = 100;

/// Publishes to one of two nodes; the subscriber is at the other one, or for comparison at the same.
pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (way, with_redis) in [("by redis", true), ("by notifications", false)] {
        let Some([one, other]) = subject.start_two(bench, with_redis)? else { continue };
        std::thread::sleep(SETTLE);
        let request = one.publish_request("bench.relay", PAYLOAD);
        for (at, system) in [("the same node", &one), ("another node", &other)] {
            let mut audience = Audience::gather(&system.subscription(&["bench.relay"]), 1)?;
            let pacing = Pacing::PerSecond(PER_SECOND);
            let mut plan = Plan { publishers: 4, pacing, duration: Duration::from_millis(500), events: MOST };
            audience.publish(&one, bench.clock, &plan, &request)?;
            plan.duration = bench.duration;
            let outcome = audience.publish(&one, bench.clock, &plan, &request)?;
            rows.push(fan_out::row(format!("{way}, a subscriber at {at}"), outcome));
        }
    }
    Ok(rows)
}
