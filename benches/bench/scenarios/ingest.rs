//! Events that come by a stream of Redis.

use std::io;
use std::time::{Duration, Instant};

use ::redis::{Client, Cmd, Connection};
use tungstenite::Message;

use crate::Bench;
use crate::load::{Latencies, Meter, requests};
use crate::peers::Subject;
use crate::peers::redis;
use crate::proc::Process;
use crate::report::Row;

const STREAM: &str = "events:in";
const PAYLOAD: usize = 200;
const PIPELINE: u64 = 1_000;
const SILENCE: Duration = Duration::from_secs(30);

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    Ok(vec![backlog(bench, subject)?, latency(bench, subject)?])
}

/// Entries that have waited for the server.
fn backlog(bench: &Bench, subject: &Subject) -> io::Result<Row> {
    let count = if bench.is_quick() { 20_000 } else { 600_000 };
    let (_redis, url) = start(bench)?;
    let (mut client, entry) = (connect(&url)?, entry());
    for _ in 0..count / PIPELINE {
        let mut pipe = ::redis::pipe();
        for _ in 0..PIPELINE {
            pipe.add_command(entry.clone()).ignore();
        }
        pipe.query::<()>(&mut client).map_err(io::Error::other)?;
    }
    let system = subject.start_with(bench, &settings(&url))?;
    let left =
        |client: &mut Connection| ::redis::cmd("XLEN").arg(STREAM).query::<u64>(client).map_err(io::Error::other);
    // From a moment at which it reads, to one at which the most are stored.
    let waited = Instant::now();
    let from = loop {
        let left = left(&mut client)?;
        if left < count {
            break left;
        }
        if waited.elapsed() > SILENCE {
            return Err(io::Error::other("nothing is read"));
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let meter = Meter::start(&system)?;
    let mut to = from;
    while to > count / 20 {
        std::thread::sleep(Duration::from_millis(5));
        to = left(&mut client)?;
    }
    let cost = meter.stop()?;
    let events = from - to;
    Ok(Row::new(format!("{count} entries that have waited"), Vec::new())
        .figure("events/s", cost.per_second(events))
        .figure("CPU µs/event", cost.server_micros_per(events))
        .figures(cost.busy()))
}

/// From `XADD` to the frame at a WebSocket, one at a time.
fn latency(bench: &Bench, subject: &Subject) -> io::Result<Row> {
    let (_redis, url) = start(bench)?;
    let system = subject.start_with(bench, &settings(&url))?;
    let mut client = connect(&url)?;
    let stream = std::net::TcpStream::connect(system.addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    let at = format!("ws://{}/ws", system.addr);
    let (mut socket, _) = tungstenite::client(at, stream).map_err(|error| io::Error::other(error.to_string()))?;
    let subscribe = r#"{"action":"subscribe","event_name":"bench.ingest","id":1}"#;
    socket.send(Message::text(subscribe)).map_err(io::Error::other)?;
    socket.read().map_err(io::Error::other)?;
    let mut latencies = Latencies::default();
    let begin = Instant::now();
    let mut count = 0;
    while begin.elapsed() < bench.duration {
        let sent = Instant::now();
        entry().query::<String>(&mut client).map_err(io::Error::other)?;
        while !socket.read().map_err(io::Error::other)?.is_text() {}
        if count > 10 {
            latencies.record(sent.elapsed().as_nanos() as u64);
        }
        count += 1;
    }
    let [p50, p99] = latencies.quantiles([0.5, 0.99]);
    Ok(Row::new("XADD to WebSocket, one at a time", Vec::new()).figure("p50 ms", p50).figure("p99 ms", p99))
}

fn start(bench: &Bench) -> io::Result<(Process, String)> {
    redis::start(bench)?.ok_or_else(|| io::Error::other(format!("redis is not installed ({})", redis::INSTALL)))
}

/// What the server is told of it.
fn settings(url: &str) -> Vec<(String, String)> {
    vec![("REDIS_URL".to_owned(), url.to_owned())]
}

fn entry() -> Cmd {
    let payload = requests::payload(PAYLOAD);
    let mut entry = ::redis::cmd("XADD");
    entry.arg(&[STREAM, "*", "event_name", "bench.ingest", "payload", &payload]);
    entry
}

fn connect(url: &str) -> io::Result<Connection> {
    Client::open(url).and_then(|client| client.get_connection()).map_err(io::Error::other)
}
