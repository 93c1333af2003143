use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};

use super::deliver::{Settings, service};
use crate::Bench;
use crate::load::sink::Sink;
use crate::load::{Latencies, Meter, requests};
use crate::peers::Subject;
use crate::report::Row;
use crate::system::System;

const BATCH: u64 = 1_000;
/// Sagas of one measurement, for each second of it.
const SAGAS_PER_SECOND: f64 = 2_000.0;
/// Without a call for so long, a measurement is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// Replies of which the latency is measured.
const REPLIES: u64 = 300;

/// An instance that is copied has this value.
const COPIED: u64 = BATCH - 1;

/// The services that the three calls go to.
const SERVICES: [&str; 3] = ["s", "t", "u"];

const SAGAS: &str = r#"
[orchestration]
max_instances = 10000000

[[sagas]]
name = "three"
version = 1
trigger = { event = "three" }
correlation = "/n"
steps = [
    { name = "a", call = { service = "s", path = "/a", body = { n = "${trigger.payload.n}" } } },
    { name = "b", call = { service = "t", path = "/b", body = { n = "${trigger.payload.n}" } } },
    { name = "c", call = { service = "u", path = "/c", body = { n = "${trigger.payload.n}" } } },
]

[[sagas]]
name = "awaits"
version = 1
trigger = { event = "awaits" }
correlation = "/n"
steps = [
    { name = "a", wait = "1ms", await = { event = "reply", correlation = "/n", timeout = "1d" } },
    { name = "b", call = { service = "s", path = "/b" } },
]
"#;

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let directory = bench.scratch("sagas")?;
    let sagas = (bench.duration.as_secs_f64() * SAGAS_PER_SECOND) as u64;
    let sagas = sagas.next_multiple_of(BATCH);
    let sink = Sink::start()?;
    let store = subject.is_sqlite().then(|| directory.path().join("events.db"));
    let mut rows = vec![wide(bench, subject, &sink, directory.path(), sagas)?];
    let mut system = start(bench, subject, &sink, directory.path(), store.as_deref())?;
    rows.push(three_steps("3 steps", &system, &sink, sagas)?);
    rows.push(replies("a reply", &system, &sink, 0)?);
    rows.push(idle(&system, "none wait")?);
    let waiting = if bench.is_quick() || store.is_none() { 10_000 } else { 1_000_000 };
    match &store {
        Some(store) => {
            system.kill()?;
            copy(store, waiting)?;
            system = start(bench, subject, &sink, directory.path(), Some(store))?;
        }
        None => make(system.addr, "awaits", BATCH..BATCH + waiting)?,
    }
    await_state(&system, "waiting", waiting)?;
    rows.push(three_steps(&format!("3 steps, {waiting} wait"), &system, &sink, sagas)?);
    rows.push(replies(&format!("a reply, {waiting} wait"), &system, &sink, 2 * BATCH)?);
    rows.push(idle(&system, &format!("{waiting} wait"))?);
    drop(system);
    if subject.is_sqlite() {
        rows.push(recovery(bench, subject)?);
    }
    Ok(rows)
}

fn start(bench: &Bench, subject: &Subject, sink: &Sink, directory: &Path, store: Option<&Path>) -> io::Result<System> {
    let more = store.map(|store| ("DATABASE_URL".to_owned(), format!("sqlite:{}", store.display())));
    start_with(bench, subject, sink, directory, more.into_iter().collect())
}

fn start_with(bench: &Bench, subject: &Subject, sink: &Sink, directory: &Path, more: Settings) -> io::Result<System> {
    let config = directory.join("sagas.toml");
    std::fs::write(&config, SAGAS)?;
    let mut settings: Settings = SERVICES.iter().flat_map(|name| service(name, sink, "nothing")).collect();
    settings.push(("EVENT_HANDLER_CONFIG".to_owned(), config.display().to_string()));
    settings.extend(more);
    subject.start_with(bench, &settings)
}

/// Of services that each take 64 requests at a time, instead of 16.
fn wide(bench: &Bench, subject: &Subject, sink: &Sink, directory: &Path, sagas: u64) -> io::Result<Row> {
    let more =
        SERVICES.map(|name| (format!("EVENT_HANDLER__SERVICES__{}__CONCURRENCY", name.to_uppercase()), "64".into()));
    let system = start_with(bench, subject, sink, directory, more.into())?;
    three_steps("3 steps, 64 calls at a time", &system, sink, sagas)
}

/// From the first trigger to the last call, once the server has warmed up.
fn three_steps(case: &str, system: &System, sink: &Sink, sagas: u64) -> io::Result<Row> {
    run_all(system, sink, 2 * BATCH)?;
    let meter = Meter::start(system)?;
    run_all(system, sink, sagas)?;
    let cost = meter.stop()?;
    Ok(Row::new(case, Vec::new())
        .figure("sagas/s", cost.per_second(sagas))
        .figure("CPU µs/saga", cost.server_micros_per(sagas))
        .figures(cost.busy()))
}

fn run_all(system: &System, sink: &Sink, sagas: u64) -> io::Result<()> {
    let before = sink.taken();
    // Not the values of others.
    let first = before * 1_000;
    let mut made = 0;
    await_taken(sink, before + 3 * sagas, || {
        let begun = (sink.taken() - before) / 3;
        if made < sagas && made < begun + 2 * BATCH {
            make(system.addr, "three", first + made..first + made + BATCH)?;
            made += BATCH;
        }
        Ok(())
    })
}

/// From the publish of a reply to the call that follows, one after the other.
fn replies(case: &str, system: &System, sink: &Sink, first: u64) -> io::Result<Row> {
    if first == 0 {
        make(system.addr, "awaits", 0..BATCH)?;
        await_state(system, "waiting", BATCH)?;
    }
    let mut latencies = Latencies::default();
    for n in first..first + REPLIES {
        let before = sink.taken();
        let began = Instant::now();
        publish(system.addr, &format!(r#"[{{"event_name":"reply","payload":{{"n":{n}}}}}]"#))?;
        while sink.taken() == before {
            if began.elapsed() > SILENCE {
                return Err(io::Error::other(format!("no call after reply {n}")));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        latencies.record(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    let [p50, p99] = latencies.quantiles([0.5, 0.99]);
    Ok(Row::new(case, Vec::new()).figure("p50 ms", p50).figure("p99 ms", p99))
}

fn idle(system: &System, case: &str) -> io::Result<Row> {
    std::thread::sleep(Duration::from_secs(2));
    let meter = Meter::start(system)?;
    std::thread::sleep(Duration::from_secs(4));
    let cost = meter.stop()?;
    Ok(Row::new(case, Vec::new())
        .figures(cost.busy())
        .figure("resident MB", system.server_usage()?.resident as f64 / 1e6))
}

/// From the start after a kill to the first call of an instance that waited.
fn recovery(bench: &Bench, subject: &Subject) -> io::Result<Row> {
    let directory = bench.scratch("sagas-recovery")?;
    let store = directory.path().join("events.db");
    let waiting = if bench.is_quick() { 10_000 } else { 100_000 };
    let sink = Sink::start()?;
    let mut system = start(bench, subject, &sink, directory.path(), Some(&store))?;
    make(system.addr, "awaits", COPIED..BATCH)?;
    await_state(&system, "waiting", 1)?;
    system.kill()?;
    copy(&store, waiting)?;
    drop(system);
    let began = Instant::now();
    let system = start(bench, subject, &sink, directory.path(), Some(&store))?;
    publish(system.addr, r#"[{"event_name":"reply","payload":{"n":1007}}]"#)?;
    await_taken(&sink, 1, || Ok(()))?;
    Ok(Row::new(format!("restart, {waiting} live"), Vec::new())
        .figure("ms to the first call", began.elapsed().as_secs_f64() * 1e3)
        .figure("ms to /health", system.started_in.as_secs_f64() * 1e3))
}

/// Writes so many more instances to the file of a server that has ended: copies of one that waits, with other values.
fn copy(store: &Path, count: u64) -> io::Result<()> {
    let sql = format!(
        r#"PRAGMA synchronous = OFF;
        BEGIN;
        CREATE TEMP TABLE one AS SELECT * FROM sagas WHERE saga = 'awaits' AND correlation = '{COPIED}';
        CREATE TEMP TABLE facts AS SELECT * FROM saga_journal WHERE id = (SELECT id FROM one) ORDER BY n;
        CREATE TEMP TABLE made AS WITH RECURSIVE made (value) AS
            (SELECT {BATCH} UNION ALL SELECT value + 1 FROM made WHERE value + 1 < {BATCH} + {count})
            SELECT value, substr((SELECT id FROM one), 1, 24) || printf('%012x', value) AS id FROM made;
        INSERT INTO sagas SELECT made.id, saga, version, value, replace(trigger, '"n":{COPIED}', '"n":' || value),
            made_at, start_key, state, holds, paused, started_at, updated_at, due_at, ended_at, length
            FROM made CROSS JOIN one;
        INSERT INTO saga_journal SELECT made.id, n, at, fact FROM made CROSS JOIN facts;
        UPDATE saga_counts SET count = count + {count} WHERE saga = 'awaits' AND state = (SELECT state FROM one);
        COMMIT;"#
    );
    let mut connection = SqliteConnection::establish(&store.display().to_string()).map_err(io::Error::other)?;
    connection.batch_execute(&sql).map_err(io::Error::other)
}

fn make(addr: SocketAddr, name: &str, values: std::ops::Range<u64>) -> io::Result<()> {
    let mut from = values.start;
    while from < values.end {
        let to = values.end.min(from + BATCH);
        let mut body = String::from("[");
        for n in from..to {
            let separator = if n == from { "" } else { "," };
            write!(body, r#"{separator}{{"event_name":"{name}","payload":{{"n":{n}}}}}"#)
                .expect("invariant: writing to a String does not fail");
        }
        body.push(']');
        publish(addr, &body)?;
        from = to;
    }
    Ok(())
}

fn publish(addr: SocketAddr, batch: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(&requests::post(addr, "/publish/batch", batch.as_bytes()))?;
    let mut answer = [0; 4096];
    let count = stream.read(&mut answer)?;
    let is_taken = answer[..count].starts_with(b"HTTP/1.1 200");
    let refused = || io::Error::other(format!("not published: {}", String::from_utf8_lossy(&answer[..count])));
    is_taken.then_some(()).ok_or_else(refused)
}

/// Until so many instances are in a state.
fn await_state(system: &System, state: &str, count: u64) -> io::Result<()> {
    let series = format!("event_handler_sagas{{saga=\"awaits\",state=\"{state}\"}} ");
    let (mut last, mut since) = (0.0, Instant::now());
    loop {
        let mut stream = TcpStream::connect(system.addr)?;
        stream.write_all(
            format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", system.addr).as_bytes(),
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let found = answer.lines().find_map(|line| line.strip_prefix(&series)?.trim().parse::<f64>().ok());
        let found = found.unwrap_or(0.0);
        if found >= count as f64 {
            return Ok(());
        }
        if found != last {
            (last, since) = (found, Instant::now());
        }
        if since.elapsed() > SILENCE {
            return Err(io::Error::other(format!("{found} instances are {state}, and no more for {SILENCE:?}")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Until the service has taken `count`; calls `meanwhile` now and then.
fn await_taken(sink: &Sink, count: u64, mut meanwhile: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        meanwhile()?;
        let taken = sink.taken();
        if taken >= count {
            return Ok(());
        }
        if taken != last {
            (last, since) = (taken, Instant::now());
        }
        if since.elapsed() > SILENCE {
            return Err(io::Error::other(format!("{taken} calls, and then none for {SILENCE:?}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
