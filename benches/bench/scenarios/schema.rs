use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use ::event_handler::domain::schema::Schema;

use crate::Bench;
use crate::peers::Subject;
use crate::report::Row;

/// Payloads that are judged between two looks at the clock.
const AT_A_TIME: u32 = 20;

/// Schemas and values of properties, taken in turn.
const PROPERTIES: [(&str, &str); 5] = [
    (r#"{"type":"string","minLength":1,"maxLength":64}"#, r#""a text of a few words""#),
    (r#"{"type":"integer","minimum":0,"maximum":100000}"#, "1250"),
    (r#"{"enum":["open","closed","settled"]}"#, r#""closed""#),
    (r#"{"type":["string","null"]}"#, "null"),
    (r#"{"type":"boolean"}"#, "true"),
];

pub fn run(bench: &Bench, _: &Subject) -> io::Result<Vec<Row>> {
    [20, 500].into_iter().map(|properties| measure(properties, bench.duration / 4)).collect()
}

/// Judges a valid payload, in the server's own code but without a server.
fn measure(properties: usize, duration: Duration) -> io::Result<Row> {
    let join = |one: fn(usize) -> String| (0..properties).map(one).collect::<Vec<_>>().join(",");
    let schemas = join(|at| format!(r#""property_{at}":{}"#, PROPERTIES[at % PROPERTIES.len()].0));
    let required = join(|at| format!(r#""property_{at}""#));
    let payload = format!("{{{}}}", join(|at| format!(r#""property_{at}":{}"#, PROPERTIES[at % PROPERTIES.len()].1)));
    let schema = format!(r#"{{"type":"object","properties":{{{schemas}}},"required":[{required}]}}"#);
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
