//! Entities: changes on a condition, watchers, snapshots and digests.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use memchr::memmem;
use mio::{Events, Interest, Poll, Token};

use super::{Counted, closed_loop_row};
use crate::Bench;
use crate::load::Meter;
use crate::load::fan_out::{Audience, Pacing, Plan};
use crate::load::http::{Limits, Workload, closed_loop};
use crate::load::requests::{self, Stamped};
use crate::load::ws::{Subscriber, Wire, request_frame};
use crate::peers::Subject;
use crate::report::Row;
use crate::system::System;

const VALUE: usize = 200;
const MOST: u64 = 2_000_000;
const WATCHERS: usize = 1_000;
const SILENCE: Duration = Duration::from_secs(20);

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let system = subject.start(bench)?;
    let mut rows = Vec::new();
    for connections in [64, 256] {
        let mut puts = Puts::new(system.addr, connections);
        let case = format!("PUT with If-Match, {connections} connections");
        rows.push(measure(bench, &system, case, (connections, Counted::CHANGES), &mut puts)?);
    }
    let mut batches = Batches::new(system.addr, Start::Versions);
    let each = Counted { per_answer: Batches::ENTITIES as u64, ..Counted::CHANGES };
    rows.push(measure(
        bench,
        &system,
        "batches of 1,000 with expected_version",
        (Batches::CONNECTIONS, each),
        &mut batches,
    )?);
    if !subject.is_postgres() {
        rows.extend(watch(bench, &system)?);
    }
    let system = subject.start(bench)?;
    rows.extend(many(bench, &system)?);
    Ok(rows)
}

impl Counted {
    const CHANGES: Self = Self { per_answer: 1, rate: "per second", cpu: "CPU µs each" };
}

fn measure(
    bench: &Bench,
    system: &System,
    case: impl Into<String>,
    (connections, each): (usize, Counted),
    workload: &mut impl Workload,
) -> io::Result<Row> {
    let warm_up = Limits { duration: Duration::from_millis(500), requests: MOST };
    closed_loop(system, bench.clock, connections, &warm_up, workload)?;
    let limits = Limits { duration: bench.duration, requests: MOST };
    let outcome = closed_loop(system, bench.clock, connections, &limits, workload)?;
    Ok(closed_loop_row(case, outcome, each))
}

/// The whole number after `key`.
fn number_after(body: &[u8], key: &[u8]) -> Option<u64> {
    let digits = &body[memmem::find(body, key)? + key.len()..];
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// Each connection changes an entity of its own, on condition that it has the version of its last answer.
struct Puts {
    addr: SocketAddr,
    value: String,
    versions: Vec<u64>,
    request: Vec<u8>,
}

impl Puts {
    fn new(addr: SocketAddr, connections: usize) -> Self {
        Self { addr, value: requests::payload(VALUE), versions: vec![0; connections], request: Vec::new() }
    }
}

impl Workload for Puts {
    fn next(&mut self, connection: usize, _nanos: u64) -> &[u8] {
        let Self { addr, value, versions, request } = self;
        let all = versions.len();
        let condition = match versions[connection] {
            0 => String::new(),
            version => format!("If-Match: \"{version}\"\r\n"),
        };
        request.clear();
        write!(
            request,
            "PUT /state/bench{all}/k{connection} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\n{condition}\
             Content-Length: {}\r\n\r\n{value}",
            value.len()
        )
        .expect("invariant: writing to a Vec does not fail");
        request
    }

    fn check(&mut self, connection: usize, body: &[u8]) -> Option<String> {
        match number_after(body, b"\"version\":") {
            Some(version) => {
                self.versions[connection] = version;
                None
            }
            None => Some(format!("no version: {}", String::from_utf8_lossy(body))),
        }
    }
}

/// What the entities of a batch are expected to have.
enum Start {
    /// The versions of the last answer, over and over.
    Versions,
    /// Nothing: each batch makes new ones.
    New,
}

/// Each connection changes entities of its own, 1,000 at a time.
struct Batches {
    addr: SocketAddr,
    value: String,
    start: Start,
    versions: Vec<Vec<u64>>,
    /// Batches sent on all connections.
    sent: usize,
    request: Vec<u8>,
}

impl Batches {
    const ENTITIES: usize = 1_000;
    const CONNECTIONS: usize = 4;

    fn new(addr: SocketAddr, start: Start) -> Self {
        let versions = vec![vec![0; Self::ENTITIES]; Self::CONNECTIONS];
        Self { addr, value: requests::payload(VALUE), start, versions, sent: 0, request: Vec::new() }
    }
}

impl Workload for Batches {
    fn next(&mut self, connection: usize, _nanos: u64) -> &[u8] {
        let Self { addr, value, start, versions, sent, request } = self;
        let mut body = String::with_capacity(Self::ENTITIES * 400);
        for (index, version) in versions[connection].iter().enumerate() {
            let separator = if index == 0 { '[' } else { ',' };
            let (kind, key) = match start {
                Start::Versions => ("batch", connection * Self::ENTITIES + index),
                Start::New => ("many", *sent * Self::ENTITIES + index),
            };
            write!(
                body,
                r#"{separator}{{"event_name":"bench.c{connection}","payload":1,"entity":{{"type":"{kind}","key":"k{key}","value":{value},"expected_version":{version}}}}}"#
            )
            .expect("invariant: writing to a String does not fail");
        }
        body.push(']');
        *sent += 1;
        *request = requests::post(*addr, "/publish/batch", body.as_bytes());
        request
    }

    fn check(&mut self, connection: usize, body: &[u8]) -> Option<String> {
        let versions = || {
            let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
            let versions = answer["data"]["entity_versions"].as_array()?.iter();
            Some(versions.filter_map(serde_json::Value::as_u64).collect::<Vec<_>>())
        };
        match versions() {
            Some(versions) if versions.len() == Self::ENTITIES => {
                if matches!(self.start, Start::Versions) {
                    self.versions[connection] = versions;
                }
                None
            }
            _ => Some(format!("no versions: {}", String::from_utf8_lossy(&body[..body.len().min(200)]))),
        }
    }
}

/// The same events to the same audience, once as plain ones and once as changes of an entity.
fn watch(bench: &Bench, system: &System) -> io::Result<Vec<Row>> {
    let value = requests::payload(VALUE);
    let change = requests::put(system.addr, "/state/watched/k", value.as_bytes());
    let cases = [
        ("plain events", "bench.plain", system.publish_request("bench.plain", VALUE)),
        ("changes", "state.watched.changed", Stamped::new(change)),
    ];
    let mut rows = Vec::new();
    for (case, name, request) in cases {
        let mut audience = Audience::gather(&system.subscription(&[name]), WATCHERS)?;
        let pacing = Pacing::Outstanding(16);
        let mut plan = Plan { publishers: 16, pacing, duration: Duration::from_millis(500), events: MOST };
        audience.publish(system, bench.clock, &plan, &request)?;
        plan.duration = bench.duration;
        let outcome = audience.publish(system, bench.clock, &plan, &request)?;
        let [p50, p99] = outcome.latencies.quantiles([0.5, 0.99]);
        let row = Row::new(format!("{WATCHERS} watchers of {case}, 16 at a time"), outcome.faults)
            .figure("per second", outcome.cost.per_second(outcome.delivered))
            .figure("p50 ms", p50)
            .figure("p99 ms", p99)
            .figure("CPU µs each", outcome.cost.server_micros_per(outcome.delivered));
        rows.push(row.figures(outcome.cost.busy()));
    }
    Ok(rows)
}

/// Snapshots and digests of many entities.
fn many(bench: &Bench, system: &System) -> io::Result<Vec<Row>> {
    let batches: u64 = if bench.is_quick() { 20 } else { 1_000 };
    let count = batches * Batches::ENTITIES as u64;
    let limits = Limits { duration: Duration::from_secs(900), requests: batches };
    let mut filling = Batches::new(system.addr, Start::New);
    let outcome = closed_loop(system, bench.clock, Batches::CONNECTIONS, &limits, &mut filling)?;
    let each = Counted { per_answer: Batches::ENTITIES as u64, ..Counted::CHANGES };
    let mut rows = vec![closed_loop_row(format!("{count} new entities in batches of 1,000"), outcome, each)];
    rows.push(snapshot(bench, system, count)?);
    for (case, target) in [
        ("digest", "/state/many/digest".to_owned()),
        ("digest as of 10,000 changes ago", format!("/state/many/digest?as_of={}", 2 * count - 20_000)),
    ] {
        let mut digests = Digests { request: requests::get(system.addr, &target), count };
        let limits = Limits { duration: bench.duration, requests: MOST };
        let outcome = closed_loop(system, bench.clock, 1, &limits, &mut digests)?;
        rows.push(closed_loop_row(format!("{case} of {count} entities"), outcome, Counted::CHANGES));
    }
    Ok(rows)
}

/// One client takes a snapshot of everything.
fn snapshot(bench: &Bench, system: &System, count: u64) -> io::Result<Row> {
    let stream = system.subscription(&[]).open(None)?;
    let mut client = Subscriber::new(stream, Wire::WebSocket, false)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut client.stream, Token(0), Interest::READABLE)?;
    let request = r#"{"action":"subscribe","event_name":"state.many.changed","snapshot":true,"id":1}"#;
    let mut buffer = vec![0; 256 * 1024];
    let mut events = Events::with_capacity(16);
    let before = system.server_usage()?.resident;
    let (mut most, mut looked_at, mut heard_at) = (before, Instant::now(), Instant::now());
    let meter = Meter::start(system)?;
    client.stream.write_all(&request_frame(request))?;
    // The last one says that it was all.
    while client.count <= count {
        let had = client.count;
        poll.poll(&mut events, Some(SILENCE))?;
        client.receive(&mut buffer, bench.clock)?;
        if client.count > had {
            heard_at = Instant::now();
        } else if client.closed.is_some() || heard_at.elapsed() >= SILENCE {
            let (had, code) = (client.count, client.closed);
            return Err(io::Error::other(format!(
                "the snapshot ends after {had} of {count} entities, closed: {code:?}"
            )));
        }
        if looked_at.elapsed() >= Duration::from_millis(50) {
            most = most.max(system.server_usage()?.resident);
            looked_at = Instant::now();
        }
    }
    let cost = meter.stop()?;
    let row =
        Row::new(format!("snapshot of {count} entities"), Vec::new()).figure("per second", cost.per_second(count));
    let row = row.figure("p50 ms", f64::NAN).figure("p99 ms", f64::NAN);
    let row = row.figure("CPU µs each", cost.server_micros_per(count)).figures(cost.busy());
    Ok(row.figure("MB more", most.saturating_sub(before) as f64 / 1e6))
}

struct Digests {
    request: Vec<u8>,
    /// Entities that it is over.
    count: u64,
}

impl Workload for Digests {
    fn next(&mut self, _connection: usize, _nanos: u64) -> &[u8] {
        &self.request
    }

    fn check(&mut self, _connection: usize, body: &[u8]) -> Option<String> {
        let found = number_after(body, b"\"count\":");
        // As of an earlier event there were fewer.
        found.is_none_or(|found| found > self.count).then(|| format!("a digest of {found:?} entities"))
    }
}
