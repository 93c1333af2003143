//! What is measured. Each scenario starts its own server, loads it, and hands back rows of figures.

mod batch;
mod deliver;
mod durable;
mod fan_out;
mod filters;
mod history;
mod idle;
mod ingest;
mod nodes;
mod page;
mod publish;
mod relay;
mod resume;
mod sagas;
mod schema;
mod stall;
mod start;
mod state;
mod store;

use std::io;

pub use store::Stores;

use crate::Bench;
use crate::load::http::Outcome;
use crate::peers::Subject;
use crate::report::Row;

pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    pub takes: fn(&Subject) -> bool,
    pub run: fn(&Bench, &Subject) -> io::Result<Vec<Row>>,
}

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "publish",
        about: "single publishes, each answered once it is kept; closed loop",
        takes: |_| true,
        run: publish::run,
    },
    Scenario {
        name: "batch",
        about: "publishes of 1,000 events at once on 4 connections; closed loop",
        takes: Subject::is_event_handler,
        run: batch::run,
    },
    Scenario {
        name: "deliver",
        about: "events to downstream services, everything stored before and after; 200-byte payloads",
        takes: Subject::is_event_handler,
        run: deliver::run,
    },
    Scenario {
        name: "durable",
        about: "events through a durable subscription, stored before, and acknowledged and that stored after",
        takes: Subject::is_event_handler,
        run: durable::run,
    },
    Scenario {
        name: "ingest",
        about: "events that come by a stream of Redis",
        takes: Subject::is_event_handler,
        run: ingest::run,
    },
    Scenario {
        name: "nodes",
        about: "1, 2 and 3 nodes on one PostgreSQL: publishes, and how soon a killed one is replaced",
        takes: Subject::is_postgres,
        run: nodes::run,
    },
    Scenario {
        name: "fan-out",
        about: "200-byte events to many WebSockets and SSE clients; 1 or 16 events on their way at a time",
        takes: |subject| !subject.is_postgres(),
        run: fan_out::run,
    },
    Scenario {
        name: "filters",
        about: "events for one of many subscribers, told apart by their filters",
        takes: Subject::is_sqlite,
        run: filters::run,
    },
    Scenario {
        name: "idle",
        about: "memory of silent WebSockets and SSE clients with one subscription each",
        takes: |subject| !subject.is_postgres(),
        run: idle::run,
    },
    Scenario {
        name: "page",
        about: "operators' pages that show the overview of a server at rest",
        takes: Subject::is_sqlite,
        run: page::run,
    },
    Scenario {
        name: "relay",
        about: "200-byte events from one of two nodes on one PostgreSQL to a subscriber of the other, 100 a second",
        takes: Subject::is_postgres,
        run: relay::run,
    },
    Scenario {
        name: "resume",
        about: "clients that come back and ask for what they missed, up to 5,000 at once while publishing goes on",
        takes: Subject::is_sqlite,
        run: resume::run,
    },
    Scenario {
        name: "sagas",
        about: "sagas of three calls, replies that are awaited, and many instances that wait",
        takes: Subject::is_event_handler,
        run: sagas::run,
    },
    Scenario {
        name: "schema",
        about: "payloads judged by a schema, in the server's own code without a server",
        takes: Subject::is_sqlite,
        run: schema::run,
    },
    Scenario {
        name: "stall",
        about: "1,000 WebSockets at 50 events/s, without and with one more that never reads",
        takes: |subject| !subject.is_postgres(),
        run: stall::run,
    },
    Scenario {
        name: "start",
        about: "from the start of the process to the first answer of /health",
        takes: Subject::is_sqlite,
        run: start::run,
    },
    Scenario {
        name: "state",
        about: "entities: changes on a condition, watchers, snapshots and digests; 200-byte values",
        takes: Subject::is_event_handler,
        run: state::run,
    },
    Scenario {
        name: "history",
        about: "publish and read rates on a small and on a large store",
        takes: Subject::is_sqlite,
        run: history::run,
    },
];

/// The figures of a closed loop; `each` names what is counted, `per_answer` how many of it an answer stands for.
fn closed_loop_row(case: impl Into<String>, outcome: Outcome, each: Counted) -> Row {
    let count = outcome.answered * each.per_answer;
    let [p50, p99] = outcome.latencies.quantiles([0.5, 0.99]);
    Row::new(case, outcome.faults)
        .figure(each.rate, outcome.cost.per_second(count))
        .figure("p50 ms", p50)
        .figure("p99 ms", p99)
        .figure(each.cpu, outcome.cost.server_micros_per(count))
        .figures(outcome.cost.busy())
}

struct Counted {
    per_answer: u64,
    rate: &'static str,
    cpu: &'static str,
}

impl Counted {
    const REQUESTS: Self = Self { per_answer: 1, rate: "requests/s", cpu: "CPU µs/request" };

    fn events(per_answer: u64) -> Self {
        Self { per_answer, rate: "events/s", cpu: "CPU µs/event" }
    }
}
