use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::deliver::service;
use crate::Bench;
use crate::load::Meter;
use crate::load::sink::Sink;
use crate::peers::Subject;
use crate::report::Row;
use crate::system::System;

const TOKEN: &str = "a-token-of-the-benchmark-that-is-long-enough";
/// What the overview asks for besides its stream, and how often.
const ASKED: [&str; 5] =
    ["/health/ready", "/sagas?state=needs_operator&limit=100", "/admin/sync", "/admin/nodes", "/system"];
const EVERY: Duration = Duration::from_secs(15);
/// Two of those rounds.
const MEASURED: Duration = Duration::from_secs(30);
/// How long a reader waits before it looks whether it is over.
const TURN: Duration = Duration::from_millis(200);

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let sink = Sink::start()?;
    let mut settings = service("s", &sink, "nothing");
    settings.push(("ADMIN_TOKEN".to_owned(), TOKEN.to_owned()));
    let system = subject.start_with(bench, &settings)?;
    [0, 1, 50].into_iter().map(|pages| at_rest(&system, pages)).collect()
}

/// Pages that show the overview of a server that does nothing else.
fn at_rest(system: &System, pages: u32) -> io::Result<Row> {
    let (is_over, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let open = |_| {
        let (addr, is_over, received) = (system.addr, Arc::clone(&is_over), Arc::clone(&received));
        thread::spawn(move || look(addr, &is_over, &received))
    };
    let readers: Vec<_> = (0..pages).map(open).collect();
    // What a page is told at first is no part of its rest.
    thread::sleep(2 * TURN);
    let before = received.load(Ordering::Relaxed);
    let meter = Meter::start(system)?;
    thread::sleep(MEASURED);
    let cost = meter.stop()?;
    let bytes = received.load(Ordering::Relaxed) - before;
    is_over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().map_err(|_| io::Error::other("a page has panicked"))??;
    }
    let each = bytes as f64 / cost.wall.as_secs_f64() / f64::from(pages.max(1));
    Ok(Row::new(format!("{pages} pages at rest"), Vec::new()).figures(cost.busy()).figure("KB/s a page", each / 1e3))
}

/// One page: counts what comes by its stream and its questions.
fn look(addr: SocketAddr, is_over: &AtomicBool, received: &AtomicU64) -> io::Result<()> {
    let mut stream = ask(addr, "/admin/samples")?;
    let mut asked_at = Instant::now();
    let mut buffer = [0; 16 * 1024];
    while !is_over.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::Error::other("the stream of samples has ended")),
            Ok(count) => {
                received.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if asked_at.elapsed() >= EVERY {
            asked_at = Instant::now();
            for target in ASKED {
                let mut answer = Vec::new();
                ask(addr, target)?.read_to_end(&mut answer)?;
                received.fetch_add(answer.len() as u64, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

fn ask(addr: SocketAddr, target: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr)?;
    let connection = if target == "/admin/samples" { "keep-alive" } else { "close" };
    stream.write_all(
        format!(
            "GET {target} HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: {connection}\r\n\r\n"
        )
        .as_bytes(),
    )?;
    let patience = if target == "/admin/samples" { TURN } else { EVERY };
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}
