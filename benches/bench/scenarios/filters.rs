use std::io;
use std::net::TcpStream;
use std::time::Duration;

use crate::Bench;
use crate::load::fan_out::{Audience, Pacing, Plan};
use crate::load::requests::{self, Stamped};
use crate::peers::Subject;
use crate::report::Row;
use crate::system::System;

const PAYLOAD: usize = 150;
const MOST: u64 = 200_000;
const SIZES: [usize; 3] = [1, 100, 10_000];

/// The fields of a request that tell the subscriber at a place from the others.
type Fields = fn(usize) -> String;

/// Each event is for the one at 0.
const KINDS: [(&str, Fields); 4] = [
    ("no filter, own name", |at| format!(r#""event_name":"bench.f{at}""#)),
    ("own value", |at| format!(r#""event_name":"bench.f0","filter":{{"user":["u{at}-x"]}}"#)),
    ("own prefix", |at| format!(r#""event_name":"bench.f0","filter":{{"user":[{{"prefix":"u{at}-"}}]}}"#)),
    ("own range", |at| format!(r#""event_name":"bench.f0","filter":{{"amount":[{{"numeric":[">",{at}]}}]}}"#)),
];

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (kind, which) in KINDS {
        let system = subject.start(bench)?;
        let request = request(&system);
        // They stay, so that each size adds to the one before.
        let mut others: Vec<TcpStream> = Vec::new();
        let subscription = |at: usize| {
            let mut subscription = system.subscription(&[]);
            subscription.requests = vec![format!(r#"{{"action":"subscribe","id":1,{}}}"#, which(at))];
            subscription
        };
        let mut concerned = Audience::gather(&subscription(0), 1)?;
        for size in SIZES {
            while others.len() + 1 < size {
                others.push(subscription(others.len() + 1).open(None)?);
            }
            let pacing = Pacing::Outstanding(16);
            let mut plan = Plan { publishers: 16, pacing, duration: Duration::from_millis(500), events: MOST };
            concerned.publish(&system, bench.clock, &plan, &request)?;
            plan.duration = bench.duration;
            let outcome = concerned.publish(&system, bench.clock, &plan, &request)?;
            let events = outcome.delivered;
            let [p50, p99] = outcome.latencies.quantiles([0.5, 0.99]);
            rows.push(
                Row::new(format!("{size} subscribers, {kind}"), outcome.faults)
                    .figure("events/s", outcome.cost.per_second(events))
                    .figure("p50 ms", p50)
                    .figure("p99 ms", p99)
                    .figure("CPU µs/event", outcome.cost.server_micros_per(events))
                    .figures(outcome.cost.busy()),
            );
        }
    }
    Ok(rows)
}

fn request(system: &System) -> Stamped {
    let payload = requests::payload(PAYLOAD).replacen('{', r#"{"user":"u0-x","amount":0.5,"#, 1);
    let body = format!(r#"{{"event_name":"bench.f0","payload":{payload}}}"#);
    Stamped::new(requests::post(system.addr, "/publish", body.as_bytes()))
}
