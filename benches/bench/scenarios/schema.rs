use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use ::event_handler::domain::schema::Schema;

use crate::Bench;
use crate::load::http::{Limits, Workload, closed_loop};
use crate::load::requests;
use crate::peers::Subject;
use crate::report::Row;

/// Payloads that are judged between two looks at the clock.
const AT_A_TIME: u32 = 20;
const SIZES: [usize; 2] = [20, 500];
/// Measurements with a type and without one.
const ROUNDS: usize = 6;

/// Schemas and values of properties, taken in turn.
const PROPERTIES: [(&str, &str); 5] = [
    (r#"{"type":"string","minLength":1,"maxLength":64}"#, r#""a text of a few words""#),
    (r#"{"type":"integer","minimum":0,"maximum":100000}"#, "1250"),
    (r#"{"enum":["open","closed","settled"]}"#, r#""closed""#),
    (r#"{"type":["string","null"]}"#, "null"),
    (r#"{"type":"boolean"}"#, "true"),
];

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for properties in SIZES {
        rows.push(judge(properties, bench.duration / 4)?);
    }
    for properties in SIZES {
        rows.push(publish(bench, subject, properties)?);
    }
    Ok(rows)
}

/// The schema of a payload of so many properties, and the payload.
fn schema_and_payload(properties: usize) -> (String, String) {
    let join = |one: fn(usize) -> String| (0..properties).map(one).collect::<Vec<_>>().join(",");
    let schemas = join(|at| format!(r#""property_{at}":{}"#, PROPERTIES[at % PROPERTIES.len()].0));
    let required = join(|at| format!(r#""property_{at}""#));
    let payload = format!("{{{}}}", join(|at| format!(r#""property_{at}":{}"#, PROPERTIES[at % PROPERTIES.len()].1)));
    (format!(r#"{{"type":"object","properties":{{{schemas}}},"required":[{required}]}}"#), payload)
}

/// Publishes the same payload with a name that has no type, and with one that has, in turn.
fn publish(bench: &Bench, subject: &Subject, properties: usize) -> io::Result<Row> {
    let (schema, payload) = schema_and_payload(properties);
    let directory = bench.scratch("schema")?;
    let (config, types) = (directory.path().join("schema.toml"), directory.path().join("event-types"));
    std::fs::write(&config, "")?;
    std::fs::create_dir(&types)?;
    std::fs::write(types.join("typed.json"), format!(r#"{{"name":"bench.typed","schema":{schema}}}"#))?;
    let settings = [("EVENT_HANDLER_CONFIG".to_owned(), config.display().to_string())];
    let system = subject.start_with(bench, &settings)?;
    let request = |name: &str, payload: &str| {
        let body = format!(r#"{{"event_name":"{name}","payload":{payload}}}"#);
        Publish(requests::post(system.addr, "/publish", body.as_bytes()))
    };
    let one = Limits { duration: bench.duration, requests: 1 };
    let refused = closed_loop(&system, bench.clock, 1, &one, &mut request("bench.typed", "{}"))?;
    if refused.faults.is_empty() {
        return Err(io::Error::other("the type is not enforced"));
    }
    let limits = Limits { duration: bench.duration / 4, requests: 1_000_000 };
    let (mut faults, mut cpu, mut answered) = (Vec::new(), [0.0; 2], [0; 2]);
    for round in 0..=ROUNDS {
        for (at, name) in ["bench.plain", "bench.typed"].into_iter().enumerate() {
            let outcome = closed_loop(&system, bench.clock, 64, &limits, &mut request(name, &payload))?;
            faults.extend(outcome.faults);
            // The first round warms up.
            if round > 0 {
                cpu[at] += outcome.cost.server_cpu.as_secs_f64() * 1e6;
                answered[at] += outcome.answered;
            }
        }
    }
    let [plain, typed] = [0, 1].map(|at| cpu[at] / answered[at] as f64);
    Ok(Row::new(format!("publish of {properties} properties"), faults)
        .figure("CPU µs without a type", plain)
        .figure("CPU µs enforced", typed)
        .figure("µs more", typed - plain))
}

struct Publish(Vec<u8>);

impl Workload for Publish {
    fn next(&mut self, _connection: usize, _nanos: u64) -> &[u8] {
        &self.0
    }
}

/// Judges a valid payload, in the server's own code but without a server.
fn judge(properties: usize, duration: Duration) -> io::Result<Row> {
    let (schema, payload) = schema_and_payload(properties);
    let schema = Schema::compile(&schema).map_err(|invalid| io::Error::other(invalid.message))?;
    schema.judge(&payload).map_err(|refusal| io::Error::other(format!("{refusal:?}")))?;
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < duration {
        let begin = Instant::now();
        for _ in 0..AT_A_TIME {
            let _ = black_box(schema.judge(black_box(&payload)));
        }
        times.push(begin.elapsed().as_secs_f64() * 1e6 / f64::from(AT_A_TIME));
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(Row::new(format!("{properties} properties, {} bytes", payload.len()), Vec::new())
        .figure("median µs", times[times.len() / 2])
        .figure("min µs", times[0]))
}
