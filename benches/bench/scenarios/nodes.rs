//! Several nodes on one PostgreSQL: what they store together, and how soon one replaces another.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::deliver::{Publisher, service};
use super::publish;
use crate::Bench;
use crate::load::Latencies;
use crate::load::sink::Sink;
use crate::peers::Subject;
use crate::report::Row;
use crate::system::System;

const MOST_NODES: usize = 3;
const TAKE_OVERS: usize = 20;
const ADMIN_TOKEN: &str = "token-of-the-bench";
/// Without a delivery for so long, a node is not replaced at all.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for count in 1..=MOST_NODES {
        let mut nodes = subject.start_nodes(bench, count, &[])?;
        let Some(mut system) = nodes.pop() else { continue };
        system.join(nodes);
        rows.push(publish::measure(bench, &system, 64)?.prefix(&format!("{count} nodes: ")));
    }
    rows.push(take_over(bench, subject)?);
    Ok(rows)
}

/// A node is killed; until another one delivers.
fn take_over(bench: &Bench, subject: &Subject) -> io::Result<Row> {
    let (mut latencies, mut worst) = (Latencies::default(), Duration::ZERO);
    for _ in 0..if bench.is_quick() { 1 } else { TAKE_OVERS } {
        let took = replaced_in(bench, subject)?;
        latencies.record(took.as_nanos() as u64);
        worst = worst.max(took);
    }
    let [median] = latencies.quantiles([0.5]);
    Ok(Row::new("a killed node is replaced", Vec::new())
        .figure("median ms", median)
        .figure("worst ms", worst.as_secs_f64() * 1e3))
}

fn replaced_in(bench: &Bench, subject: &Subject) -> io::Result<Duration> {
    let sink = Sink::start()?;
    let mut settings = service("s", &sink, "live.>");
    settings.push(("ADMIN_TOKEN".to_owned(), ADMIN_TOKEN.to_owned()));
    let mut nodes = subject.start_nodes(bench, MOST_NODES, &settings)?;
    let holder = until("somebody delivers", || holder(&nodes))?;
    let survivor = nodes[(holder + 1) % MOST_NODES].addr;
    let mut publisher = Publisher::to(survivor, |_| "live.k".to_owned())?;
    publisher.publish()?;
    until("it delivers", || Ok((sink.taken() > 0).then_some(())))?;
    nodes[holder].kill()?;
    let (began, taken) = (Instant::now(), sink.taken());
    publisher.publish()?;
    until("another one delivers", || Ok((sink.taken() > taken).then_some(())))?;
    Ok(began.elapsed())
}

fn until<T>(what: &str, mut look: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("not within {PATIENCE:?}: {what}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Which of the nodes holds the service, once all of them are members.
fn holder(nodes: &[System]) -> io::Result<Option<usize>> {
    let mut stream = TcpStream::connect(nodes[0].addr)?;
    let head = format!("Host: localhost\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nConnection: close\r\n\r\n");
    write!(stream, "GET /admin/nodes HTTP/1.1\r\n{head}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body: Value =
        answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok()).unwrap_or_default();
    let Some(known) = body["data"].as_array().filter(|known| known.len() == nodes.len()) else { return Ok(None) };
    let holds =
        |node: &&Value| node["holds"].as_array().is_some_and(|held| held.iter().any(|lease| lease == "service:s"));
    let name = known.iter().find(holds).and_then(|node| node["name"].as_str());
    let port = name.and_then(|name| name.rsplit_once(':')?.1.parse::<u16>().ok());
    Ok(nodes.iter().position(|node| Some(node.addr.port()) == port))
}
