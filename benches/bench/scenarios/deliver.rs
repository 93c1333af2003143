use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::Bench;
use crate::load::sink::Sink;
use crate::load::{Meter, requests};
use crate::peers::Subject;
use crate::report::Row;
use crate::system::System;

const BATCH: u64 = 1_000;
const PAYLOAD: usize = 200;
/// Events of one measurement, for each second of it.
const EVENTS_PER_SECOND: f64 = 10_000.0;
/// Without a delivery for so long, a measurement is given up.
const SILENCE: Duration = Duration::from_secs(30);

pub fn run(bench: &Bench, subject: &Subject) -> io::Result<Vec<Row>> {
    let seconds = bench.duration.as_secs_f64();
    let events = ((seconds * EVENTS_PER_SECOND) as u64).next_multiple_of(BATCH);
    let mut rows = vec![to_services(bench, subject, 1, events)?, to_services(bench, subject, 4, events)?];
    rows.push(beside_a_dead_one(bench, subject, events)?);
    rows.push(after_an_outage(bench, subject)?);
    Ok(rows)
}

/// From the first publish to the last answer of a service.
fn to_services(bench: &Bench, subject: &Subject, services: usize, events: u64) -> io::Result<Row> {
    let sinks = (0..services).map(|_| Sink::start()).collect::<io::Result<Vec<_>>>()?;
    let system = subject.start_with(bench, &of_all(&sinks))?;
    measure(&format!("to {services} of {services} services"), &system, &sinks, events)
}

/// The same, while a great many wait for a service that is down.
fn beside_a_dead_one(bench: &Bench, subject: &Subject, events: u64) -> io::Result<Row> {
    let waiting = if bench.is_quick() { 20_000 } else { 1_000_000 };
    let (dead, sink) = (Sink::start()?, Sink::start()?);
    dead.set_down(true);
    let mut settings = of_all(std::slice::from_ref(&sink));
    settings.extend(service("dead", &dead, "history.>"));
    let system = subject.start_with(bench, &settings)?;
    publish(system.addr, "history.k", waiting)?;
    measure(&format!("to 1 service, {waiting} wait for another"), &system, &[sink], events)
}

/// How long it takes until a service has what came while it was down.
fn after_an_outage(bench: &Bench, subject: &Subject) -> io::Result<Row> {
    let waiting = if bench.is_quick() { 5_000 } else { 100_000 };
    let sink = Sink::start()?;
    sink.set_down(true);
    let system = subject.start_with(bench, &of_all(std::slice::from_ref(&sink)))?;
    publish(system.addr, "live.k", waiting)?;
    sink.set_down(false);
    let (meter, began) = (Meter::start(&system)?, Instant::now());
    await_taken(std::slice::from_ref(&sink), waiting, || Ok(()))?;
    let recovered_in = began.elapsed().as_secs_f64();
    let cost = meter.stop()?;
    Ok(Row::new(format!("after an outage, {waiting} waiting"), Vec::new())
        .figure("deliveries/s", cost.per_second(waiting))
        .figure("CPU µs/delivery", cost.server_micros_per(waiting))
        .figure("seconds", recovered_in)
        .figures(cost.busy()))
}

fn measure(case: &str, system: &System, sinks: &[Sink], events: u64) -> io::Result<Row> {
    publish(system.addr, "live.k", BATCH)?;
    await_taken(sinks, BATCH, || Ok(()))?;
    let meter = Meter::start(system)?;
    let mut publisher = Publisher::connect(system.addr, "live.k")?;
    let mut published = 0;
    // Ahead of the deliveries, but not by much: what is measured is both at a time.
    await_taken(sinks, BATCH + events, || {
        let behind = sinks.iter().map(Sink::taken).min().unwrap_or(0);
        if published < events && published < behind + 4 * BATCH {
            publisher.publish()?;
            published += BATCH;
        }
        Ok(())
    })?;
    let cost = meter.stop()?;
    let deliveries = events * sinks.len() as u64;
    Ok(Row::new(case, Vec::new())
        .figure("deliveries/s", cost.per_second(deliveries))
        .figure("CPU µs/delivery", cost.server_micros_per(deliveries))
        .figures(cost.busy()))
}

/// Until every service has taken `count`; calls `meanwhile` now and then.
fn await_taken(sinks: &[Sink], count: u64, mut meanwhile: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        meanwhile()?;
        let taken: u64 = sinks.iter().map(Sink::taken).sum();
        if sinks.iter().all(|sink| sink.taken() >= count) {
            return Ok(());
        }
        if taken != last {
            (last, since) = (taken, Instant::now());
        }
        if since.elapsed() > SILENCE {
            return Err(io::Error::other(format!("{taken} deliveries, and then none for {SILENCE:?}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn publish(addr: SocketAddr, name: &str, events: u64) -> io::Result<()> {
    let mut publisher = Publisher::connect(addr, name)?;
    (0..events / BATCH).try_for_each(|_| publisher.publish())
}

/// Publishes a batch, and waits until it is committed.
pub struct Publisher {
    stream: TcpStream,
    request: Vec<u8>,
}

impl Publisher {
    fn connect(addr: SocketAddr, name: &str) -> io::Result<Self> {
        Self::to(addr, |index| format!("{name}{}", index % 100))
    }

    /// `name`: of the event at this place of a batch.
    pub fn to(addr: SocketAddr, name: impl Fn(u64) -> String) -> io::Result<Self> {
        let payload = requests::payload(PAYLOAD);
        let mut body = String::from("[");
        for index in 0..BATCH {
            let separator = if index == 0 { "" } else { "," };
            write!(body, r#"{separator}{{"event_name":"{}","payload":{payload}}}"#, name(index))
                .expect("invariant: writing to a String does not fail");
        }
        body.push(']');
        let request = requests::post(addr, "/publish/batch", body.as_bytes());
        Ok(Self { stream: TcpStream::connect(addr)?, request })
    }

    pub fn publish(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.request)?;
        let mut answer = [0; 4096];
        let count = self.stream.read(&mut answer)?;
        let is_taken = answer[..count].starts_with(b"HTTP/1.1 200");
        is_taken
            .then_some(())
            .ok_or_else(|| io::Error::other(format!("not published: {}", String::from_utf8_lossy(&answer[..count]))))
    }
}

pub type Settings = Vec<(String, String)>;

fn of_all(sinks: &[Sink]) -> Settings {
    let services = sinks.iter().enumerate();
    services.flat_map(|(number, sink)| service(&format!("s{number}"), sink, "live.>")).collect()
}

pub fn service(name: &str, sink: &Sink, route: &str) -> Settings {
    let upper = name.to_uppercase();
    vec![
        (format!("EVENT_HANDLER__SERVICES__{upper}__URL"), format!("http://{}", sink.addr)),
        (format!("EVENT_HANDLER__SERVICES__{upper}__ROUTES"), route.to_owned()),
    ]
}
